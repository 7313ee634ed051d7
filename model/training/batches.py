"""Which samples, noise and timesteps a step trains on: a function of (seed, step, device), so runs resume exactly.

Every row of the global batch has a number and draws from a generator of its own. How the rows are dealt out, to how
many devices and in how many parts, therefore changes nothing about what is trained on.
Shapes: clean and noise (b, c, h, w), normal (b,), text (b, t, channels), features (b, n, channels).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.training.prepared_data import PreparedData
from model.training.recipe import RecipeError, TrainingValues

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """What one forward of one device is trained on. Latents and text are float16, as stored; draws are float32.

    `text` is None where captions alone are stored; a dropped caption is the empty one in either case.
    """

    clean: Tensor
    noise: Tensor
    normal: Tensor
    text: Tensor | None
    captions: tuple[str, ...]
    features: Tensor | None


@dataclass(frozen=True, slots=True)
class Deal:
    """How a global batch is dealt out: device `rank` of `world_size` takes its rows in `num_parts` forwards."""

    batch_size: int
    rank: int
    world_size: int
    num_parts: int

    @property
    def rows_per_part(self) -> int:
        """b."""
        return self.batch_size // self.world_size // self.num_parts

    def first_row(self, step: int, part: int) -> int:
        """Number of the first row, counted from the beginning of training."""
        return step * self.batch_size + (self.rank * self.num_parts + part) * self.rows_per_part


def deal(batch_size: int, rows_per_forward: int, rank: int, world_size: int) -> Deal:
    """Equal forwards of at most `rows_per_forward`. Raises RecipeError where the devices can't have equal shares."""
    if batch_size % world_size:
        raise RecipeError(f"training.batch_size {batch_size} can't be dealt out to {world_size} devices in equal parts")
    share = batch_size // world_size
    num_parts = next(parts for parts in range(-(-share // rows_per_forward), share + 1) if share % parts == 0)
    return Deal(batch_size, rank, world_size, num_parts)


class RecipeBatches:
    """Reads and draws the rows of any forward."""

    def __init__(self, data: PreparedData, values: TrainingValues, deal: Deal, *, with_features: bool) -> None:
        self._data = data
        self._values = values
        self._deal = deal
        self._with_features = with_features

    def rows(self, step: int, part: int) -> Rows:
        """The rows of forward number `part` of `step`. Raises ShardError where the data is damaged."""
        first = self._deal.first_row(step, part)
        numbers = range(first, first + self._deal.rows_per_part)
        latent_shape = self._data.manifest.latent_shape
        noise = np.empty((len(numbers), *latent_shape), np.float32)
        normal = np.empty(len(numbers), np.float32)
        is_dropped = np.empty(len(numbers), np.bool_)
        for index, number in enumerate(numbers):
            source = np.random.Generator(np.random.Philox(key=self._values.seed, counter=number << 192))
            is_dropped[index] = source.random() < self._values.caption_dropout
            normal[index] = source.standard_normal()
            source.standard_normal(dtype=np.float32, out=noise[index])
        batch = self._data.read(self._samples(numbers), with_features=self._with_features)
        if batch.text is not None and self._data.empty_text is not None:
            batch.text[is_dropped] = self._data.empty_text
        pairs = zip(batch.captions, is_dropped, strict=batch.text is None)
        return Rows(
            clean=torch.from_numpy(batch.latents),
            noise=torch.from_numpy(noise),
            normal=torch.from_numpy(normal),
            text=None if batch.text is None else torch.from_numpy(batch.text),
            captions=tuple("" if dropped else caption for caption, dropped in pairs),
            features=None if batch.features is None else torch.from_numpy(batch.features),
        )

    def _samples(self, numbers: range) -> NDArray[np.int64]:
        """Sample of each row: every epoch takes all samples once, in an order of its own."""
        places = np.asarray(numbers)
        epochs, positions = np.divmod(places, len(self._data))
        samples = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            order = _epoch_order(len(self._data), self._values.seed, int(epoch))
            samples[epochs == epoch] = order[positions[epochs == epoch]]
        return samples


@lru_cache(maxsize=2)  # a batch may lie across the border of two epochs
def _epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.uint32]:
    return np.random.default_rng((seed, epoch)).permutation(np.arange(num_samples, dtype=np.uint32))


class ReadAhead(Generic[T]):
    """Values of a pure function of a number, made in threads before they are asked for, in ascending order.

    `waited_s` adds up how long callers had to wait: what reading costs training.
    """

    def __init__(self, make: Callable[[int], T], *, num_ahead: int, num_threads: int) -> None:
        self.waited_s = 0.0
        self._make = make
        self._num_ahead = num_ahead
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read-ahead")
        self._pending: dict[int, Future[T]] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> T:
        """The value at `number`. Raises what making it raised."""
        with self._lock:
            for ahead in range(number, number + self._num_ahead + 1):
                if ahead not in self._pending:
                    self._pending[ahead] = self._pool.submit(self._make, ahead)
            for passed in [key for key in self._pending if key < number or key > number + self._num_ahead]:
                self._pending.pop(passed).cancel()
            future = self._pending.pop(number)
        started_s = time.perf_counter()
        value = future.result()
        self.waited_s += time.perf_counter() - started_s
        return value

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)
