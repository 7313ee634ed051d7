"""Which PyTorch is installed, which devices it can use, and which this machine seems to have beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

AMD_NODE = Path("/dev/kfd")
NVIDIA_NODE = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One GPU. `problem` is what went wrong with a small computation on it, "" where nothing did."""

    name: str
    total_bytes: int
    free_bytes: int
    problem: str


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`backend` is "cpu", "cuda 12.8" or "rocm 6.4"; `unused` the make of GPUs here that this build cannot use."""

    version: str
    backend: str
    devices: tuple[DeviceFacts, ...]
    num_threads: int
    unused: str


def inspect_torch() -> TorchBuild:
    """Look, and compute something small on every GPU: a build may lack code for one that it sees."""
    hip: str | None = torch.version.hip
    cuda: str | None = torch.version.cuda
    backend = f"rocm {hip}" if hip else f"cuda {cuda}" if cuda else "cpu"
    devices = tuple(_facts(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    unused = ""
    if not devices and AMD_NODE.exists():
        unused = "AMD"
    elif not devices and NVIDIA_NODE.exists():
        unused = "NVIDIA"
    return TorchBuild(torch.__version__, backend, devices, torch.get_num_threads(), unused)


def _facts(index: int) -> DeviceFacts:
    name = torch.cuda.get_device_name(index)
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(index)
        torch.ones(8, 8, device=f"cuda:{index}").matmul(torch.ones(8, 8, device=f"cuda:{index}")).sum().item()
    except RuntimeError as error:
        return DeviceFacts(name, 0, 0, str(error).splitlines()[0])
    return DeviceFacts(name, total_bytes, free_bytes, "")
