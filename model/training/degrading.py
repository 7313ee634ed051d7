"""What happens to a picture on its way to a judge: softness, noise, coarse coding, light, slight bends.

A judge that only ever saw crisp renderings would call a small generator's soft pictures wrong. Strengths end where a
person would stop recognising a thing of 30 px. Shapes: bytes (H, W, 3) and (B, H, W, 3).
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from model.training.recolor import ByteArray, FloatArray

MAX_BLUR_PX = 1.8
MAX_NOISE = 8.0
JPEG_QUALITIES = (25, 80)
MIN_SIDE_SHARE = 0.4
MAX_CONTRAST = 0.15
MAX_BRIGHTNESS = 12.0
MAX_BEND_PX = 1.2


def degrade(picture: ByteArray, rng: np.random.Generator, *, is_soft: bool = False) -> ByteArray:
    """One picture, softened or disturbed in some of these ways, or left alone. What is soft is made no softer."""
    image = Image.fromarray(picture)
    if not is_soft and rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, MAX_BLUR_PX)))
    if not is_soft and rng.random() < 0.2:
        share = rng.uniform(MIN_SIDE_SHARE, 1)
        small = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.BOX)
        image = small.resize(image.size, Image.Resampling.BICUBIC)
    if rng.random() < 0.2:
        coded = io.BytesIO()
        image.save(coded, "JPEG", quality=int(rng.integers(*JPEG_QUALITIES)))
        image = Image.open(coded)
    values = np.asarray(image, dtype=np.float32)
    if rng.random() < 0.3:
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        values = values + noise * np.float32(rng.uniform(0, MAX_NOISE))
    if rng.random() < 0.4:
        contrast = np.float32(1 + rng.uniform(-MAX_CONTRAST, MAX_CONTRAST))
        values = (values - 128) * contrast + np.float32(128 + rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS))
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def bend_slightly(pictures: ByteArray, rng: np.random.Generator) -> FloatArray:
    """Pictures (B, H, W, 3) as network input (B, 3, H, W) in -1..1, each warped by up to a pixel or two."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    num, _, height, width = pixels.shape
    knots = torch.from_numpy(rng.standard_normal((num, 2, 6, 6), dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, MAX_BEND_PX, (num, 1, 1, 1)).astype(np.float32))
    field = F.interpolate(knots * strength * 2 / width, size=(height, width), mode="bicubic", align_corners=True)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    grid = torch.stack([columns, rows], dim=-1) + field.permute(0, 2, 3, 1)
    bent = F.grid_sample(pixels, grid, padding_mode="border", align_corners=True)
    return np.asarray(bent.numpy(), dtype=np.float32)
