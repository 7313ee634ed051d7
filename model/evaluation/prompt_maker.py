"""Makes the fixed prompt files in data/: run `python -m model.evaluation.prompt_maker` to write them again.

GenEval's templates, tasks and proportions over the emoji world's objects; every choice spread as evenly as it goes.
Only colours that pass the world's strict check are asked for. Needs the sprites' renderer; reading the files does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, permutations, product
from pathlib import Path
from random import Random

from model.evaluation.prompts import TASKS, PromptEntry, Wanted, entry_line
from model.training.captions import COUNT_WORDS, named, plural, with_article
from model.training.layouts import RELATIONS
from model.training.sprites import SpriteSheet, object_names
from model.training.world import is_held_out_color, is_held_out_pair

DATA = Path(__file__).parent / "data"
SMALL_WORLD = (
    "apple",
    "banana",
    "orange",
    "pizza",
    "donut",
    "car",
    "bus",
    "boat",
    "umbrella",
    "clock",
    "teddy bear",
    "cat",
)
# GenEval's published file: 553 prompts.
NUM_TEST_PROMPTS = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
# The same proportions of 120.
NUM_TUNING_PROMPTS = {
    "single_object": 17,
    "two_object": 21,
    "counting": 17,
    "colors": 21,
    "position": 22,
    "color_attr": 22,
}
HELD_OUT_SHARE = 0.12  # of the prompts of each task that can have them
# Sides of the sprites in worlds of 128 and 256 px: which colours pass the check depends a little on the size.
SPRITE_SIDES_PX = (192, 384)
_POOL_SIZE = 2000
_NUM_COMPARED = 250

Part = tuple[str, object]


@dataclass(frozen=True, slots=True)
class _World:
    """What prompts may name: objects, and for each the colours that it may have."""

    objects: tuple[str, ...]
    colors: Mapping[str, tuple[str, ...]]

    @property
    def colored(self) -> tuple[tuple[str, str], ...]:
        # As in GenEval, nobody is asked for a red person.
        return tuple((name, color) for name in self.objects if name != "person" for color in self.colors[name])


def prompt_files(objects: Sequence[str]) -> dict[str, str]:
    """Text of the two fixed files over these objects, by their names."""
    world = _World(tuple(objects), _faithful_colors(objects))
    test = _make(world, f"test/{len(objects)}", NUM_TEST_PROMPTS, HELD_OUT_SHARE, frozenset())
    # Held-out combinations are for the score alone: settings are chosen on what training shows.
    tested = frozenset(entry.prompt for entry in test)
    tuning = _make(world, f"tuning/{len(objects)}", NUM_TUNING_PROMPTS, 0.0, tested)
    return {
        f"{kind}_{len(objects)}.jsonl": "".join(f"{entry_line(entry)}\n" for entry in entries)
        for kind, entries in (("emoji", test), ("tuning", tuning))
    }


def _faithful_colors(objects: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The colours in which an object passes the strict check at every size."""
    first, *others = (SpriteSheet(side) for side in SPRITE_SIDES_PX)
    return {
        name: tuple(color for color in first.colors(name) if all(color in sheet.colors(name) for sheet in others))
        for name in objects
    }


def _make(
    world: _World, seed: str, numbers: Mapping[str, int], held_out_share: float, avoided: frozenset[str]
) -> tuple[PromptEntry, ...]:
    entries: list[PromptEntry] = []
    for task in TASKS:
        rng = Random(f"emoji prompts/{seed}/{task}")
        pool = _pool(rng, world, task)
        held_out = [entry for entry in pool if entry.is_held_out]
        num_held_out = min(round(held_out_share * numbers[task]), len(held_out))
        usage: Counter[Part] = Counter()
        chosen = _choose(rng, held_out, num_held_out, avoided, usage)
        seen = [entry for entry in pool if not entry.is_held_out]
        chosen += _choose(rng, seen, numbers[task] - num_held_out, avoided, usage)
        rng.shuffle(chosen)
        entries += chosen
    return tuple(entries)


def _choose(
    rng: Random, pool: Sequence[PromptEntry], number: int, avoided: frozenset[str], usage: Counter[Part]
) -> list[PromptEntry]:
    """`number` entries of `pool`: each time the one, of some, whose prompt and then whose parts were used least.

    Counts in `usage` what it uses. A part's use weighs as much as there are alternatives to it.
    """
    parts = {entry: _parts(entry) for entry in pool}
    num_alternatives = Counter(kind for kind, _ in set(chain.from_iterable(parts.values())))
    chosen = []
    for _ in range(number):

        def cost(entry: PromptEntry) -> tuple[int, bool, int]:
            load = sum(usage[part] * num_alternatives[part[0]] for part in parts[entry])
            return usage["prompt", entry.prompt], entry.prompt in avoided, load

        best = min(rng.sample(pool, min(_NUM_COMPARED, len(pool))), key=cost)
        chosen.append(best)
        usage.update([*parts[best], ("prompt", best.prompt)])
    return chosen


def _parts(entry: PromptEntry) -> list[Part]:
    """What is to be spread evenly: objects, their numbers, colours, relations, and who stands beside whom."""
    parts: list[Part] = []
    for wanted in entry.include:
        parts.append(("object", wanted.name))
        if entry.exclude:
            parts.append(("count", wanted.count))
        if wanted.color is not None:
            parts.append(("color", wanted.color))
        if wanted.position is not None:
            parts.append(("relation", wanted.position[0]))
    if len(entry.include) > 1:
        parts.append(("pair", frozenset(wanted.name for wanted in entry.include)))
    return parts


def _pool(rng: Random, world: _World, task: str) -> list[PromptEntry]:
    """Every prompt of this task; for attribution, where there are very many, two thousand of them."""
    if task == "single_object":
        return [_entry(task, (Wanted(name, 1),), with_article(name)) for name in world.objects]
    if task == "counting":
        return [_counting(name, count) for name, count in product(world.objects, COUNT_WORDS)]
    if task == "colors":
        return [_together(task, ((name, color),)) for name, color in world.colored]
    if task == "two_object":
        return [_together(task, ((first, None), (second, None))) for first, second in permutations(world.objects, 2)]
    if task == "position":
        pairs = permutations(world.objects, 2)
        return [_position(first, relation, second) for (first, second), relation in product(pairs, RELATIONS)]
    colored = world.colored
    pool: dict[tuple[tuple[str, str], ...], PromptEntry] = {}
    while len(pool) < _POOL_SIZE:
        things = tuple(rng.sample(colored, 2))
        if things[0][0] != things[1][0] and things[0][1] != things[1][1]:
            pool.setdefault(things, _together(task, things))
    return list(pool.values())


def _together(task: str, things: tuple[tuple[str, str | None], ...]) -> PromptEntry:
    include = tuple(Wanted(name, 1, color) for name, color in things)
    return _entry(task, include, " and ".join(with_article(named(name, color)) for name, color in things))


def _counting(name: str, count: int) -> PromptEntry:
    body = f"{COUNT_WORDS[count]} {_geneval_plural(name)}"
    return _entry("counting", (Wanted(name, count),), body, exclude=(Wanted(name, count + 1),))


def _position(first: str, relation: str, second: str) -> PromptEntry:
    include = (Wanted(second, 1), Wanted(first, 1, position=(relation, 0)))
    return _entry("position", include, f"{with_article(first)} {relation} {with_article(second)}")


def _entry(task: str, include: tuple[Wanted, ...], body: str, exclude: tuple[Wanted, ...] = ()) -> PromptEntry:
    names = [wanted.name for wanted in include]
    has_held_out_color = any(
        wanted.color is not None and is_held_out_color(wanted.name, wanted.color) for wanted in include
    )
    is_held_out = has_held_out_color or (len(names) == 2 and is_held_out_pair(*names))
    return PromptEntry(task, f"a photo of {body}", include, exclude, is_held_out)


def _geneval_plural(name: str) -> str:
    """GenEval's plural: es behind an s, else an s ("buses", "knifes"); but "scissors" stay what the world knows."""
    proper = plural(name, is_naive=False)
    return proper if name.endswith("s") else plural(name, is_naive=True)


def write_prompt_files(folder: Path = DATA) -> None:
    """Write every fixed file into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for objects in (object_names(), SMALL_WORLD):
        for name, text in prompt_files(objects).items():
            (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write_prompt_files()
