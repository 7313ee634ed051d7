"""EmojiGenEval of one model: every prompt drawn through the engine, looked at by a judge, checked, counted.

The judge sees every picture once and chooses none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.bundle import Bundle
from model.engine import Engine
from model.evaluation.detections import Detection
from model.evaluation.image_folder import ImageFolder
from model.evaluation.jury import Jury, scoring_jury
from model.evaluation.prompt_sets import PromptSet
from model.evaluation.prompts import TASKS, PromptEntry
from model.evaluation.rules import Verdict, check
from model.evaluation.run import Options, Run, open_run
from model.evaluation.scores import Scores, count_verdicts
from model.evaluation.shots import Pace, Picture, Report, Shot, draw_shots, plan_shots

SHEET_PICTURES_PER_TASK = 16


@dataclass(frozen=True, slots=True)
class JudgedPicture:
    """One shot, its prompt, what the judge saw in its picture and what follows."""

    shot: Shot
    entry: PromptEntry
    detections: tuple[Detection, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished run. `on_sheet` holds some pictures of every task by their shot, picked before any was judged."""

    run: Run
    jury: Jury
    pictures: tuple[JudgedPicture, ...]
    on_sheet: Mapping[Shot, Picture]
    seconds_per_picture: float | None

    @property
    def scores(self) -> Scores:
        """Of all pictures."""
        return count_verdicts((picture.entry, picture.verdict) for picture in self.pictures)

    def scores_where(self, *, is_held_out: bool) -> Scores:
        """Of the pictures whose combination training never showed, or of all others."""
        chosen = (picture for picture in self.pictures if picture.entry.is_held_out == is_held_out)
        return count_verdicts((picture.entry, picture.verdict) for picture in chosen)


def score_bundle(
    bundle: Bundle | Path,
    prompts: str | PromptSet,
    options: Options | None = None,
    *,
    jury: Jury | None = None,
    images_out: Path | None = None,
    report: Report = lambda line: None,
) -> Evaluation:
    """Draw and judge `prompts`: "test" for a score to publish, "tuning" for anything else, or a file's path.

    `jury` is the scoring one unless given. Raises EvaluationError, BundleError.
    """
    options = options or Options()
    engine, run = open_run(bundle, prompts, options)
    return evaluate(engine, run, jury or scoring_jury(), images_out=images_out, report=report)


def evaluate(
    engine: Engine, run: Run, jury: Jury, *, images_out: Path | None = None, report: Report = lambda line: None
) -> Evaluation:
    """The run's pictures drawn with `engine` and judged; `images_out` keeps them, as `draw_images` does."""
    shots = plan_shots(run.card, run.prompts, run.settings)
    wanted_on_sheet = _sheet_shots(shots, run.prompts)
    judged: list[JudgedPicture] = []
    on_sheet: dict[Shot, Picture] = {}
    pace, batches = _start(engine, run, shots, images_out, report)
    for batch in batches:
        seen = jury.judge.look([picture for _, picture in batch])
        for (shot, picture), detections in zip(batch, seen, strict=True):
            entry = run.prompts.entries[shot.prompt_index]
            judged.append(JudgedPicture(shot, entry, detections, check(entry, detections, jury.thresholds)))
            if shot in wanted_on_sheet:
                on_sheet[shot] = picture
    return Evaluation(run, jury, tuple(judged), on_sheet, pace.seconds_per_picture)


def draw_images(engine: Engine, run: Run, images_out: Path, *, report: Report = lambda line: None) -> None:
    """Draw the run's pictures into the folder layout that GenEval's public scorer reads; what is there stays.

    Raises EvaluationError where the folder holds another run's pictures.
    """
    _, batches = _start(engine, run, plan_shots(run.card, run.prompts, run.settings), images_out, report)
    for _ in batches:
        pass


def _start(
    engine: Engine, run: Run, shots: Sequence[Shot], images_out: Path | None, report: Report
) -> tuple[Pace, Iterator[list[tuple[Shot, Picture]]]]:
    """The shots' pictures, a batch at a time, and how long they take."""
    folder = None
    num_kept = 0
    if images_out is not None:
        folder = ImageFolder(images_out)
        folder.claim(run.drawn_by(), run.prompts.entries)
        num_kept = sum(folder.has(shot.prompt_index, shot.image_index) for shot in shots)
    kept = f", {num_kept} of them already in {images_out}" if num_kept else ""
    report(f"{run.prompts.name}: {len(shots)} pictures{kept}")
    pace = Pace(len(shots) - num_kept, report)
    return pace, draw_shots(engine, shots, run.settings.batch_rows, folder, pace)


def _sheet_shots(shots: Sequence[Shot], prompts: PromptSet) -> frozenset[Shot]:
    """First pictures of some prompts of every task, evenly spread over the file."""
    chosen: set[Shot] = set()
    for task in TASKS:
        firsts = [shot for shot in shots if not shot.image_index and prompts.entries[shot.prompt_index].tag == task]
        number = min(SHEET_PICTURES_PER_TASK, len(firsts))
        chosen.update(firsts[index * len(firsts) // number] for index in range(number))
    return frozenset(chosen)
