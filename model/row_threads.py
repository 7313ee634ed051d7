"""A forward's rows dealt out to threads, each of which computes its own from beginning to end.

The usual way on a CPU shares every operation between all threads, and makes all of them wait for the last one at some
hundreds of places in a forward: whenever anything else needs a processor for a moment, all wait. Rows have nothing to
do with each other, so threads with rows of their own meet once. Weights are then read by each thread for itself, which
costs less than the meetings. Where there are fewer rows than threads, each row's thread gets helpers, as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch
from torch import Tensor

from model.forward import Forward


@contextmanager
def computing_with(num_threads: int) -> Iterator[None]:
    """Torch's operations in this thread share their work between so many. Those that are no longer needed go to sleep a
    few milliseconds later, and are in the way until then."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class RowThreads:
    """`forward`, on a CPU, with `num_threads` threads. One thread at a time calls it.

    `forward` lets go of Python's lock, and can be called from so many threads at once.
    """

    def __init__(self, forward: Forward, num_threads: int) -> None:
        self._forward = forward
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(max(num_threads - 1, 1), "rows")

    def __call__(self, latents: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        """Latents (b, c, h, w), text (b, t, channels), timestep (b,) -> velocity (b, c, h, w)."""
        num_parts = max(min(self._num_threads, len(latents)), 1)
        num_each = self._num_threads // num_parts
        split = (tensor.tensor_split(num_parts) for tensor in (latents, text, timestep))
        first, *others = zip(*split, strict=True)
        with computing_with(num_each):
            pending = [self._threads.submit(self._compute_apart, num_each, part) for part in others]
            try:
                velocity = self._forward(*first)
            finally:
                wait(pending)
        return torch.cat([velocity, *(part.result() for part in pending)])

    @torch.inference_mode()
    def _compute_apart(self, num_threads: int, part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        # Of each thread by itself, but for the matrix products, where it is one number for all: nobody sets it back.
        torch.set_num_threads(num_threads)
        return self._forward(*part)
