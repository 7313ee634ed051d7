"""Where training pictures and their captions come from: a folder, WebDataset shards, or a rendered emoji world.

A source is cut into shards whose content depends on the source alone, so that any number of processes and machines
can share the work. Pictures are opened late, by whoever needs them: a broken file is one sample's trouble.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from model.training.dataset import load_dataset
from model.training.recolor import ByteArray

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp")
TABLE_NAMES = ("captions.jsonl", "metadata.jsonl")
FILE_KEYS = ("file_name", "file", "image")
CAPTION_KEYS = ("caption", "text", "prompt")


class SourceError(ValueError):
    """A folder that holds nothing to prepare, or a table that can't be read. The message is for the operator."""


class Unusable(Exception):
    """One picture or caption that can't be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """A picture and its caption, unopened: paths, or what a shard held in their place (None: nothing)."""

    name: str
    picture: Path | bytes | ByteArray
    caption: Path | str | None


class Source(Protocol):
    """Samples in shards. `num_samples` is None where counting would mean reading everything."""

    @property
    def num_shards(self) -> int:
        """How many shards there are."""

    @property
    def num_samples(self) -> int | None:
        """How many samples there are, broken ones included."""

    def read(self, shard: int) -> Iterator[RawSample]:
        """The samples of one shard, always in the same order. Raises Unusable where the shard breaks off."""

    def digest(self) -> str:
        """Changes when the source holds other samples."""


def open_source(path: Path, shard_samples: int) -> Source:
    """The source at `path`, in shards of `shard_samples` (WebDataset shards stay as they are).

    Raises SourceError where there is nothing to prepare.
    """
    if path.is_file() and path.suffix == ".tar":
        return TarSource((path,))
    if not path.is_dir():
        raise SourceError(f"{path}: neither a folder nor a .tar file")
    if (path / "world.json").is_file():
        return WorldSource(path, shard_samples)
    if tars := sorted(path.glob("*.tar")):
        return TarSource(tuple(tars))
    return FolderSource(path, shard_samples)


class FolderSource:
    """Pictures in a folder and below, each with a .txt of the same name, or all named in one table.

    The table (captions.jsonl or metadata.jsonl) has one JSON object a line, with `file_name` and `caption` or `text`.
    """

    def __init__(self, folder: Path, shard_samples: int) -> None:
        self.folder = folder
        self.shard_samples = shard_samples
        tables = [folder / name for name in TABLE_NAMES if (folder / name).is_file()]
        self.table: Mapping[str, str] | None = _read_table(tables[0]) if tables else None
        found = (path for path in folder.rglob("*") if path.suffix.lower()[1:] in PICTURE_ENDINGS)
        self.names: Sequence[str] = sorted(self.table) if self.table else sorted(_relative(p, folder) for p in found)
        if not self.names:
            raise SourceError(f"{folder}: no pictures ({', '.join(PICTURE_ENDINGS)}), no {' or '.join(TABLE_NAMES)}")

    @property
    def num_samples(self) -> int:
        """One for each picture."""
        return len(self.names)

    @property
    def num_shards(self) -> int:
        """The last one may hold fewer."""
        return -(-len(self.names) // self.shard_samples)

    def read(self, shard: int) -> Iterator[RawSample]:
        """The pictures of one shard, by name."""
        for name in self.names[shard * self.shard_samples : (shard + 1) * self.shard_samples]:
            path = self.folder / name
            yield RawSample(name, path, path.with_suffix(".txt") if self.table is None else self.table[name])

    def digest(self) -> str:
        """Of the names."""
        return _digest(self.names)


class TarSource:
    """WebDataset shards: .tar files whose members of one key are a picture and a .txt or .json caption."""

    num_samples = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    @property
    def num_shards(self) -> int:
        """One for each file."""
        return len(self.paths)

    def read(self, shard: int) -> Iterator[RawSample]:
        """The samples of one file. Raises Unusable at its end where it is broken from some byte on."""
        from webdataset.tariterators import group_by_keys, tar_file_expander  # imports torch's data loading: seconds

        path = self.paths[shard]
        problems: list[Exception] = []

        def stop_at(problem: Exception) -> bool:
            problems.append(problem)
            return False

        with path.open("rb") as file:
            members = tar_file_expander([{"url": str(path), "stream": file}], handler=stop_at)
            for sample in group_by_keys(members, handler=stop_at):
                yield _from_members(f"{path.name}/{sample['__key__']}", sample)
        if problems:
            raise Unusable(f"broken shard: {problems[0].args[0]}")

    def digest(self) -> str:
        """Of the files' names."""
        return _digest([path.name for path in self.paths])


class WorldSource:
    """Rendered scenes of the emoji world, for trying a recipe without any picture of one's own."""

    def __init__(self, folder: Path, shard_samples: int) -> None:
        self.dataset = load_dataset(folder)
        self.shard_samples = shard_samples
        if not self.dataset.captions:
            raise SourceError(f"{folder}: no scene has been rendered yet")

    @property
    def num_samples(self) -> int:
        """Finished scenes."""
        return len(self.dataset.captions)

    @property
    def num_shards(self) -> int:
        """The last one may hold fewer."""
        return -(-len(self.dataset.captions) // self.shard_samples)

    def read(self, shard: int) -> Iterator[RawSample]:
        """The scenes of one shard."""
        for index in range(self.num_samples)[shard * self.shard_samples : (shard + 1) * self.shard_samples]:
            yield RawSample(f"scene {index}", self.dataset.pixels[index], self.dataset.captions[index])

    def digest(self) -> str:
        """Of the captions."""
        return _digest(self.dataset.captions)


@dataclass(frozen=True, slots=True)
class Picture:
    """An opened sample: pixels (size, size, 3) uint8; `is_enlarged` where the original was smaller."""

    name: str
    pixels: ByteArray
    caption: str
    is_enlarged: bool


def open_sample(sample: RawSample, size_px: int) -> Picture:
    """Decode, turn as its EXIF says, scale and crop to the middle square. Raises Unusable with the reason."""
    caption = _read_caption(sample.caption)
    try:
        with _open_picture(sample.picture) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            is_enlarged = min(upright.size) < size_px
            square = ImageOps.fit(upright.convert("RGB"), (size_px, size_px), Image.Resampling.BICUBIC)
    # What a broken picture makes Pillow raise depends on its format; SyntaxError and struct.error are among it.
    except Exception as error:
        raise Unusable(
            f"unreadable picture: {error}" if str(error) else f"unreadable: {type(error).__name__}"
        ) from error
    return Picture(sample.name, np.asarray(square), caption, is_enlarged)


def _open_picture(picture: Path | bytes | ByteArray) -> Image.Image:
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    return Image.open(BytesIO(picture) if isinstance(picture, bytes) else picture)


def _read_caption(caption: Path | str | None) -> str:
    if isinstance(caption, Path):
        try:
            caption = caption.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"no caption: {error}") from error
    if caption is None or not caption.strip():
        raise Unusable("no caption")
    return caption.strip()


def _read_table(path: Path) -> dict[str, str]:
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            name = next(values[key] for key in FILE_KEYS if key in values)
            captions[name] = next(values[key] for key in CAPTION_KEYS if key in values)
        except (ValueError, TypeError, StopIteration):
            wanted = f"one of {', '.join(FILE_KEYS)} and one of {', '.join(CAPTION_KEYS)}"
            raise SourceError(f"{path}, line {number}: not a JSON object with {wanted}") from None
    return captions


def _from_members(name: str, members: Mapping[str, Any]) -> RawSample:
    """A sample of a tar file: `members` maps endings to bytes. A missing picture shows as one that can't be read."""
    picture = next((members[ending] for ending in PICTURE_ENDINGS if ending in members), b"")
    caption: str | None = None
    if "txt" in members:
        caption = members["txt"].decode("utf-8", "replace")
    elif "json" in members:
        try:
            values = json.loads(members["json"])
            caption = next((str(values[key]) for key in CAPTION_KEYS if key in values), None)
        except (ValueError, TypeError):
            caption = None
    return RawSample(name, picture, caption)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _digest(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()
