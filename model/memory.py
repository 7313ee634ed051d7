"""A device's memory when there is not enough of it: how that is told from other errors, and what helps."""

from __future__ import annotations

import torch

# What else than torch.OutOfMemoryError says so: the CPU's allocator, and libraries that allocate for themselves.
_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the same work, in smaller pieces, may succeed on the same device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def release_memory() -> None:
    """Give back what torch keeps of the device's memory without using it: in pieces, it may be of no use to a forward.

    To be called when the error is no longer held, since its traceback keeps the forward's tensors.
    """
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
