"""The scoring judge's network: where objects are, what they are, how big, and of which colour.

A small centre-heatmap detector (the idea of CenterNet, arXiv 1904.07850): one map a class whose peaks are objects'
centres, and at every cell a box and a colour. Surprising: cells are 8 px wide because no two centres of the emoji
world are closer than 18 px, so a 3x3 neighbourhood never holds two.
Shapes: pictures (B, 3, 128, 128) in -1..1; maps (B, channels, 16, 16); labels (B, M, 6), see `encode_labels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE_PX = 128
CELL_PX = 8
GRID = SIDE_PX // CELL_PX
PATCH_PX = 4  # the stem reads patches: full resolution costs nothing
MAX_LOG_SIZE = 4.0
# Distances from a centre, in cells. A cell just beside the one that holds the centre is as right: else a centre on a
# border, where no cell is surely the one, would get half the confidence of others.
CENTRE_REACH = 0.7
BOX_REACH = 1.25
MIN_DEVIATION = 0.6
DEVIATION_SHARE = 1 / 12  # how far a peak may be off, as a share of the object
PRIOR = 0.01  # confidence that every cell begins with; focal loss diverges without it
MAX_OBJECTS = 12
MIN_CONFIDENCE = 0.05
MAX_OVERLAP = 0.3  # intersection over union beyond which two peaks are one object: in this world none touch


@dataclass(frozen=True, slots=True)
class JudgeShape:
    """Sizes of the network: channels at 1/4, 1/8 and 1/16 of the resolution, and residual blocks at each."""

    num_classes: int
    num_colors: int
    channels: tuple[int, int, int] = (32, 64, 96)
    blocks: tuple[int, int, int] = (1, 2, 2)


@dataclass(frozen=True, slots=True)
class Maps:
    """What the network says of every cell, and what training wants it to say.

    `heat` (B, classes, g, g): logits, or targets in 0..1 that are 1 in the cells at each centre.
    `box` (B, 4, g, g): the centre's offset (x, y) from the cell's middle, in cells; log of width and height as
    fractions of the side. `color` (B, colours, g, g): logits; as a target (B, g, g) of indices, -1 where unknown.
    `weight` (B, 1, g, g), targets only: how much a cell's box and colour count.
    """

    heat: Tensor
    box: Tensor
    color: Tensor
    weight: Tensor | None = None


class _Residual(nn.Module):
    """x + two 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return F.relu(features + self.body(features))


def _stage(before: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
    blocks = (_Residual(channels) for _ in range(num_blocks))
    return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), *blocks)


class JudgeNetwork(nn.Module):
    """Pictures to maps. 0.67 M parameters and 0.26 GFLOP a picture in its shipped size."""

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        self.shape = shape
        fine, middle, coarse = shape.channels
        self.fine = _stage(3 * PATCH_PX**2, fine, shape.blocks[0], stride=1)
        self.middle = _stage(fine, middle, shape.blocks[1], stride=2)
        self.coarse = _stage(middle, coarse, shape.blocks[2], stride=2)
        self.lift = nn.Conv2d(coarse, middle, 1)
        self.merge = _Residual(middle)
        self.heat = nn.Conv2d(middle, shape.num_classes, 1)
        self.box = nn.Conv2d(middle, 4, 1)
        self.color = nn.Conv2d(middle, shape.num_colors, 1)
        if self.heat.bias is not None:
            nn.init.constant_(self.heat.bias, torch.logit(torch.tensor(PRIOR)).item())

    def forward(self, pictures: Tensor) -> Maps:
        """Pictures (B, 3, 128, 128) to logits and boxes of every cell."""
        middle = self.middle(self.fine(F.pixel_unshuffle(pictures, PATCH_PX)))
        context = F.interpolate(self.lift(self.coarse(middle)), scale_factor=2.0)
        features = self.merge(middle + context)
        return Maps(self.heat(features), self.box(features), self.color(features))


def encode_labels(labels: Tensor, num_classes: int) -> Maps:
    """Targets for `labels` (B, M, 6): class, colour, left, top, right, bottom, the box in fractions of the side.

    A class of -1 is an empty slot, a colour of -1 an unknown one.
    """
    num_pictures = len(labels)
    cells = torch.arange(GRID) + 0.5
    heat = torch.zeros(num_pictures, num_classes, GRID, GRID)
    box = torch.zeros(num_pictures, 4, GRID, GRID)
    color = torch.full((num_pictures, GRID, GRID), -1, dtype=torch.long)
    weight = torch.zeros(num_pictures, 1, GRID, GRID)
    for picture, slot in (labels[..., 0] >= 0).nonzero().tolist():
        kind, shade, left, top, right, bottom = labels[picture, slot].tolist()
        size = torch.tensor([right - left, bottom - top])
        across = (left + right) / 2 * GRID - cells  # (g,): from each cell's middle to the centre, in cells
        down = ((top + bottom) / 2 * GRID - cells)[:, None]
        deviation = max(MIN_DEVIATION, float(size.max()) * GRID * DEVIATION_SHARE)
        bump = torch.exp(-(across**2 + down**2) / (2 * deviation**2))
        bump = torch.where((across.abs() <= CENTRE_REACH) & (down.abs() <= CENTRE_REACH), 1.0, bump)
        heat[picture, int(kind)] = torch.maximum(heat[picture, int(kind)], bump)
        is_near = (across.abs() <= BOX_REACH) & (down.abs() <= BOX_REACH)
        offset = torch.stack(torch.broadcast_tensors(across, down))
        extent = size.log()[:, None, None].expand(2, GRID, GRID)
        box[picture] = torch.where(is_near, torch.cat([offset, extent]), box[picture])
        color[picture] = torch.where(is_near, int(shade), color[picture])
        weight[picture, 0] = torch.where(is_near, bump, weight[picture, 0])
    return Maps(heat, box, color, weight)


@dataclass(frozen=True, slots=True)
class Peak:
    """One object: indices of its class and colour, box as fractions (left, top, right, bottom), confidence."""

    kind: int
    color: int
    box: tuple[float, float, float, float]
    confidence: float


def decode_peaks(maps: Maps) -> list[list[Peak]]:
    """The objects of each picture, the most confident first. One place is one object, whatever else it resembles."""
    confidence, kind = maps.heat.sigmoid().max(dim=1)  # (B, g, g)
    # Equal neighbours are both peaks; their boxes overlap, so one is kept.
    is_peak = confidence == F.max_pool2d(confidence[:, None], 3, stride=1, padding=1)[:, 0]
    confidence = confidence * is_peak
    color = maps.color.argmax(dim=1)
    boxes = _boxes(maps.box)
    pictures = []
    for picture in range(len(confidence)):
        best, places = confidence[picture].flatten().topk(MAX_OBJECTS)
        peaks: list[Peak] = []
        for value, place in zip(best.tolist(), places.tolist(), strict=True):
            row, column = divmod(place, GRID)
            left, top, right, bottom = boxes[picture, :, row, column].tolist()
            found = (left, top, right, bottom)
            if value >= MIN_CONFIDENCE and all(_overlap(found, peak.box) <= MAX_OVERLAP for peak in peaks):
                peaks.append(Peak(int(kind[picture, row, column]), int(color[picture, row, column]), found, value))
        pictures.append(peaks)
    return pictures


def _boxes(raw: Tensor) -> Tensor:
    """Boxes (B, 4, g, g) as left, top, right, bottom in 0..1."""
    cells = torch.arange(GRID) + 0.5
    x = (cells[None, None] + raw[:, 0]) / GRID
    y = (cells[None, :, None] + raw[:, 1]) / GRID
    width, height = raw[:, 2:].clamp(-MAX_LOG_SIZE, 0).exp().unbind(1)
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1).clamp(0, 1)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)
