"""What a figure was measured on: processor, memory, commit, versions, and how fast this machine multiplies matrices.

The product rate is measured, not looked up: on a shared or throttled machine the data sheet says nothing.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow")
CPU_SIDES = (256, 1024, 2048, 4096)  # the first is small enough for bfloat16 without hardware for it
GPU_SIDES = (4096, 8192)
MAX_CALL_S = 1.0  # a product that would take longer is not measured
NUM_CALLS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine as it was when measured."""

    processor: str
    num_cores: int
    memory_gib: float
    device: str
    num_threads: int
    load_average: float
    commit: str
    versions: dict[str, str]
    measured_at: str


def describe_machine(device: torch.device | None = None) -> Machine:
    """This machine now. `device` None is for what computes nothing."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=processor_name(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages * page_bytes / 2**30, 1),
        device=torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else "cpu",
        num_threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 2),
        commit=commit(),
        versions={name: _version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def processor_name() -> str:
    """The processor's name and its number formats that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", "").split()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{values.get('model name', platform.machine())} ({', '.join(known)})"


def commit() -> str:
    """The checkout's commit, "+changes" where files differ from it, "unknown" outside a checkout."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def product_rates(device: torch.device, dtype: torch.dtype, sides: tuple[int, ...] = ()) -> dict[int, float]:
    """Floating-point operations a second of a product of two square matrices, by their side: median of five calls.

    Sides whose product would take longer than a second are left out, but for the first.
    """
    rates: dict[int, float] = {}
    for side in sides or (GPU_SIDES if device.type == "cuda" else CPU_SIDES):
        num_flops = 2 * side**3
        if rates and num_flops / max(rates.values()) > MAX_CALL_S:
            break
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = timed(lambda left=left, right=right: left @ right, device, num_calls=NUM_CALLS)  # type: ignore[misc]
        rates[side] = num_flops / statistics.median(seconds)
    return rates


def timed(call: Callable[[], object], device: torch.device, *, num_calls: int, num_warm: int = 1) -> list[float]:
    """Seconds of each of `num_calls` calls, after `num_warm` that do not count."""
    seconds = []
    for number in range(num_warm + num_calls):
        synchronize(device)
        started_s = time.perf_counter()
        call()
        synchronize(device)
        if number >= num_warm:
            seconds.append(time.perf_counter() - started_s)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for everything that was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
