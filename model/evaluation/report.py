"""A finished evaluation for people and for programs: the table, the JSON file, the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.contact_sheet import Cell, Section, contact_sheet
from model.evaluation.detections import Detection
from model.evaluation.evaluate import Evaluation, JudgedPicture
from model.evaluation.scores import Scores, Tally

FORMAT_VERSION = 1
JSON_NAME = "evaluation.json"
SHEET_NAME = "sheet.png"
SHEET_COLUMNS = 8
SHEET_PICTURE_PX = 128
FRAMES = {True: "limegreen", False: "red"}


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write evaluation.json and sheet.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(report_values(evaluation), indent=1)
    (folder / JSON_NAME).write_text(lines + "\n", "utf-8")
    sections = _sheet_sections(evaluation)
    contact_sheet(sections, SHEET_COLUMNS, SHEET_PICTURE_PX).save(folder / SHEET_NAME, optimize=True)


def table(evaluation: Evaluation) -> str:
    """The score as text for a terminal: six tasks, their mean, seen and held-out apart, and who judged."""
    run, scores = evaluation.run, evaluation.scores
    seen, held_out = (evaluation.scores_where(is_held_out=value) for value in (False, True))
    settings = run.settings
    lines = [
        f"EmojiGenEval of {run.card.name} {run.card.version}",
        f"{run.prompts.name}, {settings.images_per_prompt} picture(s) a prompt, {settings.steps} steps, "
        f"guidance {settings.guidance:g}, seed {settings.seed}, {run.device} {run.dtype}",
        "",
        f"{'task':15}{'score':>7}{'right':>12}{'seen':>16}{'held out':>16}",
    ]
    for task, tally in scores.tasks.items():
        right = f"{tally.num_right} / {tally.num_pictures}"
        apart = f"{_share(seen, task):>16}{_share(held_out, task):>16}"
        lines.append(f"{task.replace('_', ' '):15}{tally.share:7.3f}{right:>12}{apart}")
    lines.append(f"{'overall':15}{scores.overall:7.3f}   +- {scores.standard_error:.3f} (standard error)")
    if held_out.tasks and len(seen.only(held_out.tasks).tasks) == len(held_out.tasks):
        lines.append(
            f"mean of the {len(held_out.tasks)} tasks with held-out prompts: seen "
            f"{seen.only(held_out.tasks).overall:.3f}, held out {held_out.overall:.3f} "
            f"+- {held_out.standard_error:.3f}"
        )
    lines.append(f"judge {evaluation.jury.name}{_published(evaluation)}")
    if evaluation.seconds_per_picture is not None:
        lines.append(f"{evaluation.seconds_per_picture:.2f} s a picture")
    return "\n".join(lines)


def report_values(evaluation: Evaluation) -> dict[str, Any]:
    """What evaluation.json holds. All but "seconds_per_picture" is the same whenever the same run is repeated."""
    run, settings = evaluation.run, evaluation.run.settings
    return {
        "format_version": FORMAT_VERSION,
        "score": "EmojiGenEval",
        "run": {**run.drawn_by(), "images_per_prompt": settings.images_per_prompt, "batch_rows": settings.batch_rows},
        "device": run.device,
        "judge": {
            "name": evaluation.jury.name,
            "presence_threshold": evaluation.jury.thresholds.presence,
            "counting_threshold": evaluation.jury.thresholds.counting,
            "published": dict(evaluation.jury.published),
        },
        "scores": {
            "all": _scores_values(evaluation.scores),
            "seen": _scores_values(evaluation.scores_where(is_held_out=False)),
            "held_out": _scores_values(evaluation.scores_where(is_held_out=True)),
        },
        "seconds_per_picture": evaluation.seconds_per_picture,
        "pictures": [_picture_values(picture) for picture in evaluation.pictures],
    }


def _share(scores: Scores, task: str) -> str:
    tally = scores.tasks.get(task)
    return "-" if tally is None else f"{tally.share:.3f} ({tally.num_pictures})"


def _published(evaluation: Evaluation) -> str:
    """The judge's own score of real renderings, and of the same with captions shuffled."""
    published = evaluation.jury.published
    parts = [
        f"{label} {published[key]['overall']:.3f}"
        for label, key in (("ceiling", "real"), ("floor", "shuffled"))
        if key in published
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _scores_values(scores: Scores) -> dict[str, Any]:
    if not scores.tasks:
        return {"overall": None, "standard_error": None, "tasks": {}}
    return {
        "overall": scores.overall,
        "standard_error": scores.standard_error,
        "tasks": {task: _tally_values(tally) for task, tally in scores.tasks.items()},
    }


def _tally_values(tally: Tally) -> dict[str, Any]:
    return {"score": tally.share, "num_right": tally.num_right, "num_pictures": tally.num_pictures}


def _picture_values(picture: JudgedPicture) -> dict[str, Any]:
    return {
        "prompt_index": picture.shot.prompt_index,
        "image_index": picture.shot.image_index,
        "seed": picture.shot.recipe.seed,
        "tag": picture.entry.tag,
        "prompt": picture.entry.prompt,
        "held_out": picture.entry.is_held_out,
        "is_correct": picture.verdict.is_correct,
        "reason": picture.verdict.reason,
        "detections": [_detection_values(detection) for detection in picture.detections],
    }


def _detection_values(detection: Detection) -> dict[str, Any]:
    return {
        "class": detection.name,
        "color": detection.color,
        "box": [round(edge, 3) for edge in detection.box],
        "confidence": round(detection.confidence, 3),
    }


def _sheet_sections(evaluation: Evaluation) -> list[Section]:
    sections = []
    for task, tally in evaluation.scores.tasks.items():
        shown = [p for p in evaluation.pictures if p.entry.tag == task and p.shot in evaluation.on_sheet]
        cells = tuple(Cell(evaluation.on_sheet[p.shot], _caption(p), FRAMES[p.verdict.is_correct]) for p in shown)
        sections.append(Section(f"{task.replace('_', ' ')}: {tally.num_right} of {tally.num_pictures} right", cells))
    return sections


def _caption(picture: JudgedPicture) -> str:
    """The prompt, without what all prompts begin with."""
    prompt = picture.entry.prompt.removeprefix("a photo of ")
    return f"{prompt} (held out)" if picture.entry.is_held_out else prompt
