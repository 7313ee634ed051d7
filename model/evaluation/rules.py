"""GenEval's rules: what a judge saw, held against what a prompt asks for. Pure.

As the paper's section 3 and its public scorer (arXiv 2310.11513; djghosh13/geneval, evaluate_images.py) have them, also
where they are surprising: colour and place are looked up only for the `count` most confident objects of a class, and
other objects do no harm unless `exclude` names them. Pictures are taken to be square, as boxes are fractions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.evaluation.detections import Detection
from model.evaluation.prompts import PromptEntry, Wanted
from model.training.layouts import relation_strength

MIN_RELATION_STRENGTH = 0.5


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Confidence that a detection must exceed to count: `counting` in the counting task, `presence` in all others.

    They belong to a judge. GenEval has 0.3 and 0.9 for its detector.
    """

    presence: float = 0.3
    counting: float = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a picture shows what was asked for; `reason` says what is wrong with it, "" where nothing is."""

    is_correct: bool
    reason: str


def check(entry: PromptEntry, detections: Sequence[Detection], thresholds: Thresholds) -> Verdict:
    """The verdict on a picture of `entry.prompt` in which a judge found `detections`."""
    threshold = thresholds.counting if entry.tag == "counting" else thresholds.presence
    seen: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda detection: -detection.confidence):
        if detection.confidence > threshold:
            seen.setdefault(detection.name, []).append(detection)

    reasons: list[str] = []
    groups: list[list[Detection] | None] = []  # per entry of `include`: its objects, None where it is not met
    for wanted in entry.include:
        found = seen.get(wanted.name, [])[: wanted.count]
        problem = _problem(wanted, found, groups)
        groups.append(None if problem else found)
        if problem:
            reasons.append(problem)
    for unwanted in entry.exclude:
        num_seen = len(seen.get(unwanted.name, []))
        if num_seen >= unwanted.count:
            reasons.append(f"fewer than {unwanted.count} {unwanted.name} wanted, {num_seen} found")
    return Verdict(not reasons, "; ".join(reasons))


def _problem(wanted: Wanted, found: Sequence[Detection], groups: Sequence[Sequence[Detection] | None]) -> str:
    """What keeps `found` from meeting `wanted`; "" where it does."""
    if len(found) < wanted.count:
        return f"{wanted.count} {wanted.name} wanted, {len(found)} found"
    if wanted.color is not None:
        colors = Counter(detection.color for detection in found)
        if colors[wanted.color] < wanted.count:
            listed = ", ".join(f"{number} {color}" for color, number in sorted(colors.items()))
            return f"{wanted.count} {wanted.color} {wanted.name} wanted, {listed} found"
    if wanted.position is not None:
        relation, target_index = wanted.position
        targets = groups[target_index]
        if targets is None:
            return f"{wanted.name} wanted {relation} something that is not there"
        for detection in found:
            for target in targets:
                strengths = relation_strength(detection.box, target.box)
                if strengths[relation] <= MIN_RELATION_STRENGTH:
                    others = [name for name, strength in strengths.items() if strength > MIN_RELATION_STRENGTH]
                    place = " and ".join(others) or "nowhere clear of"
                    return f"{wanted.name} wanted {relation} {target.name}, {place} it found"
    return ""
