"""C code of ours for loops that torch has no operation for: compiled in a second, where it is used.

Where there is no C compiler, whoever wants the code does without it. ctypes calls it without Python's lock.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

_OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC")
_TIMEOUT_S = 60.0


@cache
def load_native(name: str) -> ctypes.CDLL | None:
    """The code of `name`.c beside this file; None where it can't be compiled here, which is logged once."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.warning("no C compiler (cc, gcc, clang or what CC names): %s goes on without code of its own", name)
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, f"{name}.so")
        command = [compiler, *_OPTIONS, "-o", str(library), str(Path(__file__).with_name(f"{name}.c"))]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
            return ctypes.CDLL(str(library))
        except (subprocess.SubprocessError, OSError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
            logger.warning("%s goes on without code of its own, which can't be compiled: %s", name, " ".join(said))
            return None
