"""Writing prepared training data: WebDataset shards, each with an index, so that any sample is a few reads away.

A folder holds dataset.json (what the arrays are), empty_text.npy (the empty caption's embedding) and, for each shard,
NAME.tar (which any WebDataset reader takes), NAME.index.npy (where every sample's parts lie) and, written last,
NAME.json (counts): its presence says that the shard is finished. All arrays are float16.
"""

from __future__ import annotations

import json
import math
import os
import socket
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

HalfArray = npt.NDArray[np.float16]

FORMAT_VERSION = 1
MANIFEST_NAME = "dataset.json"
EMPTY_TEXT_NAME = "empty_text.npy"
CAPTION_MEMBER = "json"
ITEM_BYTES = 2


class ShardError(ValueError):
    """Prepared data that is not there, not finished, damaged, or of another kind. The message is for the operator."""


@dataclass(frozen=True, slots=True)
class PreparedManifest:
    """What a folder of prepared data was made from, and the shapes of its arrays.

    `bundle` is the folder whose autoencoder and text encoder made them. Where `has_text` is False, captions alone are
    stored, and training reads them with that text encoder; `feature_shape` None: no features are.
    """

    source_digest: str
    num_shards: int
    shard_samples: int
    bundle: str
    bundle_name: str
    bundle_version: str
    size_px: int
    latent_shape: tuple[int, int, int]
    text_shape: tuple[int, int]
    has_text: bool
    feature_shape: tuple[int, int] | None

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Member name -> shape of every stored array, in the order of the index's columns."""
        shapes: dict[str, tuple[int, ...]] = {"latent.npy": self.latent_shape}
        if self.has_text:
            shapes["text.npy"] = self.text_shape
        if self.feature_shape is not None:
            shapes["features.npy"] = self.feature_shape
        return shapes


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of a shard: samples written, of these too small or with cut captions, and what was left out and why."""

    num_samples: int
    num_enlarged: int
    num_cut_captions: int
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One sample on its way to disk. `caption` is cleaned; `num_tokens` counts its tokens before any cutting."""

    name: str
    caption: str
    num_tokens: int
    latents: HalfArray
    text: HalfArray | None
    features: HalfArray | None


def claim_folder(folder: Path, manifest: PreparedManifest) -> None:
    """Make `folder` one of this manifest's, for any number of processes. Raises ShardError where it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MANIFEST_NAME
    if path.exists():
        found, wanted = asdict(read_manifest(folder)), asdict(manifest)
        # The same bundle may lie elsewhere on another machine.
        if differing := sorted(key for key in wanted if key != "bundle" and found[key] != wanted[key]):
            raise ShardError(
                f"{folder} holds data prepared in another way ({', '.join(differing)} differ); use another"
            )
    else:
        write_atomically(path, json.dumps({"format_version": FORMAT_VERSION, **asdict(manifest)}, indent=1).encode())
    remove_dead_drafts(folder)


def read_manifest(folder: Path) -> PreparedManifest:
    """The manifest of a folder of prepared data. Raises ShardError where it is none, or of another release."""
    path = folder / MANIFEST_NAME
    try:
        values = json.loads(path.read_text("utf-8"))
        version = values.pop("format_version")
        for key in ("latent_shape", "text_shape", "feature_shape"):
            values[key] = None if values[key] is None else tuple(values[key])
        manifest = PreparedManifest(**values)
    except FileNotFoundError:
        raise ShardError(
            f"{folder} holds no prepared data (no {MANIFEST_NAME}): emmdit train prepare makes it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path}: unreadable: {error}") from error
    if version != FORMAT_VERSION:
        raise ShardError(f"{path}: this release reads format version {FORMAT_VERSION}, not {version}")
    return manifest


def read_report(folder: Path, shard: int) -> ShardReport | None:
    """What came of a shard; None while it is not finished."""
    path = folder / f"{shard_name(shard)}.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text("utf-8"))
    return ShardReport(**{**values, "skipped": tuple((name, reason) for name, reason in values["skipped"])})


def shard_name(shard: int) -> str:
    """The stem of a shard's files."""
    return f"shard-{shard:06d}"


def write_atomically(path: Path, data: bytes) -> None:
    """The file appears whole or not at all, whoever else writes it."""
    draft = _draft_path(path)
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


class ShardWriter:
    """One shard being written, as a context: unless `finish` is reached, nothing of it stays."""

    def __init__(self, folder: Path, shard: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        from webdataset.writer import TarWriter  # imports torch's data loading: seconds

        self._shapes = shapes
        self._home = folder / shard_name(shard)
        self._path = folder / f"{shard_name(shard)}.tar"
        self._draft = _draft_path(self._path)
        self._file = self._draft.open("wb")
        # A fixed time makes the same samples the same bytes.
        self._tar = TarWriter(self._file, encoder=False, mtime=0.0)
        self.num_samples = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk: what is half written goes anyway
            self._tar.close()
            self._file.close()
        self._draft.unlink(missing_ok=True)

    def add(self, sample: PreparedSample) -> None:
        """Append one sample. Raises ArithmeticError where a value is no float16 number, ValueError for other shapes."""
        arrays = {"latent.npy": sample.latents, "text.npy": sample.text, "features.npy": sample.features}
        members: dict[str, Any] = {"__key__": f"{self._home.name}-{self.num_samples:06d}"}
        for name, shape in self._shapes.items():
            array = arrays[name]
            if array is None or array.shape != shape or array.dtype != np.float16:
                raise ValueError(f"{name} must be float16 {shape}, got {None if array is None else array.shape}")
            if not np.isfinite(array).all():
                raise ArithmeticError(f"its {name} holds values that are no float16 numbers")
            members[name] = npy_bytes(array)
        about = {"caption": sample.caption, "name": sample.name, "num_tokens": sample.num_tokens}
        members[CAPTION_MEMBER] = json.dumps(about).encode()
        self._tar.write(members)
        self.num_samples += 1

    def finish(self, report: ShardReport) -> None:
        """Put the shard in its place: the tar, then its index, then the report that calls it finished."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        index = npy_bytes(_index_tar(self._draft, self._shapes))
        self._draft.replace(self._path)
        write_atomically(self._home.with_suffix(".index.npy"), index)
        write_atomically(self._home.with_suffix(".json"), json.dumps(asdict(report), indent=1).encode())


def _index_tar(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> npt.NDArray[np.int64]:
    """Per sample: each array's byte offset, behind its .npy header; then the caption's offset and size."""
    columns = {name: column for column, name in enumerate(shapes)}
    rows: dict[str, npt.NDArray[np.int64]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, name = member.name.partition(".")
            row = rows.setdefault(key, np.zeros(len(shapes) + 2, np.int64))
            if name == CAPTION_MEMBER:
                row[-2:] = member.offset_data, member.size
            else:
                row[columns[name]] = member.offset_data + member.size - math.prod(shapes[name]) * ITEM_BYTES
    return np.array(list(rows.values()), np.int64).reshape(-1, len(shapes) + 2)


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """The array as a .npy file."""
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _draft_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")


def remove_dead_drafts(folder: Path) -> None:
    """What processes of this machine left behind that were killed."""
    for path in folder.glob(f"*.{socket.gethostname()}-*.part"):
        if not _is_running(int(path.suffixes[-2].rpartition("-")[2])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
