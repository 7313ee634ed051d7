"""Reading prepared training data: any samples by number, from any thread, in a few reads each.

Surprising: shards are opened when they are first needed and only the last used stay open, so that a hundred thousand
of them cost neither start-up time nor memory. Shapes: latents (b, c, h, w), text (b, t, channels), features
(b, n, channels).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.training.shards import (
    EMPTY_TEXT_NAME,
    ITEM_BYTES,
    HalfArray,
    ShardError,
    read_manifest,
    read_report,
    shard_name,
)

MAX_OPEN_SHARDS = 256


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """Samples read back: latents (b, c, h, w), text (b, t, channels), features (b, n, channels), captions."""

    latents: HalfArray
    text: HalfArray | None
    features: HalfArray | None
    captions: tuple[str, ...]


class PreparedData:
    """The samples of one or several folders as one list. Safe to read from several threads."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises ShardError unless all folders are finished and of one kind."""
        manifests = [read_manifest(folder) for folder in folders]
        self.manifest = manifests[0]
        self._shapes = self.manifest.array_shapes()
        self._columns = {name: column for column, name in enumerate(self._shapes)}
        self._stems: list[Path] = []
        counts: list[int] = []
        for folder, manifest in zip(folders, manifests, strict=True):
            if manifest.array_shapes() != self._shapes:
                raise ShardError(f"{folder} stores {manifest.array_shapes()}, but {folders[0]} {self._shapes}")
            reports = [read_report(folder, shard) for shard in range(manifest.num_shards)]
            finished = [report for report in reports if report is not None]
            if len(finished) < len(reports):
                raise ShardError(
                    f"{folder}: {len(finished)} of {len(reports)} shards are finished; run emmdit train prepare again"
                )
            self._stems += [folder / shard_name(shard) for shard in range(manifest.num_shards)]
            counts += [report.num_samples for report in finished]
        self._ends = np.cumsum(counts)
        if not len(self):
            raise ShardError(f"{folders[0]}: all samples were skipped; see its shard reports")
        kinds = [(manifest.source_digest, sorted(manifest.array_shapes())) for manifest in manifests]
        self.fingerprint = hashlib.sha256(json.dumps([kinds, counts]).encode()).hexdigest()
        self.empty_text: HalfArray | None = None
        if self.manifest.has_text:
            self.empty_text = np.load(folders[0] / EMPTY_TEXT_NAME)
        self._opened: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: npt.NDArray[np.integer[Any]], *, with_features: bool = False) -> PreparedBatch:
        """The samples at `indices`. Captions are read only where no text is stored. Raises ShardError for damage."""
        wanted = [name for name in self._shapes if with_features or name != "features.npy"]
        arrays = {name: np.empty((len(indices), *self._shapes[name]), np.float16) for name in wanted}
        for row, index in enumerate(indices):
            opened, position = self._find(int(index))
            for name, array in arrays.items():
                offset = int(opened.index[position, self._columns[name]])
                data = opened.read(offset, math.prod(self._shapes[name]) * ITEM_BYTES)
                array[row] = np.frombuffer(data, np.float16).reshape(self._shapes[name])
        captions = () if "text.npy" in arrays else self.captions(indices)
        return PreparedBatch(arrays["latent.npy"], arrays.get("text.npy"), arrays.get("features.npy"), captions)

    def captions(self, indices: npt.NDArray[np.integer[Any]]) -> tuple[str, ...]:
        """Cleaned captions of the samples at `indices`. Raises ShardError for damage."""
        captions = []
        for index in indices:
            opened, position = self._find(int(index))
            offset, size = (int(value) for value in opened.index[position, -2:])
            captions.append(str(json.loads(opened.read(offset, size))["caption"]))
        return tuple(captions)

    def _find(self, index: int) -> tuple[_OpenShard, int]:
        """The shard of a sample, and its place there."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return self._open(shard), index - (int(self._ends[shard - 1]) if shard else 0)

    def _open(self, shard: int) -> _OpenShard:
        with self._lock:
            if shard in self._opened:
                self._opened.move_to_end(shard)
                return self._opened[shard]
        opened = _OpenShard(self._stems[shard])
        with self._lock:
            self._opened[shard] = opened
            if len(self._opened) > MAX_OPEN_SHARDS:
                self._opened.popitem(last=False)  # closes once no thread reads it any more
        return opened


class _OpenShard:
    """A shard's file and index. Closed by whoever lets go of it last."""

    def __init__(self, stem: Path) -> None:
        self.path = stem.with_suffix(".tar")
        try:
            self.index: npt.NDArray[np.int64] = np.load(stem.with_suffix(".index.npy"))
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise ShardError(f"{self.path}: can't be opened: {error}") from error
        weakref.finalize(self, os.close, self._file)

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        if len(data) < size:
            raise ShardError(f"{self.path}: truncated: {size} bytes wanted at {offset}, {len(data)} there")
        return data
