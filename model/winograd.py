"""3x3 convolutions with 2.25 of 9 products: Winograd's F(4x4, 3x3), for CPUs.

The libraries that torch calls on a CPU multiply every pixel with all nine taps, and do it well: a DC-AE decoder runs at
the machine's product rate, so only fewer products make it faster. Tiles of 4x4 outputs are computed from 6x6 inputs
with 36 products instead of 144 (arXiv 1509.09308, section 4.3). Sums and products by small constants come on top, so it
pays where channels are many. In float32 results differ from a direct convolution by some 1e-5 of their spread; below
float32 the transforms' constants cost too much precision, so other number formats keep their convolutions.
Legend: b pictures, h w pixels, c in and o out channels, r rows of tiles, s tiles in a row.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from model.native import load_native
from model.row_threads import computing_with

MIN_CHANNELS = 128  # in and out; measured: 1.3 to 2.9 times as fast from here on, no gain at 64
MIN_PIXELS = 32 * 32  # of one picture: below, the many small steps cost more than the products that they save
TILE = 4  # outputs of a tile, in each direction
_WINDOW = TILE + 2  # its inputs
# Bytes of transformed inputs and products at once: few stay in the caches, many read the weights fewer times.
_MIN_BAND_BYTES, _MAX_BAND_BYTES = 8_000_000, 32_000_000
_BAND_BYTES_PER_WEIGHT_BYTE = 3
_LANES = 8  # the C code takes so many channels at a time
_MAX_CHANNELS = 8192  # the longest row of zeros it has
_APART = 80  # floats between matrices: were they apart by a power of two, all 36 would meet in one place of the cache
# What a kernel's column (or row) becomes: G of the paper.
_OF_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class WinogradConv2d(nn.Module):
    """The same map as `convolution` (3x3, stride 1, padding 1), which it keeps for small pictures. Holds four times as
    many bytes of weights beside it."""

    weight: Tensor  # (36, c, o)
    bias: Tensor  # (o,)

    @staticmethod
    def suits(convolution: nn.Conv2d) -> bool:
        """Whether this is the faster way, and exact enough, to compute `convolution` where it is."""
        shape = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
        return (
            shape == ((3, 3), (1, 1), (1, 1), (1, 1))
            and convolution.groups == 1
            and convolution.padding_mode == "zeros"
            and min(convolution.in_channels, convolution.out_channels) >= MIN_CHANNELS
            and convolution.weight.dtype == torch.float32
            and convolution.weight.device.type == "cpu"
        )

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        kernel = convolution.weight.detach()  # (o, c, 3, 3)
        transform = torch.tensor(_OF_KERNEL, dtype=torch.float64)
        spread = torch.einsum("yi,ocij,xj->xyco", transform, kernel.double(), transform)
        self.register_buffer("weight", spread.flatten(0, 1).to(kernel.dtype).contiguous(), persistent=False)
        bias = torch.zeros(kernel.shape[0]) if convolution.bias is None else convolution.bias.detach()
        self.register_buffer("bias", bias.contiguous(), persistent=False)
        self.direct = convolution
        has_lanes = not any(num % _LANES or num > _MAX_CHANNELS for num in kernel.shape[:2])
        self._code = load_native("winograd_tiles") if has_lanes else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, o, h, w), channels last in memory."""
        num_pictures, _, height, width = x.shape
        if height * width < MIN_PIXELS:
            return cast(Tensor, self.direct(x))
        if self._code is not None:
            return self._compute_natively(x, self._code)
        num_out = self.weight.shape[2]
        num_rows, num_columns = -(-height // TILE), -(-width // TILE)
        right, bottom = num_columns * TILE - width, num_rows * TILE - height  # beyond the picture
        padded = _padded(x.permute(0, 2, 3, 1), right + 1, bottom + 1)
        result = x.new_empty(num_pictures, num_rows, TILE, num_columns, TILE, num_out)

        band = self._rows_of_a_band(x, num_rows, num_columns)
        scratch = _Scratch.for_band(x, band, num_columns, num_out)
        for first in range(0, num_rows, band):
            first = min(first, num_rows - band)  # the last band overlaps the one before: all fit the same scratch
            rows = padded[:, first * TILE : (first + band) * TILE + 2]
            self._compute_band(rows, result[:, first : first + band], scratch)
        pixels = result.view(num_pictures, num_rows * TILE, num_columns * TILE, num_out)[:, :height, :width]
        pixels += self.bias
        return pixels.permute(0, 3, 1, 2)

    def _compute_natively(self, x: Tensor, code: ctypes.CDLL) -> Tensor:
        """As `forward`, by the C code; each thread has bands of its own."""
        pixels = x.permute(0, 2, 3, 1).contiguous()
        num_pictures, height, width, _ = pixels.shape
        result = pixels.new_empty(num_pictures, height, width, self.weight.shape[2])
        num_rows, num_columns = -(-height // TILE), -(-width // TILE)
        num_threads = torch.get_num_threads()
        most = -(-num_pictures * num_rows // num_threads)  # rows of a thread
        band = min(self._rows_of_a_band(x[:1], num_rows, num_columns), most)
        bands = [(picture, row) for picture in range(num_pictures) for row in range(0, num_rows, band)]

        def compute(own: Sequence[tuple[int, int]]) -> None:
            scratch = _NativeScratch.for_band(self.weight, band * num_columns)
            for picture, first in own:
                self._compute_band_natively(code, pixels[picture], result[picture], first, band, scratch)

        _share(compute, bands, num_threads)
        return result.permute(0, 3, 1, 2)

    def _compute_band_natively(
        self, code: ctypes.CDLL, pixels: Tensor, result: Tensor, first: int, band: int, scratch: _NativeScratch
    ) -> None:
        """Rows of tiles from `first` on, of pixels (h, w, c), into `result` (h, w, o)."""
        height, width, num_in = pixels.shape
        num_columns = -(-width // TILE)
        num_rows = min(band, -(-height // TILE) - first)
        num_tiles, num_out = num_rows * num_columns, result.shape[2]
        here = [ctypes.c_int64(value) for value in (first, num_rows, num_columns)]
        spread, products = scratch.spread, scratch.products
        code.emmdit_spread(
            *_pointers(pixels), *_longs(height, width, num_in), *here, *_pointers(spread), *_longs(spread.stride(0))
        )
        torch.bmm(
            spread[:, : num_tiles * num_in].view(-1, num_tiles, num_in),
            self.weight,
            out=products[:, : num_tiles * num_out].view(-1, num_tiles, num_out),
        )
        code.emmdit_gather(
            *_pointers(products), *_longs(products.stride(0)), *_pointers(self.bias), *_longs(height, width, num_out),
            *here, *_pointers(result),
        )  # fmt: skip

    def _rows_of_a_band(self, x: Tensor, num_rows: int, num_columns: int) -> int:
        weight_bytes = self.weight.numel() * self.weight.element_size()
        wanted = min(max(weight_bytes * _BAND_BYTES_PER_WEIGHT_BYTE, _MIN_BAND_BYTES), _MAX_BAND_BYTES)
        num_channels = self.weight.shape[1] + self.weight.shape[2]
        bytes_per_row = x.shape[0] * num_columns * _WINDOW**2 * num_channels * x.element_size()
        return max(1, min(num_rows, wanted // bytes_per_row))

    def _compute_band(self, rows: Tensor, result: Tensor, scratch: _Scratch) -> None:
        """Padded pixels (b, 4 r + 2, 4 s + 2, c) -> `result` (b, r, 4, s, 4, o), in place."""
        _, num_rows, _, num_columns, _, num_out = result.shape
        by_row, spread, products, by_column = scratch.by_row, scratch.spread, scratch.products, scratch.by_column
        _spread_input([rows[:, k::TILE][:, :num_rows] for k in range(_WINDOW)], by_row)
        _spread_input([by_row[:, :, :, k::TILE][:, :, :, :num_columns] for k in range(_WINDOW)], spread)
        torch.bmm(spread.view(_WINDOW**2, -1, rows.shape[3]), self.weight, out=products.view(_WINDOW**2, -1, num_out))
        _gather_output(products, by_column)
        places = [result[:, :, k].permute(3, 0, 1, 2, 4) for k in range(TILE)]  # each (4, b, r, s, o)
        _gather_output(by_column.transpose(0, 1), places)


@dataclass(frozen=True, slots=True)
class _Scratch:
    """What lies between the steps of a band: made once a call, as fresh memory costs more than the sums done in it."""

    by_row: Tensor  # (6, b, r, 4 s + 2, c): inputs, transformed along columns
    spread: Tensor  # (6, 6, b, r, s, c): along rows too
    products: Tensor  # (6, 6, b, r, s, o)
    by_column: Tensor  # (4, 6, b, r, s, o): outputs along rows

    @classmethod
    def for_band(cls, x: Tensor, num_rows: int, num_columns: int, num_out: int) -> _Scratch:
        num_pictures, num_in = x.shape[:2]
        tiles = (num_pictures, num_rows, num_columns)
        return cls(
            x.new_empty(_WINDOW, num_pictures, num_rows, num_columns * TILE + 2, num_in),
            x.new_empty(_WINDOW, _WINDOW, *tiles, num_in),
            x.new_empty(_WINDOW, _WINDOW, *tiles, num_out),
            x.new_empty(TILE, _WINDOW, *tiles, num_out),
        )


@dataclass(frozen=True, slots=True)
class _NativeScratch:
    """One thread's, of one call."""

    spread: Tensor  # (36, tiles * c and some)
    products: Tensor  # (36, tiles * o and some)

    @classmethod
    def for_band(cls, weight: Tensor, num_tiles: int) -> _NativeScratch:
        num_matrices, num_in, num_out = weight.shape
        return cls(
            weight.new_empty(num_matrices, num_tiles * num_in + _APART),
            weight.new_empty(num_matrices, num_tiles * num_out + _APART),
        )


@cache
def _threads(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, "tiles")


def _share(
    compute: Callable[[Sequence[tuple[int, int]]], None], bands: Sequence[tuple[int, int]], num_threads: int
) -> None:
    """Let each of so many threads, of which this is one, compute a part of the bands."""
    size = -(-len(bands) // num_threads)
    first, *others = (bands[start : start + size] for start in range(0, len(bands), size))

    @torch.inference_mode()
    def compute_apart(own: Sequence[tuple[int, int]]) -> None:
        torch.set_num_threads(1)  # of that thread
        compute(own)

    with computing_with(1), torch.inference_mode():
        pending = [_threads(num_threads).submit(compute_apart, own) for own in others]
        try:
            compute(first)
        finally:
            wait(pending)
    for part in pending:
        part.result()


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _longs(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(value) for value in values]


def _padded(pixels: Tensor, right: int, bottom: int) -> Tensor:
    """(b, h, w, c) with a frame of zeros, one pixel wide at the left and the top. torch's own fills all of it twice."""
    num_pictures, height, width, num_channels = pixels.shape
    padded = pixels.new_empty(num_pictures, 1 + height + bottom, 1 + width + right, num_channels)
    padded[:, 1 : 1 + height, 1 : 1 + width] = pixels
    for frame in (padded[:, :1], padded[:, 1 + height :], padded[:, :, :1], padded[:, :, 1 + width :]):
        frame.zero_()
    return padded


def _spread_input(d: Sequence[Tensor], out: Tensor) -> None:
    """The paper's transposed B along one direction: six inputs of every tile to six values, into `out` (6, ...)."""
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    even, odd = torch.sub(d[4], d[2]), torch.sub(d[3], d[1]).mul_(2)
    torch.add(even, odd, out=out[3])
    torch.sub(even, odd, out=out[4])
    torch.add(d[4], d[0], alpha=4, out=out[0]).sub_(d[2], alpha=5)
    torch.add(d[5], d[1], alpha=4, out=out[5]).sub_(d[3], alpha=5)


def _gather_output(m: Tensor, out: Sequence[Tensor] | Tensor) -> None:
    """The paper's transposed A along the first direction of `m` (6, ...): four outputs of every tile, into `out`."""
    even, odd = m[1] + m[2], m[1] - m[2]
    far_even, far_odd = m[3] + m[4], m[3] - m[4]
    torch.add(even, far_even, out=out[0]).add_(m[0])
    torch.add(odd, far_odd, alpha=2, out=out[1])
    torch.add(even, far_even, alpha=4, out=out[2])
    torch.add(odd, far_odd, alpha=8, out=out[3]).add_(m[5])
