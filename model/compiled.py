"""Forwards of a network compiled ahead of time (AOTInductor): made beside the service, kept on disk, loaded in no time.

A worker draws with the network as it is from its first second, and changes over between two steps when the compiled one
is there (docs/decisions/compiled-network.md). What is loaded is first compared with the network that it shall replace.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from model.config import ModelConfig
from model.forward import Forward
from model.fused import FusedEMMDiT
from model.row_threads import RowThreads
from model.unlocked_package import UnlockedPackage

# Largest difference from the network, in units of the spread of its velocities: rounding is far below, mistakes above.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
_SOURCES = ("fused.py", "transformer.py", "compiler.py")
_POLL_S = 0.2


class CompileError(Exception):
    """The network can't be compiled here, or not to the same numbers. The message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class CompileTarget:
    """What one package is for: an architecture, a size of latents, a number format and a kind of device."""

    config: ModelConfig
    height: int
    width: int
    dtype: str
    device: str

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CompileTarget:
        """The reverse of `to_json`."""
        return cls(**{**values, "config": ModelConfig.from_dict(values["config"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "config": self.config.to_dict()}

    @property
    def file_name(self) -> str:
        """Differs wherever the code may: another torch, processor, device or source of ours."""
        sources = [(Path(__file__).parent / name).read_bytes() for name in _SOURCES]
        key = [json.dumps(self.to_json(), sort_keys=True), torch.__version__, _hardware(torch.device(self.device))]
        digest = hashlib.sha256(b"\0".join([*sources, *(part.encode() for part in key)])).hexdigest()
        return f"emmdit-{self.height}x{self.width}-{digest[:24]}.pt2"


def _hardware(device: torch.device) -> str:
    if device.type != "cpu":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} {getattr(properties, 'gcnArchName', torch.cuda.get_device_capability(device))}"
    try:  # code for one processor may not run on another
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("flags")), torch.backends.cpu.get_cpu_capability())


def find_compiler(device: torch.device) -> str | None:
    """The C++ compiler that compiling for `device` needs, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def compile_apart(target: CompileTarget, cache_dir: Path, is_cancelled: threading.Event) -> Path:
    """The package of `target` in `cache_dir`, compiled by a process of its own where it is not there yet: minutes.

    Raises CompileError, also when `is_cancelled`.
    """
    path = cache_dir / target.file_name
    if path.exists():
        return path
    if find_compiler(torch.device(target.device)) is None:
        raise CompileError("there is no C++ compiler (g++, clang++ or what CXX names)")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CompileError(f"compiled networks can't be kept: {error}") from error
    arguments = [sys.executable, "-m", "model.compiler", json.dumps(target.to_json()), str(path)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=log) as process,
    ):
        while process.poll() is None:
            if is_cancelled.wait(_POLL_S):
                cast(Any, process.stdin).close()  # which ends it, and all that it started
                process.wait()
                raise CompileError("given up, as this process ends")
        if process.returncode != 0 or not path.exists():
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
            raise CompileError(f"compiling failed ({process.returncode}): {last}")
    return path


def load_compiled(path: Path, target: CompileTarget, network: FusedEMMDiT, num_threads: int) -> Forward:
    """The package at `path` over the weights of `network`, which it shares; on a CPU it computes with so many threads.

    Raises CompileError where it can't be loaded or says something else than the network.
    """
    try:
        package = _open_package(path, torch.device(target.device), num_threads)
        weights, names = network.state_dict(), package.get_constant_fqns()
        if inlined := sorted(set(weights) - set(names)):  # Inductor writes vectors of up to eight values into the code
            raise CompileError(
                f"{path} holds values of its own instead of {', '.join(inlined)}: too short to be weights"
            )
        package.load_constants({name: weights[name] for name in names}, check_full_update=True, user_managed=True)
    except (RuntimeError, OSError, KeyError) as error:
        raise CompileError(f"{path} can't be loaded: {error}") from error
    compiled = cast(Forward, package)
    difference = _difference(compiled, target, network)
    if not difference <= TOLERANCES[target.dtype]:
        raise CompileError(f"{path} differs from the network by {difference:.3g} of its velocities' spread")
    return RowThreads(compiled, num_threads) if isinstance(package, UnlockedPackage) else compiled


def _open_package(path: Path, device: torch.device, num_threads: int) -> Any:  # noqa: ANN401  (torch's own has no type)
    if device.type == "cpu" and (package := UnlockedPackage.open(path, num_threads)) is not None:
        return package
    return torch._inductor.aoti_load_package(str(path), device_index=-1 if device.index is None else device.index)


@torch.inference_mode()
def _difference(compiled: Forward, target: CompileTarget, network: FusedEMMDiT) -> float:
    """Largest difference of both velocities of two rows, in units of their spread; NaN where one is not finite."""
    generator = torch.Generator().manual_seed(0)
    dtype, config = getattr(torch, target.dtype), target.config
    latents = torch.randn(2, config.in_channels, target.height, target.width, generator=generator)
    text = torch.randn(2, config.num_text_tokens, config.caption_channels, generator=generator)
    rows = latents.to(target.device, dtype), text.to(target.device, dtype)
    timestep = torch.tensor([750.0, 250.0], device=target.device)
    expected, found = network(*rows, timestep).float(), compiled(*rows, timestep).float()
    return float((expected - found).abs().max() / expected.std())
