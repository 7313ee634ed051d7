"""Distils a guided teacher of many steps into a student of few, without guidance: same network, same service.

The student learns, for each of the few steps that it will take, the average velocity of the guided teacher over that
step (model/training/trajectories.py), from states that are more and more its own (model/training/trajectory_pool.py).
Prompts are a dataset's captions; its pictures are not looked at. A pure function of seed and step, but for the clock.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from model.bundle import Bundle, read_bundle
from model.engine import choose_device
from model.evaluation.run import weights_digest
from model.text import unknown_words
from model.training.dataset import load_records
from model.training.fidelity import FidelityCheck
from model.training.loop import TrainingLoop
from model.training.trajectories import Teacher, predict, segments
from model.training.trajectory_pool import TrajectoryPool
from model.transformer import EMMDiT
from model.weights import LoadedModel, load_bundle

NEGLIGIBLE_ERROR = 1e-4  # of velocities whose variance is 1 to 2: nothing below it shows


@dataclass(frozen=True, slots=True)
class DistillConfig:
    """One run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `num_steps` are the student's; None for `guidance` and `teacher_steps` (which only the comparison uses) takes the
    bundle's. The teacher crosses a segment in `num_substeps`; the pool's newest `window` chunks are trained on, and a
    chunk is added when the lessons of the one before have been used `uses` times on average. The last `num_compared`
    captions are kept from training: with them the student is compared with its teacher.
    """

    teacher: Path
    dataset: Path
    out_dir: Path
    num_steps: int = 4
    guidance: float | None = None
    teacher_steps: int | None = None
    num_substeps: int = 3
    chunk_rows: int = 32
    window: int = 16
    uses: int = 4
    num_compared: int = 32
    batch_size: int = 32
    max_steps: int = 1_000_000
    max_minutes: float = math.inf
    learning_rate: float = 5e-4
    warmup_steps: int = 50
    decay_from: float = 0.3
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.99
    device: str = "auto"
    num_threads: int = 2
    seed: int = 0
    report_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.batch_size < (least := len(segments(self.num_steps))):
            raise ValueError(f"batch_size must hold a row of each of the {least} segments, got {self.batch_size}")

    @property
    def checkpoint(self) -> Path:
        """The file that a run continues from."""
        return self.out_dir / "distill.checkpoint.safetensors"

    @property
    def chunk_steps(self) -> int:
        """Steps between one new chunk and the next."""
        return max(1, self.chunk_rows * len(segments(self.num_steps)) * self.uses // self.batch_size)


def read_prompts(model: LoadedModel, dataset: Path) -> list[str]:
    """The dataset's captions, as often as they occur, but for those with words that the model never saw.

    Raises ValueError where none is left.
    """
    prompts = [record.caption for record in load_records(dataset)]
    known = [prompt for prompt in prompts if not unknown_words(prompt, model.card.vocabulary)]
    if not known:
        raise ValueError(f"{dataset}: none of {len(prompts)} captions is made of words that {model.card.name} knows")
    return known


def split_prompts(prompts: list[str], num_compared: int) -> tuple[list[str], list[str]]:
    """(prompts to train on, the last `num_compared` distinct ones, which are not among them).

    Raises ValueError where that leaves none.
    """
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) <= num_compared:
        raise ValueError(f"{len(distinct)} distinct captions are too few to keep {num_compared} of them from training")
    compared = distinct[len(distinct) - num_compared :]
    kept = frozenset(compared)
    return [prompt for prompt in prompts if prompt not in kept], compared


def open_pool(config: DistillConfig, bundle: Bundle, model: LoadedModel, prompts: list[str]) -> TrajectoryPool:
    """The run's pool, which may hold chunks already. Raises ValueError where they are of something else."""
    device = choose_device(config.device)
    guidance = bundle.card.default_guidance if config.guidance is None else config.guidance
    teacher = Teacher(model.transformer, model.text.encode([""])[0].float(), guidance, config.num_substeps)
    width, height = (int(side) // model.autoencoder.spatial_compression for side in bundle.card.sizes[0].split("x"))
    pool = TrajectoryPool(
        folder=config.out_dir / "trajectories",
        prompts=prompts,
        text=model.text,
        teacher=teacher,
        route=segments(config.num_steps),
        latent_shape=(bundle.config.in_channels, height, width),
        chunk_rows=config.chunk_rows,
        seed=config.seed,
        device=device,
    )
    prompts_sha256 = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    pool.claim({"teacher": weights_digest(bundle), "prompts": prompts_sha256, "window": config.window})
    return pool


def build_loop(config: DistillConfig, pool: TrajectoryPool) -> TrainingLoop:
    """A fresh run, which begins with the teacher's weights. The pool's first `window` chunks must be there."""
    student = copy.deepcopy(pool.teacher.network).requires_grad_(True)

    def objective(step: int) -> tuple[Tensor, Tensor]:
        newest = config.window - 1 + step // config.chunk_steps
        pool.ensure(
            newest, loop.average()
        )  # the average is what will draw, so its states are what it must be able to mend
        lessons = pool.lessons(step, config.batch_size, range(newest - config.window + 1, newest + 1))
        velocity = predict(student, lessons.states, lessons.embeddings, lessons.sigmas)
        errors = (velocity - lessons.targets).square().mean((1, 2, 3))
        by_segment = torch.stack([errors[k :: len(pool.route)].mean() for k in range(len(pool.route))])
        return balanced(by_segment), errors.detach().mean()

    loop = TrainingLoop(student, config, objective)
    return loop


def balanced(errors: Tensor) -> Tensor:
    """Mean logarithm of the segments' errors (k,): each weighs as much as it may still be improved.

    The first segment's error is twenty times the last one's and mostly cannot be learnt, while the last one's is what
    shows in a picture. A logarithm is what learnt weights (arXiv 1705.07115) come to at their optimum.
    """
    return (errors + NEGLIGIBLE_ERROR).log().mean()


def train_distill(
    config: DistillConfig,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> EMMDiT | None:
    """Distil, or go on distilling; returns the student, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises a BundleError for the teacher, ValueError for a pool or captions that do
    not fit it.
    """
    torch.set_num_threads(config.num_threads)
    bundle = read_bundle(config.teacher)
    device = choose_device(config.device)
    model = load_bundle(bundle, device=device, dtype=torch.float32)
    prompts, compared = split_prompts(read_prompts(model, config.dataset), config.num_compared)
    pool = open_pool(config, bundle, model, prompts)
    report(f"{len(prompts)} prompts; guidance {pool.teacher.guidance:g}; a new chunk every {config.chunk_steps} steps")
    if not config.checkpoint.exists():
        pool.forget_from(config.window)
    for index in range(config.window):
        if should_stop():
            return None
        pool.ensure(index)
        report(f"teacher's trajectories: {(index + 1) * config.chunk_rows} of {config.window * config.chunk_rows}")

    loop = build_loop(config, pool)
    steps = bundle.card.default_steps if config.teacher_steps is None else config.teacher_steps
    check = FidelityCheck(model, compared, steps=steps, guidance=pool.teacher.guidance, device=device)

    def tell_fidelity() -> None:
        fidelity = check.of(cast(EMMDiT, loop.average()), steps=config.num_steps)
        report(f"step {loop.step}: {fidelity} to the teacher's {steps} steps")

    meta = {"teacher_name": bundle.card.name, "teacher_version": bundle.card.version}
    if not loop.run(meta, report=report, should_stop=should_stop, on_checkpoint=tell_fidelity):
        return None
    tell_fidelity()
    return cast(EMMDiT, loop.average())
