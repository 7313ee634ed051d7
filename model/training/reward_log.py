"""What a reward-tuning run leaves in its folder, and what it reads back when it goes on.

rewards.jsonl holds one line a step, validation.jsonl one a validation, sheets/ its pictures, adapter/ the best adapter;
curve.jsonl is the loop's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.contact_sheet import Cell, Section, contact_sheet
from model.evaluation.prompts import TASKS
from model.training.lora import LowRankAdapter, save_adapter
from model.training.reward_tuning import Judged, RewardTrainConfig

NUM_SHEET_PICTURES = 24
NUM_SHEET_COLUMNS = 6
SHEET_PICTURE_PX = 128

Figures = dict[str, Any]
"""One line: "step", "reward" (a mean, 0..1), each task's mean under its name, and whatever else is known."""


class RewardLog:
    """The log of one run, as far as its step `first_step`; what lies behind that is forgotten. None: a fresh run."""

    def __init__(self, config: RewardTrainConfig, first_step: int | None) -> None:
        self._config = config
        self._steps_path = config.out_dir / "rewards.jsonl"
        self._validation_path = config.out_dir / "validation.jsonl"
        end = 0 if first_step is None else first_step
        self._steps = [line for line in _read(self._steps_path) if line["step"] < end]
        self._validations = [
            line for line in _read(self._validation_path) if first_step is not None and line["step"] <= end
        ]
        config.out_dir.mkdir(parents=True, exist_ok=True)
        _write(self._steps_path, self._steps)
        _write(self._validation_path, self._validations)

    def add_step(self, figures: Figures) -> None:
        """Keep the figures of one step."""
        self._steps.append(figures)
        _append(self._steps_path, figures)

    def reward_line(self) -> str:
        """Mean rewards of the last `report_every` steps, for a terminal."""
        latest = self._steps[-self._config.report_every :]
        values = {name: [line[name] for line in latest if name in line] for name in ("reward", *TASKS)}
        means = {name: sum(of_name) / len(of_name) for name, of_name in values.items() if of_name}
        return f"step {latest[-1]['step'] + 1} {_listing(means)} drift {latest[-1]['drift']:.3f}"

    def add_validation(self, step: int, judged: Judged, adapter: LowRankAdapter) -> str:
        """Keep a validation's figures and sheet, and `adapter` if it is the best; returns a line for a terminal."""
        figures = {"step": step, **judged.means()}
        is_best = not self._validations or figures["reward"] > self.best["reward"]
        if is_best:
            save_adapter(adapter, self._config.adapter)
        self._validations.append(figures)
        _append(self._validation_path, figures)
        captions = [f"{e.prompt} {r:.2f}" for e, r in zip(judged.entries, judged.rewards.tolist(), strict=True)]
        cells = [Cell(picture, caption) for picture, caption in zip(judged.pictures, captions, strict=True)]
        sheet = contact_sheet([Section("", tuple(cells[:NUM_SHEET_PICTURES]))], NUM_SHEET_COLUMNS, SHEET_PICTURE_PX)
        path = self._config.out_dir / "sheets" / f"{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)
        return f"step {step} validation {_listing(figures)}{' (best)' if is_best else ''}"

    def has_validated(self, step: int) -> bool:
        """Whether the validation at this step is there."""
        return any(line["step"] == step for line in self._validations)

    @property
    def best(self) -> Figures:
        """Figures of the best validation."""
        return max(self._validations, key=lambda line: line["reward"])

    @property
    def is_stale(self) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        steps = [line["step"] for line in self._validations]
        return bool(steps) and len(steps) - 1 - steps.index(self.best["step"]) >= self._config.patience

    def summary(self) -> str:
        """What the run reached, in one line."""
        before, best = self._validations[0], self.best
        return f"validation reward {before['reward']:.3f} before, {best['reward']:.3f} at best, at step {best['step']}"


def _listing(figures: Figures) -> str:
    tasks = ", ".join(f"{task} {figures[task]:.2f}" for task in TASKS if task in figures)
    return f"reward {figures['reward']:.3f} ({tasks})"


def _read(path: Path) -> list[Figures]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _write(path: Path, lines: list[Figures]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def _append(path: Path, line: Figures) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
