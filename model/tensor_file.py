"""Safetensors files seen from outside: header checks before anything is loaded, and a writer that streams.

Standard library only. The safetensors library reads the data; this file exists because its own messages name
neither the tensors that are missing nor what to do, and because its writer wants every tensor in memory at once.
Layout: 8 bytes little-endian header length, JSON header padded with spaces to a multiple of 8, data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import (
    MisshapedTensors,
    MissingTensors,
    NotSafetensors,
    TruncatedFile,
    UnknownTensors,
    WrongDtype,
)

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}
ITEM_BYTES |= {f"{sign}{bits}": bits // 8 for sign in "IU" for bits in (8, 16, 32, 64)}
SERVED_DTYPES = ("F32", "BF16", "F16")
_MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One header entry: safetensors dtype code ("F32", "BF16", ...) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name -> TensorInfo of every tensor in the file, in the order of their data.

    Raises NotSafetensors or TruncatedFile; reads nothing but the header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8:
            raise TruncatedFile(path, f"{size} bytes are too few for a safetensors header")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise NotSafetensors(path, _describe_start(start))
        if length > size - 8:
            raise TruncatedFile(path, f"truncated inside its header: {length + 8} bytes needed, {size} there")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        spans = sorted(_span(name, entry) for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise NotSafetensors(path, f"not a safetensors file (unreadable header: {error})") from error
    _check_spans(path, spans, size - 8 - length)
    return {name: info for _, _, name, info in spans}


def check_tensors(
    path: Path,
    found: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    ignored_prefixes: tuple[str, ...] = (),
) -> None:
    """Raise MissingTensors, UnknownTensors, MisshapedTensors or WrongDtype unless `found` is exactly `expected`."""
    if missing := [name for name in expected if name not in found]:
        raise MissingTensors(path, f"of {len(expected)} tensors missing", missing)
    if unknown := [name for name in found if name not in expected and not name.startswith(ignored_prefixes or ("\0",))]:
        raise UnknownTensors(path, "unknown tensors", unknown)
    if misshaped := [name for name in expected if found[name].shape != expected[name]]:
        details = [f"{name} is {list(found[name].shape)}, not {list(expected[name])}" for name in misshaped]
        raise MisshapedTensors(path, "tensors of the wrong shape", misshaped, details)
    if wrong := [name for name in expected if found[name].dtype not in SERVED_DTYPES]:
        details = [f"{name} is {found[name].dtype}" for name in wrong]
        raise WrongDtype(path, f"tensors of a type other than {', '.join(SERVED_DTYPES)}", wrong, details)


def write_tensors(
    path: Path,
    tensors: Sequence[tuple[str, TensorInfo]],
    make: Callable[[str, TensorInfo], Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file tensor by tensor: `make` returns each one's bytes (any contiguous buffer).

    At most one tensor is held at a time. The file appears under its name only when it is complete.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, info in tensors:
        header[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.num_bytes],
        }
        offset += info.num_bytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little"))
        file.write(raw)
        for name, info in tensors:
            data = memoryview(make(name, info)).cast("B")
            if data.nbytes != info.num_bytes:
                raise ValueError(f"{name}: {data.nbytes} bytes made, {info.num_bytes} announced")
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str, TensorInfo]:
    begin, end = entry["data_offsets"]
    info = TensorInfo(entry["dtype"], tuple(int(side) for side in entry["shape"]))
    if info.dtype not in ITEM_BYTES:
        raise ValueError(f"{name} has the unknown type {info.dtype!r}")
    if end - begin != info.num_bytes:
        raise ValueError(f"{name} spans {end - begin} bytes, its shape needs {info.num_bytes}")
    return int(begin), int(end), name, info


def _check_spans(path: Path, spans: Sequence[tuple[int, int, str, TensorInfo]], data_bytes: int) -> None:
    position = 0
    for begin, end, name, _ in spans:
        if begin != position:
            raise NotSafetensors(path, f"{name} starts at byte {begin} of the data, not at {position}")
        position = end
    if position > data_bytes:
        raise TruncatedFile(path, f"truncated: its header announces {position} bytes of data, {data_bytes} are there")
    if position < data_bytes:
        raise NotSafetensors(path, f"{data_bytes - position} bytes follow the last tensor")


def _describe_start(start: bytes) -> str:
    """What is most often found in place of a tensor file, told from its first eight bytes."""
    if start.startswith(b"version "):
        return "a Git LFS pointer, not the file itself: run `git lfs pull` or fetch it again"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "a PyTorch pickle, which can carry code: only safetensors files are loaded"
    if start.lstrip().startswith((b"<", b"{")):
        return "a text file (a saved web page or an error message), not tensors"
    return f"not a safetensors file (its first 8 bytes claim a header of {int.from_bytes(start, 'little')} bytes)"
