"""EmojiGenEval's prompts: the JSON lines of GenEval's `evaluation_metadata.jsonl`, read and written.

GenEval's format is {tag, include: [{class, count, color?, position?: [relation, index]}], exclude?, prompt}. Ours adds
one key that its readers ignore, `held_out`: whether training never showed the combination that is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.training.layouts import RELATIONS

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One entry of `include` or `exclude`: at least `count` objects of this class (and colour).

    `position` is (relation, index of the entry of `include` that it is measured against).
    """

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """One prompt with what its picture must, and must not, show."""

    tag: str
    prompt: str
    include: tuple[Wanted, ...]
    exclude: tuple[Wanted, ...] = ()
    is_held_out: bool = False


def parse_entry(line: str) -> PromptEntry:
    """One JSON line, of ours or of GenEval's own file. Raises ValueError or KeyError for anything else."""
    values = json.loads(line)
    if values["tag"] not in TASKS:
        raise ValueError(f"tag {values['tag']!r} is none of {', '.join(TASKS)}")
    include = tuple(_parse_wanted(wanted) for wanted in values["include"])
    for index, wanted in enumerate(include):
        if wanted.position is not None and not 0 <= wanted.position[1] < index:
            raise ValueError(f"position of {wanted.name!r} must point at an earlier entry, not {wanted.position[1]}")
    return PromptEntry(
        tag=values["tag"],
        prompt=values["prompt"],
        include=include,
        exclude=tuple(_parse_wanted(wanted) for wanted in values.get("exclude", ())),
        is_held_out=bool(values.get("held_out", False)),
    )


def entry_line(entry: PromptEntry) -> str:
    """Inverse of `parse_entry`."""
    values: dict[str, Any] = {"tag": entry.tag, "include": [_wanted_values(wanted) for wanted in entry.include]}
    if entry.exclude:
        values["exclude"] = [_wanted_values(wanted) for wanted in entry.exclude]
    values["prompt"] = entry.prompt
    if entry.is_held_out:
        values["held_out"] = True
    return json.dumps(values)


def read_entries(path: Path) -> tuple[PromptEntry, ...]:
    """All prompts of a file. Raises ValueError naming the line that is wrong."""
    entries = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            entries.append(parse_entry(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return tuple(entries)


def _parse_wanted(values: dict[str, Any]) -> Wanted:
    position = None
    if "position" in values:
        relation, index = values["position"]
        if relation not in RELATIONS:
            raise ValueError(f"relation {relation!r} is none of {', '.join(RELATIONS)}")
        position = (relation, int(index))
    return Wanted(values["class"], int(values["count"]), values.get("color"), position)


def _wanted_values(wanted: Wanted) -> dict[str, Any]:
    values: dict[str, Any] = {"class": wanted.name, "count": wanted.count}
    if wanted.color is not None:
        values["color"] = wanted.color
    if wanted.position is not None:
        values["position"] = list(wanted.position)
    return values
