"""What stands in front of a plain background: the background fitted and taken away, the rest in separate pieces.

All in OKLab. A background of the emoji world is flat or a gradient, so a quadratic surface fits it; the fit starts at
the border, where objects hardly reach, and leaves out what lies far from it. A shadow scales OKLab towards black, is
never darker than the world's, and lies to the lower right of what casts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from model.training.recolor import ByteArray, FloatArray, srgb_to_oklab

SIDE_PX = 128  # pictures of other sizes are brought to this one
MIN_DISTANCE = 0.055  # OKLab distance from the background at which a pixel belongs to something
MIN_PIECE_SHARE = 0.0025  # of the picture; less is a speck
MAX_PART_SHARE = 0.5  # a piece this much smaller than another, its box touching the other's, is a part of it
MAX_PART_GAP_PX = 5  # less than the room that the world leaves between objects
MIN_BACKGROUND_SHARE = 0.08  # of the picture; where less of it is plain, all is mush
_DARKEST_SHADOW = 0.74  # factor in OKLab: 0.68 in sRGB, the world's strongest
_SHADOW_SLACK = 0.06  # of that factor, by which a shadow may be darker than expected at its place
_SHADOW_BLUR_PX = 0.016 * SIDE_PX  # the world's, as is the drop
_DROP_PX = 2  # downwards; half as far to the right
_FIT_CELLS = 32  # the background is fitted to a picture of this side
_SCALES = (0.12, 0.08, 0.06, 0.04, 0.03)  # OKLab distance that halves a cell's say, from fit to fit
_MAX_RUNS = 1200  # more horizontal runs than this are noise, not objects
_CELL_PX = SIDE_PX // _FIT_CELLS

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Piece:
    """One connected thing: its box (left, top, right, bottom) px, and its mask (height, width) inside the box."""

    box: tuple[int, int, int, int]
    mask: BoolArray
    num_pixels: int


@dataclass(frozen=True, slots=True)
class Foreground:
    """What stands in a picture: its `pixels` and `lab` (SIDE_PX, SIDE_PX, 3), the pieces from the largest.

    `speck_share` is the share of the picture that differs from the background and is no piece.
    """

    pixels: ByteArray
    lab: FloatArray
    pieces: tuple[Piece, ...]
    speck_share: float


def find_foreground(picture: ByteArray) -> Foreground:
    """Pieces of a picture (H, W, 3). Pictures that are mush all over have none."""
    if picture.shape[:2] != (SIDE_PX, SIDE_PX):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))
    lab = _to_oklab(picture)
    is_other, is_solid = _masks(lab, _fit_background(lab))
    other_share = float(is_other.mean())
    pieces = _pieces(is_other, is_solid) if other_share <= 1 - MIN_BACKGROUND_SHARE else None
    if pieces is None:
        return Foreground(picture, lab, (), other_share)
    wholes = _with_parts(pieces)
    num_specks = sum(piece.num_pixels for piece in pieces) - sum(whole.num_pixels for whole in wholes)
    return Foreground(picture, lab, tuple(wholes), num_specks / SIDE_PX**2)


@cache
def _oklab_table() -> FloatArray:
    """OKLab of sRGB in 64 levels a channel, (64 ** 3, 3): exact to 2 of 255, and forty times faster than computing."""
    levels = np.arange(64, dtype=np.uint8) * 4 + 2
    return srgb_to_oklab(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3))


def _to_oklab(picture: ByteArray) -> FloatArray:
    level = (picture >> 2).astype(np.int32)
    return np.asarray(_oklab_table()[(level[..., 0] << 12) | (level[..., 1] << 6) | level[..., 2]])


@cache
def _terms(side: int) -> FloatArray:
    """The surface's terms 1, x, y, xx, yy, xy at every pixel, (side * side, 6); x and y in -1..1."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


@cache
def _border() -> BoolArray:
    """The outermost two cells on every side, flat."""
    inside = np.zeros((_FIT_CELLS, _FIT_CELLS), dtype=bool)
    inside[2:-2, 2:-2] = True
    return ~inside.ravel()


def _fit_background(lab: FloatArray) -> FloatArray:
    """The background, (SIDE_PX, SIDE_PX, 3)."""
    starts = np.arange(0, SIDE_PX, _CELL_PX)
    cells = np.add.reduceat(np.add.reduceat(lab, starts, axis=0), starts, axis=1).reshape(-1, 3) / _CELL_PX**2
    terms = _terms(_FIT_CELLS)
    surface: FloatArray = np.broadcast_to(np.median(cells[_border()], axis=0), cells.shape)
    fit = np.zeros((6, 3), dtype=np.float32)
    for number, scale in enumerate(_SCALES):
        squares = np.square(cells - surface).sum(1)
        weights = 1 / np.square(1 + squares / scale**2)
        if number == 0:
            weights = weights * _border()
        weighted = terms * weights[:, None]
        # A touch of ridge: where an object covers most of the picture, curvature is anybody's guess.
        fit = np.linalg.solve(weighted.T @ terms + 0.01 * np.eye(6, dtype=np.float32), weighted.T @ cells)
        surface = np.asarray(terms @ fit, dtype=np.float32)
    return np.asarray((_terms(SIDE_PX) @ fit).reshape(lab.shape), dtype=np.float32)


def _masks(lab: FloatArray, background: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Pixels (SIDE_PX, SIDE_PX) that differ from the background, and those of them that are no shadow."""
    difference = lab - background
    is_other = np.einsum("ijk,ijk->ij", difference, difference) > MIN_DISTANCE**2
    squares = np.einsum("ijk,ijk->ij", background, background)
    factor = np.einsum("ijk,ijk->ij", lab, background) / np.maximum(squares, 1e-6)
    difference = lab - np.clip(factor, _DARKEST_SHADOW, 1)[..., None] * background
    is_solid = np.einsum("ijk,ijk->ij", difference, difference) > MIN_DISTANCE**2
    # Gray things on white are as gray as shadows are: a shadow is no darker than what lies beside it can cast.
    cast = Image.fromarray(is_solid.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(_SHADOW_BLUR_PX))
    darkness = np.zeros(factor.shape, dtype=np.float32)
    darkness[_DROP_PX:, _DROP_PX // 2 :] = np.asarray(cast)[:-_DROP_PX, : -(_DROP_PX // 2)]
    is_shadow = ~is_solid & (factor > 1 - _SHADOW_SLACK - (1 - _DARKEST_SHADOW) / 255 * darkness)
    return is_other, is_other & ~is_shadow


def _pieces(is_other: BoolArray, is_solid: BoolArray) -> list[Piece] | None:
    """Connected pieces (8 neighbours) from the largest; None where there are too many runs to be objects.

    Shadows hold together what casts them, and are then left out.
    """
    edges = np.diff(np.pad(is_other, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    if len(rows) > _MAX_RUNS:
        return None
    owners = _connect(rows, starts, ends)
    pieces = []
    for owner in np.unique(owners):
        own = owners == owner
        top, bottom = int(rows[own].min()), int(rows[own].max()) + 1
        left, right = int(starts[own].min()), int(ends[own].max())
        inside = np.zeros((bottom - top, right - left), dtype=bool)
        for row, start, end in zip((rows[own] - top).tolist(), starts[own] - left, ends[own] - left, strict=True):
            inside[row, start:end] = True
        inside &= is_solid[top:bottom, left:right]
        if inside.any():
            pieces.append(_cropped(left, top, inside))
    return sorted(pieces, key=lambda piece: -piece.num_pixels)


def _cropped(left: int, top: int, mask: BoolArray) -> Piece:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
    return Piece(box, mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(mask.sum()))


def _connect(
    rows: npt.NDArray[np.intp], starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """For every run the first run of its piece: union-find over runs of neighbouring rows that touch."""
    parents = list(range(len(rows)))

    def first(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    begins = np.searchsorted(rows, np.arange(SIDE_PX + 1)).tolist()
    left, right = starts.tolist(), ends.tolist()
    for row in range(1, SIDE_PX):
        above, below = begins[row - 1], begins[row]
        while above < begins[row] and below < begins[row + 1]:
            if left[above] <= right[below] and left[below] <= right[above]:
                one, other = sorted((first(above), first(below)))
                parents[other] = one
            if right[above] < right[below]:
                above += 1
            else:
                below += 1
    return np.array([first(run) for run in range(len(rows))], dtype=np.intp)


def _with_parts(pieces: list[Piece]) -> list[Piece]:
    """Pieces joined with their parts: a racket and its ball, a motion line, a spoke that stands apart. Without specks.

    `pieces` are in order from the largest: a part follows its whole.
    """
    wholes: list[Piece] = []
    for piece in pieces:
        for index, whole in enumerate(wholes):
            if piece.num_pixels <= MAX_PART_SHARE * whole.num_pixels and _touches(piece.box, whole.box):
                wholes[index] = _joined(whole, piece)
                break
        else:
            if piece.num_pixels >= MIN_PIECE_SHARE * SIDE_PX**2:
                wholes.append(piece)
    return wholes


def _touches(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    room_x = max(first[0] - second[2], second[0] - first[2])
    room_y = max(first[1] - second[3], second[1] - first[3])
    return max(room_x, room_y) <= MAX_PART_GAP_PX


def _joined(first: Piece, second: Piece) -> Piece:
    left, top = min(first.box[0], second.box[0]), min(first.box[1], second.box[1])
    right, bottom = max(first.box[2], second.box[2]), max(first.box[3], second.box[3])
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for piece in (first, second):
        height, width = piece.mask.shape
        mask[piece.box[1] - top :, piece.box[0] - left :][:height, :width] |= piece.mask
    return Piece((left, top, right, bottom), mask, first.num_pixels + second.num_pixels)
