"""Prompts: cleaned as published, encoded as published, cached within bounds."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from model import text
from model.errors import TextEncoderError, TruncatedFile
from model.text import TextEncoder, clean_prompt, unknown_words
from tests.support.tiny_bundle import TINY_CONFIG, TINY_LLAMA, write_tiny_bundle

CASES = json.loads((Path(__file__).parents[1] / "data" / "prompt_cleaning.json").read_text("utf-8"))
NUM_TOKENS, NUM_CHANNELS = TINY_CONFIG.num_text_tokens, TINY_CONFIG.caption_channels
EMBEDDING_BYTES = NUM_TOKENS * NUM_CHANNELS * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle")).parts.text_encoder


def load(folder, **options):
    return TextEncoder.load(folder, folder, num_tokens=NUM_TOKENS, num_channels=NUM_CHANNELS, **options)


@pytest.mark.parametrize("prompt", CASES)
def test_prompts_are_cleaned_as_published(prompt):
    assert clean_prompt(prompt) == CASES[prompt]


def test_without_cleaning_a_prompt_is_only_lowered_and_stripped():
    assert clean_prompt("  A <b>RED</b>  Apple #12 ", is_full=False) == "a <b>red</b>  apple #12"


@pytest.mark.parametrize(
    "prompt", ["<![CDATA[", "<!a", "<!--", "C:/cats/one.txt", "cat.jpg", "\0", "&#xffffffff;", "<" * 500]
)
def test_odd_prompts_neither_warn_nor_fail(prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(clean_prompt(prompt), str)


def test_an_embedding_is_what_the_published_pipeline_reads_off_the_whole_language_model(folder):
    prompts = ["a red apple", "", "a very long prompt that has to be cut off somewhere"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokens = tokenizer(prompts, padding="max_length", max_length=NUM_TOKENS, truncation=True, return_tensors="pt")
    assert tokens.input_ids[1].tolist() == [TINY_LLAMA["bos_token_id"]] + [TINY_LLAMA["eos_token_id"]] * (
        NUM_TOKENS - 1
    )
    whole = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = whole(**tokens, output_hidden_states=True).hidden_states[-1]
    actual = load(folder).encode(prompts)
    assert actual.shape == (3, NUM_TOKENS, NUM_CHANNELS)
    torch.testing.assert_close(actual, hidden)


def test_a_prompt_means_the_same_alone_and_in_company(folder):
    together = load(folder).encode(["a red apple", "", "two dogs"])
    alone = load(folder).encode(["a red apple"])
    torch.testing.assert_close(together[:1], alone)


def test_repeated_prompts_come_from_the_cache(folder):
    encoder = load(folder)
    first = encoder.encode(["a", "b", "a"])
    assert (encoder.num_misses, encoder.num_hits) == (2, 1)
    assert torch.equal(encoder.encode(["b", "a"]), first[[1, 0]])
    assert (encoder.num_misses, encoder.num_hits) == (2, 3)


def test_the_cache_forgets_the_least_recently_used(folder):
    encoder = load(folder, cache_bytes=2 * EMBEDDING_BYTES)
    encoder.encode(["a", "b"])
    encoder.encode(["a"])
    encoder.encode(["c"])  # drops b
    encoder.encode(["a", "c"])
    assert encoder.num_misses == 3
    encoder.encode(["b"])
    assert encoder.num_misses == 4


def test_the_cache_holds_a_bounded_number_of_prompts_however_small(folder, monkeypatch):
    monkeypatch.setattr(text, "MAX_CACHED_PROMPTS", 2)
    encoder = load(folder)
    encoder.encode(["a", "b"])
    encoder.encode(["c"])  # drops a
    encoder.encode(["b", "c"])
    assert encoder.num_misses == 3
    encoder.encode(["a"])
    assert encoder.num_misses == 4


def test_the_empty_prompt_is_encoded_once_and_never_forgotten(folder):
    encoder = load(folder, cache_bytes=0)
    encoder.encode([""])
    for prompt in "abc":
        encoder.encode(["", prompt])
    assert encoder.num_misses == 4
    assert encoder.num_hits == 3


def test_more_prompts_than_a_forward_takes_are_all_encoded(folder):
    prompts = [f"prompt {number}" for number in range(70)]
    embeddings = load(folder).encode(prompts)
    torch.testing.assert_close(embeddings[69], load(folder).encode(prompts[69:])[0])


def test_words_outside_the_vocabulary_are_named_once_and_in_order():
    vocabulary = ("a", "photo", "of", "Apple", "red")
    assert unknown_words("A photo of a blue apple, a red zebra and a blue dog's car", vocabulary) == (
        "blue",
        "zebra",
        "and",
        "dog's",
        "car",
    )
    assert unknown_words("anything at all", None) == ()


def test_half_a_surrogate_pair_is_a_clear_error(folder):
    with pytest.raises(TextEncoderError, match="can't be read as text"):
        load(folder).encode(["\ud800"])


def test_an_untied_head_is_left_unread_without_a_word(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(TINY_LLAMA, "tie_word_embeddings", False)
    untied = write_tiny_bundle(tmp_path).parts.text_encoder
    load(untied)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_encoder_is_called_truncated(tmp_path):
    folder = write_tiny_bundle(tmp_path).parts.text_encoder
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TruncatedFile):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "missing keys"),
        ({"num_hidden_layers": 1}, "unexpected keys"),
        ({"intermediate_size": 32}, "can't be loaded|mismatched keys"),
        ({"model_type": "gpt2"}, "llama"),
        ({"hidden_size": "wide"}, "can't be loaded"),
    ],
)
def test_an_encoder_that_contradicts_its_configuration_is_refused(tmp_path, changes, said):
    folder = write_tiny_bundle(tmp_path).parts.text_encoder
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(TextEncoderError, match=said):
        load(folder)


def test_an_encoder_of_another_width_is_refused(folder):
    with pytest.raises(TextEncoderError, match="32 wide, the network reads 2048"):
        TextEncoder.load(folder, folder, num_tokens=NUM_TOKENS, num_channels=2048)


def test_a_tokenizer_larger_than_the_encoder_is_refused(tmp_path):
    folder = write_tiny_bundle(tmp_path).parts.text_encoder
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"] |= {f"extra{number}": 300 + number for number in range(10)}
    path.write_text(json.dumps(values))
    with pytest.raises(TextEncoderError, match="the encoder knows 260"):
        load(folder)


def test_a_missing_tokenizer_is_a_clear_error(folder, tmp_path):
    with pytest.raises(TextEncoderError, match="can't be loaded"):
        TextEncoder.load(folder, tmp_path, num_tokens=NUM_TOKENS, num_channels=NUM_CHANNELS)
