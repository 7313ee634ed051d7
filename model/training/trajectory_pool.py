"""Lessons for a few-step student, on disk: where it may start in each segment, and the teacher's velocity from there.

The pool grows by chunks. The first ones start where the teacher passes; later ones where the student itself arrives
(DAgger, arXiv 1011.0686; for flows 2510.14974): one that knows only its teacher's states never learns to mend its own
errors. A chunk is a function of the seed, its number and, if it has one, the student; a file that is there is not
made again. Shapes: n rows, k segments, latents (c, h, w).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.text import TextEncoder
from model.training.trajectories import Segment, Teacher, correct, follow, one_forward


@dataclass(frozen=True, slots=True)
class Lessons:
    """Rows of one batch: at `states` (n, c, h, w) and `sigmas` (n,), with `embeddings` (n, t, channels), the teacher's
    average velocity to the segment's end is `targets` (n, c, h, w)."""

    states: Tensor
    embeddings: Tensor
    sigmas: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True)
class TrajectoryPool:
    """Chunks of `chunk_rows` trajectories over `route`, each of a prompt drawn from `prompts`, in `folder`."""

    folder: Path
    prompts: Sequence[str]
    text: TextEncoder
    teacher: Teacher
    route: Sequence[Segment]
    latent_shape: tuple[int, int, int]
    chunk_rows: int
    seed: int
    device: torch.device
    _opened: dict[int, NDArray[np.float16]] = field(default_factory=dict)
    _cleaned: dict[str, str] = field(default_factory=dict)  # cleaning takes half a millisecond a prompt

    def claim(self, identity: dict[str, Any]) -> None:
        """Say what this pool's chunks are made from. Raises ValueError where the folder holds another pool."""
        path = self.folder / "pool.json"
        values = {**identity, "route": [list(segment) for segment in self.route], "chunk_rows": self.chunk_rows}
        values |= {"seed": self.seed, "num_substeps": self.teacher.num_substeps, "guidance": self.teacher.guidance}
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            if differing := sorted(key for key in values if found.get(key) != values[key]):
                raise ValueError(f"{self.folder} holds other trajectories ({', '.join(differing)} differ); remove it")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1), "utf-8")

    def forget_from(self, index: int) -> None:
        """Remove the chunks from this number on: those that an earlier run's student began."""
        for path in self.folder.glob("*.npy"):
            if int(path.stem) >= index:
                path.unlink()

    def ensure(self, index: int, student: nn.Module | None = None) -> None:
        """Make a chunk if its file is missing: on the `student`'s own way, or, without one, on the teacher's."""
        path = self._path(index)
        if path.exists():
            return
        noise = torch.randn(
            (self.chunk_rows, *self.latent_shape),
            generator=torch.Generator().manual_seed(self.seed * 1_000_003 + index),
        ).to(self.device)
        embeddings = self._embeddings(self._prompts_of(index))
        if student is None:
            passed, velocities = follow(self.teacher.average_velocity, noise, embeddings, self.route)
            states, targets = torch.stack(passed[:-1], 1), torch.stack(velocities, 1)
        else:
            # The last segment's end starts nothing, so it needs no forward of the student.
            reached, _ = follow(one_forward(student), noise, embeddings, self.route[:-1])
            states = torch.stack(reached, 1)
            targets = correct(self.teacher, states, embeddings, self.route)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        with draft.open("wb") as file:
            np.save(file, torch.stack([states, targets]).cpu().numpy().astype(np.float16))
        draft.replace(path)

    def lessons(self, step: int, num_rows: int, chunks: range) -> Lessons:
        """The batch of a training step, drawn evenly from these chunks; a function of the seed and the step.

        Row i is in segment i modulo k.
        """
        rng = np.random.default_rng((self.seed, 1, step))
        picked_chunks = rng.integers(chunks.start, chunks.stop, num_rows).tolist()
        picked_rows = rng.integers(0, self.chunk_rows, num_rows).tolist()
        for index in [index for index in self._opened if index not in chunks]:
            del self._opened[index]
        stored, starts, prompts = [], [], []
        for i, (chunk, row) in enumerate(zip(picked_chunks, picked_rows, strict=True)):
            k = i % len(self.route)
            stored.append(self._open(chunk)[:, row, k])
            starts.append(self.route[k][0])
            prompts.append(self.prompts[self._choice(chunk)[row]])
        states, targets = torch.from_numpy(np.stack(stored, 1).astype(np.float32)).to(self.device)
        return Lessons(states, self._embeddings(prompts), torch.tensor(starts, device=self.device), targets)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def _open(self, index: int) -> NDArray[np.float16]:
        """A chunk (states and targets, n, k, c, h, w), mapped."""
        if index not in self._opened:
            self._opened[index] = np.load(self._path(index), mmap_mode="r")
        return self._opened[index]

    def _choice(self, index: int) -> NDArray[np.int64]:
        return np.random.default_rng((self.seed, 0, index)).integers(0, len(self.prompts), self.chunk_rows)

    def _prompts_of(self, index: int) -> list[str]:
        return [self.prompts[row] for row in self._choice(index)]

    def _embeddings(self, prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            if prompt not in self._cleaned:
                self._cleaned[prompt] = self.text.clean(prompt)
        return self.text.encode([self._cleaned[prompt] for prompt in prompts]).float()
