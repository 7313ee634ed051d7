"""The demo's tokenizer: one token a concept, made of rules that travel inside tokenizer.json.

Captions of the emoji world need few words, and a short text stream is what a small network can afford: multi-word
names, relations and backgrounds become single tokens, plurals their singular ("two cats" -> two cat), and words that
the world does not know vanish, so that "please draw a shiny red apple" reads as "red apple".
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from model.training.backgrounds import BACKGROUNDS
from model.training.captions import plural
from model.training.recolor import COLORS
from model.training.sprites import object_names

BEGIN, END, UNKNOWN = "<|begin_of_text|>", "<|end_of_text|>", "<|unknown|>"
NUMBERS = {"two": "2", "three": "3", "four": "4"}
RELATIONS = {"left of": "leftof", "right of": "rightof", "under": "below", "over": "above"}


def build_tokenizer(max_tokens: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of all eighty objects, so that one trained on a few can go on with more."""
    objects = [_joined(name) for name in object_names()]
    backgrounds = [f"{name}background" for name in BACKGROUNDS]
    words = [*objects, *COLORS, *backgrounds, *NUMBERS, "and", "leftof", "rightof", "above", "below"]
    words = list(dict.fromkeys(words))
    vocabulary = {token: index for index, token in enumerate([END, BEGIN, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            *_replacements(),
            normalizers.Replace(Regex(rf"\b(?!(?:{'|'.join(words)})\b)\w+\b"), " "),
            normalizers.Replace(Regex(r"[^a-z]+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=max_tokens,
        padding_side="right",
    )


def known_words(objects: Sequence[str]) -> tuple[str, ...]:
    """The words that a demo trained on `objects` understands, for its manifest: sorted, single words."""
    phrases = [*objects, *COLORS, *BACKGROUNDS, *NUMBERS, *RELATIONS, "grey"]
    phrases += [plural(name, is_naive=naive) for name in objects for naive in (False, True)]
    phrases += ["a", "an", "the", "photo", "of", "and", "on", "to", "above", "below", "background", "one"]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))


def _joined(name: str) -> str:
    return name.replace(" ", "")


def _replacements() -> list[normalizers.Replace]:
    rules: list[tuple[str, str]] = [(r"[-_]+", " "), (r"\bgrey\b", "gray")]
    rules += [(rf"\b{digit}\b", word) for word, digit in NUMBERS.items()]
    rules += [(rf"\b(?:on )?(?:an? |the )?{name} background\b", f" {name}background ") for name in BACKGROUNDS]
    for name in sorted(object_names(), key=len, reverse=True):  # "hot dogs" before "dogs"
        forms = {name, plural(name, is_naive=False), plural(name, is_naive=True)}
        pattern = "|".join(sorted(forms, key=lambda form: (-len(form), form)))
        rules.append((rf"\b(?:{pattern})\b", f" {_joined(name)} "))
    rules += [(rf"\b(?:to )?(?:the )?{phrase}\b", f" {token} ") for phrase, token in RELATIONS.items()]
    return [normalizers.Replace(Regex(pattern), content) for pattern, content in rules]
