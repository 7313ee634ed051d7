"""Verdicts counted: GenEval's score is the mean of its tasks' shares of right pictures, each task weighing the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model.evaluation.prompts import TASKS, PromptEntry
from model.evaluation.rules import Verdict


@dataclass(frozen=True, slots=True)
class Tally:
    """Pictures of one task, and how many of them are right. There is at least one."""

    num_right: int
    num_pictures: int

    @property
    def share(self) -> float:
        """0..1."""
        return self.num_right / self.num_pictures


@dataclass(frozen=True, slots=True)
class Scores:
    """One tally for every task that occurs, in the order of TASKS."""

    tasks: Mapping[str, Tally]

    @property
    def num_pictures(self) -> int:
        """Pictures of all tasks."""
        return sum(tally.num_pictures for tally in self.tasks.values())

    @property
    def overall(self) -> float:
        """Unweighted mean of the tasks, 0..1; not a number where there is no task."""
        return sum(tally.share for tally in self.tasks.values()) / len(self.tasks) if self.tasks else math.nan

    @property
    def standard_error(self) -> float:
        """Of `overall`, taking each picture as one independent draw of its task."""
        variance = sum(t.share * (1 - t.share) / t.num_pictures for t in self.tasks.values())
        return math.sqrt(variance) / len(self.tasks) if self.tasks else math.nan

    def only(self, tasks: Iterable[str]) -> Scores:
        """Those of `tasks` that occur here."""
        wanted = set(tasks)
        return Scores({task: tally for task, tally in self.tasks.items() if task in wanted})


def count_verdicts(verdicts: Iterable[tuple[PromptEntry, Verdict]]) -> Scores:
    """Scores of pictures, each given by its prompt and its verdict."""
    outcomes: dict[str, list[bool]] = {task: [] for task in TASKS}
    for entry, verdict in verdicts:
        outcomes[entry.tag].append(verdict.is_correct)
    return Scores({task: Tally(sum(found), len(found)) for task, found in outcomes.items() if found})
