"""PNG, JPEG and WebP: what the bytes are, and what they say about themselves."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from service.gateway.formats import Encoding, PictureFormat, encode_one
from service.marks import XMP, XMP_CHUNK
from service.png import encode_png

USER_COMMENT = 0x9286
EXIF_POINTER = 0x8769


def gradient():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.stack([np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)], axis=2)


def comment_of(picture):
    comment = Image.open(io.BytesIO(picture)).getexif().get_ifd(EXIF_POINTER).get(USER_COMMENT)
    return None if comment is None else json.loads(comment.removeprefix(b"ASCII\0\0\0"))


LOSSY = [PictureFormat.JPEG, PictureFormat.WEBP]


def test_a_png_passes_through_untouched():
    png = encode_png(gradient(), {"Seed": "7"})
    assert encode_one(png, Encoding()) is png


@pytest.mark.parametrize("kind", LOSSY)
def test_the_picture_stays_what_it_is(kind):
    picture = Image.open(io.BytesIO(encode_one(encode_png(gradient(), {}), Encoding.of(kind))))
    assert picture.format == kind.name
    assert picture.mode == "RGB"
    difference = np.abs(np.asarray(picture).astype(int) - gradient().astype(int))
    assert difference.mean() < 3


@pytest.mark.parametrize("kind", LOSSY)
def test_a_lower_quality_is_smaller_down_to_zero(kind):
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    sizes = [len(encode_one(encode_png(noise, {}), Encoding.of(kind, quality))) for quality in (0, 30, 80, 100)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("kind", LOSSY)
def test_what_the_png_says_goes_along_and_nothing_else(kind):
    text = {"Software": "emmdit 1", "Seed": "7", "Prompt": "日本 in spring"}
    picture = encode_one(encode_png(gradient(), text), Encoding.of(kind))
    assert comment_of(picture) == text
    assert Image.open(io.BytesIO(picture)).getexif()[0x0131] == "emmdit 1"


@pytest.mark.parametrize("kind", LOSSY)
def test_the_mark_of_the_machine_goes_along_where_its_readers_look(kind):
    png = encode_png(gradient(), {"Seed": "7", XMP_CHUNK: XMP})
    picture = encode_one(png, Encoding.of(kind))
    assert Image.open(io.BytesIO(picture)).info["xmp"] == XMP.encode()
    assert comment_of(picture) == {"Seed": "7"}


@pytest.mark.parametrize("kind", LOSSY)
def test_a_png_that_says_nothing_becomes_a_picture_that_says_nothing(kind):
    picture = encode_one(encode_png(gradient(), {}), Encoding.of(kind))
    assert len(Image.open(io.BytesIO(picture)).getexif()) == 0
    assert b"xmp" not in picture.lower()
    assert b"adobe" not in picture.lower()


@pytest.mark.parametrize(("kind", "quality"), [(PictureFormat.PNG, 80), (PictureFormat.JPEG, None)])
def test_png_alone_has_no_quality(kind, quality):
    with pytest.raises(ValueError, match="png has no quality"):
        Encoding(kind, quality)
