"""Stored PNGs -> what a client asked for: png, jpeg or webp. A PNG passes through untouched.

What a picture says about itself goes along, and nothing else: the PNG's text chunks, which are the operator's choice
(service/png.py), become the Exif UserComment, as JSON. Pillow is loaded with the first picture that needs it.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.jobs import Job

DEFAULT_QUALITY = 90  # no difference to see beside the PNG, at a third of its bytes
MAX_QUALITY = 100
FULL_COLOUR_QUALITY = 90  # from here on JPEG keeps colour at full resolution: drawn edges fray without
_SOFTWARE_TAG = 0x0131
_EXIF_POINTER = 0x8769
_USER_COMMENT_TAG = 0x9286


class PictureFormat(StrEnum):
    """How a picture is written. The value is the name that clients use."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """Its name in headers."""
        return f"image/{self.value}"


@dataclass(frozen=True, slots=True)
class Encoding:
    """A format and, for jpeg and webp alone, its quality (0..100)."""

    format: PictureFormat = PictureFormat.PNG
    quality: int | None = None

    def __post_init__(self) -> None:
        if (self.quality is None) != (self.format is PictureFormat.PNG):
            raise ValueError(f"png has no quality and the others need one, got {self.format} and {self.quality}")

    @classmethod
    def of(cls, picture_format: PictureFormat, quality: int | None = None) -> Encoding:
        """The format at this quality, the default one where none is given. A PNG's is left out."""
        if picture_format is PictureFormat.PNG:
            return cls()
        return cls(picture_format, DEFAULT_QUALITY if quality is None else quality)

    @classmethod
    def of_job(cls, job: Job) -> Encoding:
        """What the job's client asked for. PNG where this version does not know the format."""
        if job.output_format not in tuple(PictureFormat):
            return cls()
        return cls.of(PictureFormat(job.output_format), job.output_compression)

    @property
    def media_type(self) -> str:
        """The picture's Content-Type."""
        return self.format.media_type

    @property
    def query(self) -> str:
        """What to append to a picture's path to get it so: empty for PNG."""
        return "" if self.quality is None else f"?format={self.format}&compression={self.quality}"


PNG = Encoding()


async def encode(pngs: Sequence[bytes], encoding: Encoding) -> tuple[bytes, ...]:
    """These PNGs in the encoding, in a thread: a WebP of a megapixel takes a tenth of a second."""
    if encoding.quality is None:
        return tuple(pngs)
    return await asyncio.to_thread(lambda: tuple(encode_one(png, encoding) for png in pngs))


def encode_one(png: bytes, encoding: Encoding) -> bytes:
    """One PNG in the encoding. Blocks."""
    if encoding.quality is None:
        return png
    from PIL import Image

    file = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        exif = _exif_of(image.info)
        if encoding.format is PictureFormat.JPEG:
            # 0 would mean the library's own default there.
            subsampling = "4:4:4" if encoding.quality >= FULL_COLOUR_QUALITY else "4:2:0"
            image.save(file, "JPEG", quality=max(encoding.quality, 1), subsampling=subsampling, exif=exif)
        else:
            image.save(file, "WEBP", quality=encoding.quality, exif=exif)
    return file.getvalue()


def _exif_of(info: Mapping[Any, Any]) -> bytes:
    """A PNG's text chunks as Exif; empty where it has none. Of what else Pillow knows about it nothing is text."""
    from PIL import Image

    text = {str(name): str(value) for name, value in info.items() if isinstance(value, str)}
    if not text:
        return b""
    exif = Image.Exif()
    if software := text.get("Software"):
        exif[_SOFTWARE_TAG] = software
    exif.get_ifd(_EXIF_POINTER)[_USER_COMMENT_TAG] = b"ASCII\0\0\0" + json.dumps(text).encode("ascii")
    return exif.tobytes()
