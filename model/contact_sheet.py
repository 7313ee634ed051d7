"""Contact sheets: rows of small pictures with captions under them, under headings, perhaps framed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARGIN_PX = 6
FONT_PX = 11
LINE_PX = 13
HEADING_PX = 20
FRAME_PX = 3
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture (H, W, 3) with its caption; `frame` is a colour's name, None for no frame."""

    picture: NDArray[np.uint8]
    caption: str
    frame: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Cells under one heading, which may be ""."""

    heading: str
    cells: tuple[Cell, ...]


def contact_sheet(sections: Sequence[Section], num_columns: int, picture_px: int) -> Image.Image:
    """The sheet; pictures larger than `picture_px` are shrunk to it. Captions take as many lines as they need."""
    font = ImageFont.load_default(FONT_PX)
    pieces = [piece for section in sections for piece in _pieces(section, num_columns, picture_px, font)]
    width = num_columns * (picture_px + MARGIN_PX) + MARGIN_PX
    sheet = Image.new("RGB", (width, sum(piece.height for piece in pieces) + MARGIN_PX), "white")
    top = MARGIN_PX
    for piece in pieces:
        sheet.paste(piece, (MARGIN_PX, top))
        top += piece.height
    return sheet


def _pieces(section: Section, num_columns: int, picture_px: int, font: Font) -> list[Image.Image]:
    """The section's heading and rows, each an image of its own."""
    pieces = []
    if section.heading:
        heading = Image.new("RGB", (num_columns * (picture_px + MARGIN_PX), HEADING_PX), "white")
        ImageDraw.Draw(heading).text((0, 2), section.heading, "black", ImageFont.load_default(FONT_PX + 3))
        pieces.append(heading)
    for start in range(0, len(section.cells), num_columns):
        pieces.append(_row(section.cells[start : start + num_columns], num_columns, picture_px, font))
    return pieces


def _row(cells: Sequence[Cell], num_columns: int, picture_px: int, font: Font) -> Image.Image:
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    captions = [_folded(cell.caption, measure, font, picture_px) for cell in cells]
    images = [_shrunk(cell.picture, picture_px) for cell in cells]
    pictures_px = max(image.height for image in images)
    text_px = LINE_PX * max(len(lines) for lines in captions)
    row = Image.new("RGB", (num_columns * (picture_px + MARGIN_PX), pictures_px + text_px + MARGIN_PX), "white")
    canvas = ImageDraw.Draw(row)
    for index, (cell, image, lines) in enumerate(zip(cells, images, captions, strict=True)):
        left = index * (picture_px + MARGIN_PX)
        row.paste(image, (left, 0))
        if cell.frame is not None:
            canvas.rectangle((left, 0, left + image.width - 1, image.height - 1), outline=cell.frame, width=FRAME_PX)
        for number, line in enumerate(lines):
            canvas.text((left, pictures_px + number * LINE_PX), line, "black", font)
    return row


def _shrunk(picture: NDArray[np.uint8], picture_px: int) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((picture_px, picture_px))
    return image


def _folded(text: str, canvas: ImageDraw.ImageDraw, font: Font, width: int) -> list[str]:
    """`text` in lines no wider than `width` pixels, where its words allow it."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and canvas.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
