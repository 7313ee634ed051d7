"""Stored PNGs -> what a client asked for: png, jpeg or webp. A PNG passes through untouched.

What a picture says about itself goes along, and nothing else: the PNG's text chunks, which are the operator's choice
(service/png.py), become the Exif UserComment, as JSON, and its XMP stays XMP. Where the operator signs
pictures, it happens here. Pillow is loaded with the first picture that needs it.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from service.jobs import Job
from service.marks import XMP_CHUNK

if TYPE_CHECKING:
    from PIL import Image

    from service.gateway.provenance import PictureSigner

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


async def encode(pngs: Sequence[bytes], encoding: Encoding, signer: PictureSigner | None) -> tuple[bytes, ...]:
    """These PNGs as they are sent, in a thread: a WebP of a megapixel takes a tenth of a second."""
    if encoding.quality is None and signer is None:
        return tuple(pngs)
    return await asyncio.to_thread(lambda: tuple(encode_one(png, encoding, signer) for png in pngs))


def encode_one(png: bytes, encoding: Encoding, signer: PictureSigner | None = None) -> bytes:
    """One PNG in the encoding, signed where there is a signer. Blocks. Raises EmmditError where it cannot be signed."""
    if encoding.quality is None and signer is None:
        return png
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        text = _text_of(image.info)
        picture = png if encoding.quality is None else _converted(image, encoding, encoding.quality, text)
    return picture if signer is None else signer.sign(picture, encoding.media_type, text)


def _converted(image: Image.Image, encoding: Encoding, quality: int, text: Mapping[str, str]) -> bytes:
    file = io.BytesIO()
    marks = {"exif": _exif_of(text), "xmp": image.info.get("xmp", b"")}
    if encoding.format is PictureFormat.JPEG:
        # 0 would mean the library's own default there.
        subsampling = "4:4:4" if quality >= FULL_COLOUR_QUALITY else "4:2:0"
        image.save(file, "JPEG", quality=max(quality, 1), subsampling=subsampling, **marks)
    else:
        image.save(file, "WEBP", quality=quality, **marks)
    return file.getvalue()


def _text_of(info: Mapping[Any, Any]) -> dict[str, str]:
    """A PNG's text chunks but for XMP. Of what else Pillow knows about it nothing is text."""
    return {str(name): str(value) for name, value in info.items() if isinstance(value, str) and name != XMP_CHUNK}


def _exif_of(text: Mapping[str, str]) -> bytes:
    """A PNG's text chunks as Exif; empty where it has none."""
    from PIL import Image

    if not text:
        return b""
    exif = Image.Exif()
    if software := text.get("Software"):
        exif[_SOFTWARE_TAG] = software
    exif.get_ifd(_EXIF_POINTER)[_USER_COMMENT_TAG] = b"ASCII\0\0\0" + json.dumps(text).encode("ascii")
    return exif.tobytes()
