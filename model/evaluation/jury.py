"""Who judges: a judge with its thresholds, its name and what is published about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import ModelCard
from model.evaluation.detections import Judge
from model.evaluation.judge import load_judge
from model.evaluation.prompt_sets import PromptSet
from model.evaluation.rules import Thresholds
from model.training.sprites import object_names

_REPORT = Path(__file__).parent / "data" / "judge_report.json"


@dataclass(frozen=True, slots=True)
class Jury:
    """A judge with what belongs to it.

    `published` is what judge_report.py found out about the judge itself, {} where nothing is known.
    """

    judge: Judge
    thresholds: Thresholds
    name: str
    published: Mapping[str, Any]


def scoring_jury() -> Jury:
    """The judge of published scores. Nothing that trains or chooses pictures may use it."""
    judge = load_judge()
    published = json.loads(_REPORT.read_text("utf-8")) if _REPORT.exists() else {}
    return Jury(judge, judge.thresholds, judge.version, published)


def why_not_judged(card: ModelCard, prompts: PromptSet) -> str | None:
    """Why a judge of the emoji world has no say in this model's pictures of these prompts; None where it has."""
    if card.vocabulary is None:
        return f"{card.name} draws anything, and the judge knows the emoji world's pictures only"
    if unknown := sorted(prompts.classes - set(object_names())):
        return f"the judge doesn't know {', '.join(unknown)}"
    return None
