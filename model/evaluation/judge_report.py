"""How far a judge can be trusted: its figures on pictures whose truth is known. Published beside every score.

Needs the renderer (the `train` extra). All scenes come from indices that no training uses; seeds are fixed, so the
same judge on the same machine gives the same figures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from diffusers import AutoencoderDC

from model.evaluation.detections import Detection
from model.evaluation.judge import NetworkJudge
from model.evaluation.prompts import TASKS, PromptEntry, Wanted
from model.evaluation.rules import Thresholds, check
from model.training.judge_scenes import BrokenScene, broken_scene
from model.training.mush import WAYS
from model.training.recolor import COLORS, ByteArray
from model.training.reconstruction import psnr, reconstruct
from model.training.sprites import object_names
from model.training.world import EmojiWorld, Scene

REPORT_START = 3 * 10**9  # far beyond every dataset's last scene
TUNING_START = 2 * 10**9
SCENES_PER_TASK = 150
HELD_OUT_PER_TASK = 60
TUNING_SCENES_PER_TASK = 60
NUM_BROKEN = 900
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares of pictures accepted, 0..1, by task; `overall` is the tasks' unweighted mean."""

    overall: float
    tasks: dict[str, float]


@dataclass(frozen=True, slots=True)
class BrokenFigures:
    """What the judge sees in broken things, as shares of them.

    `as_itself`: a thing of the broken one's own class somewhere in its picture. `as_anything`: detections of any class
    per broken thing. `by_way`: `as_itself` for each way of breaking.
    """

    as_itself: float
    as_anything: float
    by_way: dict[str, float]


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """A judge's figures. `real`, `held_out` and `round_trip` should be near 1, all others near 0.

    `real` is the ceiling: new renderings with their own captions. `held_out`: of combinations that training never
    shows. `round_trip`: the same pictures through an autoencoder. `shuffled` is the floor: each picture with the
    caption of another of its task.
    """

    version: str
    weights_sha256: str
    threshold: float
    real: Figures
    held_out: Figures
    round_trip: Figures
    round_trip_psnr_db: float
    shuffled: Figures
    hard_negatives: Figures
    broken: BrokenFigures

    def lines(self) -> list[str]:
        """A table for people."""
        rows = {
            "real renderings": self.real,
            "held-out combinations": self.held_out,
            f"after an autoencoder ({self.round_trip_psnr_db:.1f} dB)": self.round_trip,
            "captions shuffled": self.shuffled,
            "hard negatives accepted": self.hard_negatives,
        }
        columns = "  ".join(f"{task:>13}" for task in ("overall", *TASKS))
        table = [f"{'':34}{columns}"]
        for name, figures in rows.items():
            cells = [f"{figures.overall:13.3f}"]
            cells += [f"{figures.tasks[task]:13.3f}" if task in figures.tasks else f"{'':13}" for task in TASKS]
            table.append(f"{name:34}" + "  ".join(cells))
        ways = ", ".join(f"{way} {share:.3f}" for way, share in self.broken.by_way.items())
        table.append(f"broken things taken for themselves {self.broken.as_itself:.3f} ({ways})")
        table.append(f"detections per broken thing {self.broken.as_anything:.3f}; threshold {self.threshold}")
        return table


def entry_of(scene: Scene) -> PromptEntry:
    """What a scene's caption asks for."""
    wanted = [Wanted(thing.name, 1, thing.color) for thing in scene.objects]
    exclude: tuple[Wanted, ...] = ()
    if scene.kind == "counting":
        wanted = [replace(wanted[0], count=len(wanted))]
        exclude = (Wanted(wanted[0].name, wanted[0].count + 1),)
    if scene.relation is not None:
        wanted = [wanted[1], replace(wanted[0], position=(scene.relation, 0))]
    return PromptEntry(scene.kind, scene.caption, tuple(wanted), exclude, scene.is_held_out)


def falsified(entry: PromptEntry, rng: Random) -> PromptEntry:
    """The nearest thing to `entry` that its picture does not show."""
    first, rest = entry.include[0], entry.include[1:]
    if entry.tag == "counting":
        count = first.count + rng.choice((-1, 1))
        return replace(entry, include=(replace(first, count=count),), exclude=(Wanted(first.name, count + 1),))
    if entry.tag == "colors":
        other = rng.choice([color for color in COLORS if color != first.color])
        return replace(entry, include=(replace(first, color=other),))
    if entry.tag == "color_attr":
        swapped = (replace(first, color=rest[0].color), replace(rest[0], color=first.color))
        return replace(entry, include=swapped)
    if entry.tag == "position":
        relation, target = rest[0].position or ("", 0)
        return replace(entry, include=(first, replace(rest[0], position=(_OPPOSITE[relation], target))))
    shown = {wanted.name for wanted in entry.include}
    other = rng.choice([name for name in object_names() if name not in shown])
    return replace(entry, include=(replace(first, name=other), *rest))


def real_scenes(draw: Callable[[int], Scene], start: int, per_task: int, tasks: Sequence[str] = TASKS) -> list[Scene]:
    """`per_task` scenes of each of `tasks`: those of `draw` from index `start` on that are still wanted."""
    found: Counter[str] = Counter()
    scenes: list[Scene] = []
    while len(scenes) < per_task * len(tasks):
        scene = draw(start)
        start += 1
        if scene.kind in tasks and found[scene.kind] < per_task:
            found[scene.kind] += 1
            scenes.append(scene)
    return scenes


def score(entries: Sequence[PromptEntry], seen: Sequence[Sequence[Detection]], thresholds: Thresholds) -> Figures:
    """How many pictures show what their entries ask for."""
    correct: Counter[str] = Counter()
    total = Counter(entry.tag for entry in entries)
    for entry, detections in zip(entries, seen, strict=True):
        correct[entry.tag] += check(entry, detections, thresholds).is_correct
    tasks = {task: correct[task] / total[task] for task in TASKS if total[task]}
    return Figures(sum(tasks.values()) / len(tasks), tasks)


def shuffled(entries: Sequence[PromptEntry], rng: Random) -> list[PromptEntry]:
    """The same entries, each with another picture of its task."""
    result = list(entries)
    for task in TASKS:
        places = [place for place, entry in enumerate(entries) if entry.tag == task]
        order = rng.sample(places, len(places))
        for place, source in zip(order, order[1:] + order[:1], strict=True):
            result[place] = entries[source]
    return result


def score_broken(scenes: Sequence[BrokenScene], seen: Sequence[Sequence[Detection]], threshold: float) -> BrokenFigures:
    """What the judge sees in scenes that show nothing whole."""
    taken: Counter[str] = Counter()
    total: Counter[str] = Counter()
    num_seen = 0
    for scene, detections in zip(scenes, seen, strict=True):
        names = [detection.name for detection in detections if detection.confidence > threshold]
        num_seen += len(names)
        for name, way in scene.broken:
            total[way] += 1
            taken[way] += name in names
    by_way = {way: taken[way] / total[way] for way in WAYS if total[way]}
    return BrokenFigures(taken.total() / total.total(), num_seen / total.total(), by_way)


def choose_threshold(judge: NetworkJudge, autoencoder: Path) -> float:
    """The confidence from which things count, chosen on scenes that neither training nor the report uses.

    It maximises what is accepted of real renderings and round trips, less the broken things taken for themselves:
    rules ask for a class, so what is taken for another does no harm.
    """
    scenes = real_scenes(EmojiWorld().scene, TUNING_START, TUNING_SCENES_PER_TASK)
    entries = [entry_of(scene) for scene in scenes]
    pixels = np.stack([scene.pixels for scene in scenes])
    real = judge.look(list(pixels))
    soft = judge.look(list(_round_trip(autoencoder, pixels)))
    broken = [broken_scene(f"tuning/{index}", intact_share=0.0) for index in range(NUM_BROKEN)]
    mush = judge.look([scene.pixels for scene in broken])

    def gain(threshold: float) -> float:
        both = Thresholds(threshold, threshold)
        accepted = score(entries, real, both).overall + score(entries, soft, both).overall
        return accepted / 2 - score_broken(broken, mush, threshold).as_itself

    return max((round(0.05 * step, 2) for step in range(2, 19)), key=gain)


def make_report(judge: NetworkJudge, weights: Path, autoencoder: Path) -> JudgeReport:
    """All figures of a judge whose weights lie in `weights`; round trips go through the folder `autoencoder`."""
    world = EmojiWorld()
    scenes = real_scenes(world.scene, REPORT_START, SCENES_PER_TASK)
    # No single object is held out: only combinations are.
    held_out = real_scenes(world.held_out_scene, REPORT_START, HELD_OUT_PER_TASK, TASKS[1:])
    broken = [broken_scene(f"report/{index}", intact_share=0.0) for index in range(NUM_BROKEN)]
    pixels = np.stack([scene.pixels for scene in scenes])
    soft = _round_trip(autoencoder, pixels)
    entries = [entry_of(scene) for scene in scenes]
    seen = judge.look(list(pixels))
    rng = Random("judge report")
    thresholds = judge.thresholds
    return JudgeReport(
        version=judge.version,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        threshold=thresholds.presence,
        real=score(entries, seen, thresholds),
        held_out=_own_captions(judge, held_out),
        round_trip=score(entries, judge.look(list(soft)), thresholds),
        round_trip_psnr_db=psnr(soft, pixels),
        shuffled=score(shuffled(entries, rng), seen, thresholds),
        hard_negatives=score([falsified(entry, rng) for entry in entries], seen, thresholds),
        broken=score_broken(broken, judge.look([scene.pixels for scene in broken]), thresholds.presence),
    )


def write_report(report: JudgeReport, target: Path) -> None:
    """Write the figures as JSON."""
    target.write_text(json.dumps(asdict(report), indent=1) + "\n", "utf-8")


def _own_captions(judge: NetworkJudge, scenes: Sequence[Scene]) -> Figures:
    entries = [entry_of(scene) for scene in scenes]
    return score(entries, judge.look([scene.pixels for scene in scenes]), judge.thresholds)


def _round_trip(autoencoder: Path, pixels: ByteArray) -> ByteArray:
    return reconstruct(AutoencoderDC.from_pretrained(autoencoder, local_files_only=True).eval(), pixels)
