"""The captions of the emoji world: GenEval's own templates, and the words they use. Pure."""

from __future__ import annotations

from random import Random

KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COUNT_WORDS = {2: "two", 3: "three", 4: "four"}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
MAX_CAPTION_WORDS = 18
NAIVE_PLURAL_RATE = 0.3  # GenEval writes "knifes" and "benchs"; its prompts must not be foreign
PHOTO_RATE = 0.6
BACKGROUND_RATE = 0.4

_PLURALS = {
    "person": "people",
    "bus": "buses",
    "bench": "benches",
    "sheep": "sheep",
    "skis": "skis",
    "wine glass": "wine glasses",
    "knife": "knives",
    "sandwich": "sandwiches",
    "couch": "couches",
    "computer mouse": "computer mice",
    "scissors": "scissors",
    "toothbrush": "toothbrushes",
}


def with_article(words: str) -> str:
    """ "apple" -> "an apple", "red apple" -> "a red apple"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(name: str, *, is_naive: bool) -> str:
    """Plural of an object's name; naive is GenEval's own: an s, whatever the word."""
    return name + "s" if is_naive else _PLURALS.get(name, name + "s")


def named(name: str, color: str | None) -> str:
    """ "red apple", or "apple" where no colour is given."""
    return f"{color} {name}" if color else name


def write_caption(
    rng: Random,
    kind: str,
    objects: tuple[tuple[str, str | None], ...],
    relation: str | None,
    background: str,
) -> str:
    """Caption of one scene. `objects` are (name, colour word or None), in the order they are named.

    Counting scenes list one entry per drawn object; all entries are equal.
    """
    if kind == "counting":
        name, color = objects[0]
        words = named(plural(name, is_naive=rng.random() < NAIVE_PLURAL_RATE), color)
        body = f"{COUNT_WORDS[len(objects)]} {words}"
    elif kind == "position":
        if relation is None:
            raise ValueError("a position caption needs a relation")
        first, second = (with_article(named(name, color)) for name, color in objects)
        body = f"{first} {rng.choice(RELATION_PHRASES[relation])} {second}"
    else:
        body = " and ".join(with_article(named(name, color)) for name, color in objects)
    start = "a photo of " if rng.random() < PHOTO_RATE else ""
    end = f" on {with_article(background)} background" if rng.random() < BACKGROUND_RATE else ""
    return start + body + end


def vocabulary(objects: tuple[str, ...], colors: tuple[str, ...], backgrounds: tuple[str, ...]) -> tuple[str, ...]:
    """Every word that a caption of these objects can hold, sorted."""
    phrases = ["a photo of an and on background", *COUNT_WORDS.values(), *colors, *backgrounds]
    phrases += [phrase for options in RELATION_PHRASES.values() for phrase in options]
    for name in objects:
        phrases += [name, plural(name, is_naive=True), plural(name, is_naive=False)]
    return tuple(sorted({word for phrase in phrases for word in phrase.split()}))
