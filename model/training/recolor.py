"""Recolouring of sprites in OKLCh, and the strict check of what came out.

A sprite keeps its drawing: its dominant paint gets the target's hue and chroma, its shading stays as lightness around
the target's own. Arrays are (H, W, 3) or (..., 3) float32; OKLab is Björn Ottosson's space, 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

_LINEAR_TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929],
     [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]], dtype=np.float32)  # fmt: skip
_LMS_TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468],
     [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]], dtype=np.float32)  # fmt: skip
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB.astype(np.float64)).astype(np.float32)
_LMS_TO_LINEAR = np.linalg.inv(_LINEAR_TO_LMS.astype(np.float64)).astype(np.float32)
_BYTES_TO_LINEAR = np.array(
    [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (i / 255 for i in range(256))],
    dtype=np.float32,
)

ACHROMATIC_CHROMA = 0.045
DARK_LIGHTNESS = 0.42
MIN_DOMINANT_SHARE = 0.55  # below this no paint dominates, and everything but the dark outlines is painted
MAX_OUTLINE_SHARE = 0.3  # more darkness than this is paint, not outline
HUE_WINDOW = 40  # degrees either side of the dominant hue that count as the same paint


@dataclass(frozen=True, slots=True)
class Paint:
    """A named colour: OKLCh target, and `keep`, how much of the sprite's shading survives."""

    lightness: float
    chroma: float
    hue_degrees: float
    keep: float = 0.75

    @property
    def lab(self) -> tuple[float, float, float]:
        """The target in OKLab."""
        angle = np.deg2rad(self.hue_degrees)
        return self.lightness, float(self.chroma * np.cos(angle)), float(self.chroma * np.sin(angle))


PAINTS: dict[str, Paint] = {
    "red": Paint(0.58, 0.22, 27),
    "orange": Paint(0.745, 0.175, 58),
    "yellow": Paint(0.88, 0.175, 97),
    "green": Paint(0.62, 0.17, 146),
    "blue": Paint(0.55, 0.20, 258),
    "purple": Paint(0.47, 0.21, 301),
    "pink": Paint(0.78, 0.135, 352),
    "brown": Paint(0.42, 0.080, 52),
    "black": Paint(0.23, 0.0, 0, keep=0.40),
    "white": Paint(0.94, 0.0, 0, keep=0.45),
}
_GRAYS = (0.45, 0.58, 0.72)
_NAMING_WEIGHTS = np.array([0.6, 1.0, 1.0], dtype=np.float32)  # hue names a colour more than lightness does
_SHADES = (-0.18, -0.09, 0.0, 0.07)


def srgb_to_oklab(pixels: ByteArray) -> FloatArray:
    """sRGB bytes (..., 3) to OKLab (..., 3)."""
    lms = np.cbrt(_BYTES_TO_LINEAR[pixels] @ _LINEAR_TO_LMS.T)
    return np.asarray(lms @ _LMS_TO_LAB.T, dtype=np.float32)


def _oklab_to_linear(lab: FloatArray) -> FloatArray:
    lms = lab @ _LAB_TO_LMS.T
    return np.asarray((lms * lms * lms) @ _LMS_TO_LINEAR.T, dtype=np.float32)


def oklab_to_srgb(lab: FloatArray) -> ByteArray:
    """OKLab to sRGB bytes. Colours outside the gamut lose chroma, not lightness."""
    linear = _oklab_to_linear(lab)
    is_outside = ~_is_in_gamut(linear)
    linear[is_outside] = _oklab_to_linear(_into_gamut(lab[is_outside]))
    linear = np.clip(linear, 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(srgb * 255), dtype=np.uint8)


def _is_in_gamut(linear: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray(np.all((linear > -1e-3) & (linear < 1 + 1e-3), axis=-1))


def _into_gamut(lab: FloatArray) -> FloatArray:
    """The same lightness and hue (N, 3) with the most chroma that fits, found by bisection to within 1%."""
    low, high = np.zeros((len(lab), 1), dtype=np.float32), np.ones((len(lab), 1), dtype=np.float32)
    for _ in range(7):
        middle = np.asarray((low + high) / 2, dtype=np.float32)
        fits = _is_in_gamut(_oklab_to_linear(_with_chroma(lab, middle)))[:, None]
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return _with_chroma(lab, low)


def _with_chroma(lab: FloatArray, scale: FloatArray) -> FloatArray:
    return np.concatenate([lab[:, :1], lab[:, 1:] * scale], axis=1)


def _dominant_mask(lab: FloatArray, alpha: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels (N,) of the paint that covers most of the sprite, or all but dark outlines where none covers enough."""
    lightness, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    hue = np.rad2deg(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    is_gray = chroma < ACHROMATIC_CHROMA
    is_dark_gray = (lightness < DARK_LIGHTNESS) & (chroma < 0.06)
    counts = np.bincount(hue[~is_gray].astype(np.int64), weights=alpha[~is_gray], minlength=360)
    wrapped = np.concatenate([counts[-HUE_WINDOW:], counts, counts[:HUE_WINDOW]])
    windows = np.convolve(wrapped, np.ones(2 * HUE_WINDOW + 1), mode="valid")
    distance = np.abs((hue - float(np.argmax(windows)) + 180) % 360 - 180)
    candidates = (~is_gray & (distance <= HUE_WINDOW), is_gray & ~is_dark_gray, is_dark_gray)
    shares = [float(alpha[mask].sum() / alpha.sum()) for mask in candidates]
    best = int(np.argmax(shares))
    if shares[best] >= MIN_DOMINANT_SHARE:
        return candidates[best]
    return ~is_dark_gray if shares[2] <= MAX_OUTLINE_SHARE else np.ones_like(is_dark_gray)


def recolor(sprite: ByteArray, color: str) -> ByteArray:
    """Sprite (H, W, 4) painted in one of COLORS. Alpha is unchanged."""
    paint = PAINTS[color]
    is_visible = sprite[..., 3] > 0
    lab = srgb_to_oklab(sprite[is_visible][:, :3])
    alpha = sprite[is_visible][:, 3].astype(np.float32)
    mask = _dominant_mask(lab, alpha)
    median = float(np.median(lab[mask & (alpha > 127), 0]))
    offset = lab[mask, 0] - median
    painted = np.empty((int(mask.sum()), 3), dtype=np.float32)
    painted[:, 0] = np.clip(paint.lightness + paint.keep * offset, 0.06, 0.985)
    # Highlights of a glossy object are nearly white whatever its colour.
    fade = np.clip(1 - np.maximum(offset - 0.08, 0) * 2.2, 0.25, 1)
    painted[:, 1] = paint.lab[1] * fade
    painted[:, 2] = paint.lab[2] * fade
    lab[mask] = painted
    result = sprite.copy()
    colors = sprite[is_visible]
    colors[mask, :3] = oklab_to_srgb(lab[mask])
    result[is_visible] = colors
    return result


def _prototypes() -> tuple[tuple[str, ...], FloatArray]:
    names: list[str] = []
    labs: list[tuple[float, float, float]] = []
    for name, paint in PAINTS.items():
        shades = (-0.1, 0.0, 0.1) if name == "black" else (-0.08, -0.03, 0.04) if name == "white" else _SHADES
        for shade in shades:
            fade = 1.0 if shade <= 0 else 0.85
            labs.append((paint.lightness + shade, paint.lab[1] * fade, paint.lab[2] * fade))
            names.append(name)
    for lightness in _GRAYS:
        labs.append((lightness, 0.0, 0.0))
        names.append("gray")
    return tuple(names), np.array(labs, dtype=np.float32)


_PROTOTYPE_NAMES, _PROTOTYPE_LABS = _prototypes()


def color_shares(sprite: ByteArray) -> dict[str, float]:
    """Share of the opaque pixels that each colour name (COLORS and gray) covers; shares sum to 1."""
    lab = srgb_to_oklab(sprite[sprite[..., 3] > 127][:, :3])
    prototypes = _PROTOTYPE_LABS * _NAMING_WEIGHTS
    # Squared distances, less the pixel's own square, which is the same for every prototype.
    squares = (prototypes**2).sum(1) - 2 * (lab * _NAMING_WEIGHTS) @ prototypes.T
    nearest = np.argmin(squares, axis=1)
    counts = np.bincount(nearest, minlength=len(_PROTOTYPE_NAMES))
    shares = dict.fromkeys((*COLORS, "gray"), 0.0)
    for name, count in zip(_PROTOTYPE_NAMES, counts, strict=True):
        shares[name] += float(count) / len(lab)
    return shares


def is_faithful(sprite: ByteArray, color: str) -> bool:
    """The strict check: `color` covers at least half of the opaque pixels, the runner-up at most half of that."""
    shares = color_shares(sprite)
    own = shares.pop(color)
    return own >= 0.5 and max(shares.values()) <= own / 2
