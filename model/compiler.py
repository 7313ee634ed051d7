"""Compiles a network ahead of time: `python -m model.compiler TARGET FILE`, a process of its own.

Minutes of a busy processor, so it runs apart at the lowest priority, beside a worker that draws already. What it writes
holds code and no weights: one file serves every model of an architecture, and weights stay where they are. It ends when
its standard input does, that is with whoever started it, and two of them never compile the same file at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import torch
from torch.export import Dim, export

from model.compiled import CompileTarget
from model.fused import FusedEMMDiT
from model.transformer import EMMDiT

LOWEST_PRIORITY = 19
MAX_ROWS = 1024  # the settings allow no larger batch
_EXAMPLE_ROWS = 4  # one would be taken for a constant
_OPTIONS = {
    "aot_inductor.package_constants_in_so": False,
    "cpp.dynamic_threads": True,  # the worker's threads, not this process's
}


def compile_to(target: CompileTarget, path: Path) -> None:
    """Write the package of `target` to `path`, whole or not at all; nothing to do where it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        prefix = f".compiling-{path.stem}-"
        for left_over in path.parent.glob(f"{prefix}*"):  # of one that was killed: whoever holds the lock is alone
            shutil.rmtree(left_over)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            package = Path(folder) / path.name
            _compile(target, package)
            package.replace(path)


def _compile(target: CompileTarget, path: Path) -> None:
    config, dtype, device = target.config, getattr(torch, target.dtype), torch.device(target.device)
    # Values are of no use here: they are not written.
    network = FusedEMMDiT(EMMDiT(config).to(device=device, dtype=dtype))
    rows = Dim("rows", min=1, max=MAX_ROWS)
    example = (
        torch.zeros(_EXAMPLE_ROWS, config.in_channels, target.height, target.width, dtype=dtype, device=device),
        torch.zeros(_EXAMPLE_ROWS, config.num_text_tokens, config.caption_channels, dtype=dtype, device=device),
        torch.zeros(_EXAMPLE_ROWS, dtype=torch.float32, device=device),
    )
    with torch.no_grad():
        program = export(network, example, dynamic_shapes=({0: rows}, {0: rows}, {0: rows}), strict=False)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=_OPTIONS)


def _end_with_parent() -> None:
    """Wait for the end of standard input, then kill this process group: compilers that were started are in it."""
    while os.read(sys.stdin.fileno(), 1):  # not a Python file, whose lock would outlive the interpreter
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Compile what the command line says."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(LOWEST_PRIORITY)
    warnings.simplefilter("ignore")  # torch's own, about itself
    torch.set_num_threads(1)
    try:
        compile_to(CompileTarget.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]))
    except Exception as error:  # whatever Inductor or a compiler says: whoever started this reads the last line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


if __name__ == "__main__":
    main()
