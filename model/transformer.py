"""E-MMDiT: the velocity network of arXiv 2510.27135, top to bottom. Module names are the published tensor names.

Legend: b rows, c latent channels, h w latent height and width, d hidden size, n image tokens, m compressed tokens,
t text tokens, k heads, e = d / k, s subregions. Surprising: one modulation vector serves the whole network (the
blocks own small tables instead of MLPs), padding text tokens take part in attention, and the position table is
added twice (Position Reinforcement).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig

NUM_SUBREGIONS = 4  # section 3.3
TIMESTEP_CHANNELS = 256


class EMMDiT(nn.Module):
    """The whole network; see `forward`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.pos_embed = PatchEmbedding(config)
        self.context_embedder = nn.Linear(config.caption_channels, d)
        self.adaln_single = SharedModulation(d)
        blocks = [
            JointBlock(
                config,
                subregion_run=self._subregion_run(config, index),
                is_last=index == sum(config.stages) - 1,
            )
            for index in range(sum(config.stages))
        ]
        first, second, _ = config.stages
        self.block_groups = nn.ModuleList(
            [
                nn.ModuleList(blocks[:first]),
                nn.ModuleList(blocks[first : first + second]),
                nn.ModuleList(blocks[first + second :]),
            ]
        )
        # The published file numbers these two as the first member of a first group.
        self.tokencompressor = nn.ModuleList([nn.ModuleList([TokenCompressor(d)])])
        self.tokenreconstructor = nn.ModuleList([nn.ModuleList([TokenReconstructor(d)])])
        self.norm_out = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(d, config.in_channels)

    @staticmethod
    def _subregion_run(config: ModelConfig, index: int) -> int:
        """Alternating Subregion Attention: 0 = all tokens, else the run length of a strided subregion."""
        return (0, 1, NUM_SUBREGIONS)[index % 3] if config.use_sub_attn else 0

    def forward(
        self, latents: Tensor, text: Tensor, timestep: Tensor, *, with_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Velocity (b, c, h, w) at `latents` (b, c, h, w), given `text` embeddings (b, t, caption channels).

        `timestep` is (b,) floats in 0..1000, one for each row. h and w must be multiples of 4. `with_tokens` also
        returns the image tokens (b, n, d) after stage 1, which training may align with known features (REPA).
        """
        height, width = latents.shape[-2:]
        modulation = self.adaln_single(timestep, dtype=latents.dtype)  # (b, 6, d)
        positions = self.pos_embed.positions(height, width).to(latents.dtype)  # (1, n, d)
        image = self.pos_embed.proj(latents).flatten(2).transpose(1, 2) + positions  # (b, n, d)
        text = self.context_embedder(text)  # (b, t, d)

        image, text = self._run_stage(0, image, text, modulation)
        skip = image
        image = _first(self.tokencompressor)(image, height, width)  # (b, m, d)
        image, text = self._run_stage(1, image, text, modulation)
        image = _first(self.tokenreconstructor)(image, skip, height, width)  # (b, n, d)
        image = image + positions  # Position Reinforcement (section 3.2)
        image, text = self._run_stage(2, image, text, modulation)

        velocity: Tensor = self.proj_out(self.norm_out(image)).transpose(1, 2)  # (b, c, n)
        velocity = velocity.reshape(*velocity.shape[:2], height, width)
        return (velocity, skip) if with_tokens else velocity

    def _run_stage(self, stage: int, image: Tensor, text: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        for block in cast(Iterable[JointBlock], self.block_groups[stage]):
            image, text = block(image, text, modulation)
        return image, text


def _first(groups: nn.ModuleList) -> nn.Module:
    """The one module inside a published group of groups."""
    return cast(nn.ModuleList, groups[0])[0]


class PatchEmbedding(nn.Module):
    """1x1 patches to tokens, and the position table whose centre is cropped to the latent's size."""

    pos_embed: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table_size = config.pos_embed_max_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, kernel_size=1)
        self.register_buffer("pos_embed", position_table(config)[None])

    def positions(self, height: int, width: int) -> Tensor:
        """The (1, height * width, d) part of the table for a latent of this size."""
        size = self.table_size
        if height > size or width > size:
            raise ValueError(f"latents of {height}x{width} exceed the position table of {size}x{size}")
        top, left = (size - height) // 2, (size - width) // 2
        table = self.pos_embed.view(1, size, size, -1)
        return table[:, top : top + height, left : left + width].flatten(1, 2)


def position_table(config: ModelConfig) -> Tensor:
    """2-D sine-cosine table (size * size, d), float32: width half first, each half sine then cosine.

    Coordinates are index / (size / sample_size) / max(sample_size // 16, 1); frequencies in float64.
    """
    size, d = config.pos_embed_max_size, config.hidden_size
    coordinates = torch.arange(size, dtype=torch.float64)
    # The published table rounds its coordinates to float32 before the float64 frequencies.
    coordinates = coordinates.float() / (size / config.sample_size) / max(config.sample_size // 16, 1)
    frequencies = 10000.0 ** -(torch.arange(d // 4, dtype=torch.float64) / (d // 4))
    angles = coordinates.double()[:, None] * frequencies  # (size, d/4)
    half = torch.cat([angles.sin(), angles.cos()], dim=1)  # (size, d/2)
    by_width = half[None, :].expand(size, size, -1)
    by_height = half[:, None].expand(size, size, -1)
    return torch.cat([by_width, by_height], dim=2).reshape(size * size, d).float()


class SharedModulation(nn.Module):
    """Timestep -> one modulation vector for every block and both streams (AdaLN-affine, section 3.4)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TimestepEmbedder(hidden_size)})
        self.linear = nn.Linear(hidden_size, 6 * hidden_size)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """(b,) timesteps in 0..1000 -> (b, 6, d) in `dtype`."""
        embedded = self.emb["timestep_embedder"](timestep_sinusoid(timestep).to(dtype))
        modulation: Tensor = self.linear(F.silu(embedded)).unflatten(1, (6, -1))
        return modulation


class TimestepEmbedder(nn.Module):
    """(b, 256) sinusoid -> (b, d), by two linear layers with SiLU between."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIMESTEP_CHANNELS, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, sinusoid: Tensor) -> Tensor:
        """See the class."""
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid)))
        return embedded


def timestep_sinusoid(timestep: Tensor) -> Tensor:
    """(b,) -> (b, 256) float32, cosine half first. Always float32: a bfloat16 angle is off by whole turns."""
    half = TIMESTEP_CHANNELS // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, device=timestep.device))
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TokenCompressor(nn.Module):
    """Multi-path compression: n image tokens to n/4 + n/16, by two pixel-unshuffle paths (section 3.1)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.body2x = self._path(d, 2)
        self.body4x = self._path(d, 4)

    @staticmethod
    def _path(d: int, factor: int) -> nn.Sequential:
        return nn.Sequential(
            nn.PixelUnshuffle(factor), nn.Conv2d(d * factor**2, d, 1), nn.GELU(approximate="tanh"), nn.Conv2d(d, d, 1)
        )

    def forward(self, image: Tensor, height: int, width: int) -> Tensor:
        """(b, n, d) -> (b, n/4 + n/16, d), the 2x path first."""
        grid = image.transpose(1, 2).unflatten(2, (height, width))  # (b, d, h, w)
        paths = [self.body2x(grid), self.body4x(grid)]
        return torch.cat([path.flatten(2).transpose(1, 2) for path in paths], dim=1)


class TokenReconstructor(nn.Module):
    """Back from the compressed tokens to n image tokens, merged with the skip of stage 1 (section 3.1)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.body2x = self._path(d, 2)
        self.body4x = self._path(d, 4)
        self.mergers = nn.Sequential(nn.Linear(3 * d, d), nn.GELU(approximate="tanh"), nn.Linear(d, d))

    @staticmethod
    def _path(d: int, factor: int) -> nn.Sequential:
        return nn.Sequential(
            nn.PixelShuffle(factor), nn.Conv2d(d // factor**2, d, 1), nn.GELU(approximate="tanh"), nn.Conv2d(d, d, 1)
        )

    def forward(self, tokens: Tensor, skip: Tensor, height: int, width: int) -> Tensor:
        """(b, n/4 + n/16, d) and the skip (b, n, d) -> (b, n, d)."""
        num_2x = height * width // 4
        from_2x = self._expand(self.body2x, tokens[:, :num_2x], height // 2, width // 2)
        from_4x = self._expand(self.body4x, tokens[:, num_2x:], height // 4, width // 4)
        merged: Tensor = self.mergers(torch.cat([from_2x, from_4x, skip], dim=2))
        return merged

    @staticmethod
    def _expand(path: nn.Module, tokens: Tensor, height: int, width: int) -> Tensor:
        grid = tokens.transpose(1, 2).unflatten(2, (height, width))  # (b, d, h/f, w/f)
        expanded: Tensor = path(grid).flatten(2).transpose(1, 2)
        return expanded


class JointBlock(nn.Module):
    """One MMDiT block: two streams with their own weights, one attention over both.

    The network's last block keeps no text output, so it owns no text weights behind its attention.
    """

    scale_shift_bias_c: nn.Parameter
    scale_shift_scale_c: nn.Parameter

    def __init__(self, config: ModelConfig, subregion_run: int, is_last: bool) -> None:
        super().__init__()
        d = config.hidden_size
        self.is_last = is_last
        self.scale_shift_bias = nn.Parameter(torch.zeros(6, d))
        self.scale_shift_scale = nn.Parameter(torch.zeros(6, d))
        self.norm1 = nn.LayerNorm(d, eps=1e-5)
        self.norm1_context = nn.LayerNorm(d, eps=1e-5)
        self.attn = JointAttention(d, config.num_attention_heads, subregion_run, is_last)
        self.norm2 = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
        self.ff = FeedForward(d, config.mlp_ratio)
        if not is_last:
            self.scale_shift_bias_c = nn.Parameter(torch.zeros(6, d))
            self.scale_shift_scale_c = nn.Parameter(torch.zeros(6, d))
            self.norm2_context = nn.LayerNorm(d, eps=1e-6, elementwise_affine=False)
            self.ff_context = FeedForward(d, config.mlp_ratio)

    def forward(self, image: Tensor, text: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, d), (b, t, d) and (b, 6, d) -> both streams, updated."""
        own = affine_modulation(modulation, self.scale_shift_bias, self.scale_shift_scale)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = own
        normed_image = self.norm1(image) * (1 + scale) + shift
        if self.is_last:
            attended, _ = self.attn(normed_image, self.norm1_context(text))
        else:
            own_c = affine_modulation(modulation, self.scale_shift_bias_c, self.scale_shift_scale_c)
            shift_c, scale_c, gate_c, ff_shift_c, ff_scale_c, ff_gate_c = own_c
            normed_text = self.norm1_context(text) * (1 + scale_c) + shift_c
            attended, attended_text = self.attn(normed_image, normed_text)
            text = text + gate_c * attended_text
            text = text + ff_gate_c * self.ff_context(self.norm2_context(text) * (1 + ff_scale_c) + ff_shift_c)
        image = image + gate * attended
        image = image + ff_gate * self.ff(self.norm2(image) * (1 + ff_scale) + ff_shift)
        return image, text


def affine_modulation(modulation: Tensor, bias: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """AdaLN-affine: bias + modulation * (1 + scale), cut into six (b, 1, d) (section 3.4)."""
    return (bias + modulation * (1 + scale)).unsqueeze(2).unbind(1)


class JointAttention(nn.Module):
    """Attention over [image, text], over all tokens or within four strided subregions (section 3.3)."""

    def __init__(self, d: int, num_heads: int, subregion_run: int, is_last: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.subregion_run = subregion_run
        self.is_last = is_last
        head_dim = d // num_heads
        self.to_q, self.to_k, self.to_v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.add_q_proj, self.add_k_proj, self.add_v_proj = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.norm_q, self.norm_k = nn.RMSNorm(head_dim, eps=1e-6), nn.RMSNorm(head_dim, eps=1e-6)
        self.norm_added_q, self.norm_added_k = nn.RMSNorm(head_dim, eps=1e-6), nn.RMSNorm(head_dim, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(d, d)])
        if not is_last:
            self.to_add_out = nn.Linear(d, d)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor | None]:
        """(b, n, d) and (b, t, d) -> attended image, attended text (None in the last block)."""
        num_rows, num_image, _ = image.shape
        q, k, v = (
            torch.cat([self._split(of_image), self._split(of_text)], dim=2)  # (b * s, k, (n + t) / s, e)
            for of_image, of_text in (
                (self._heads(self.to_q(image), self.norm_q), self._heads(self.add_q_proj(text), self.norm_added_q)),
                (self._heads(self.to_k(image), self.norm_k), self._heads(self.add_k_proj(text), self.norm_added_k)),
                (self._heads(self.to_v(image)), self._heads(self.add_v_proj(text))),
            )
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        num_regions = attended.shape[0] // num_rows
        of_image = self._join(attended[:, :, : num_image // num_regions], num_rows)
        image_out = self.to_out[0](of_image)
        if self.is_last:
            return image_out, None
        return image_out, self.to_add_out(self._join(attended[:, :, num_image // num_regions :], num_rows))

    def _heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        x = x.unflatten(2, (self.num_heads, -1))  # (b, tokens, k, e)
        return x if norm is None else norm(x)

    def _split(self, x: Tensor) -> Tensor:
        """(b, tokens, k, e) -> (b * s, k, tokens / s, e): tokens read as (l, s, run)."""
        if self.subregion_run:
            x = x.unflatten(1, (-1, NUM_SUBREGIONS, self.subregion_run))  # (b, l, s, run, k, e)
            x = x.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (b * s, l * run, k, e)
        return x.transpose(1, 2)

    def _join(self, x: Tensor, num_rows: int) -> Tensor:
        """Undo `_split` and the heads: (b * s, k, tokens / s, e) -> (b, tokens, d)."""
        x = x.transpose(1, 2).flatten(2)  # (b * s, tokens / s, d)
        if self.subregion_run:
            x = x.unflatten(0, (num_rows, NUM_SUBREGIONS)).unflatten(2, (-1, self.subregion_run))
            x = x.transpose(1, 2).flatten(1, 3)  # (b, l, s, run, d) -> (b, tokens, d)
        return x


class FeedForward(nn.Module):
    """d -> ratio * d -> d with a tanh-approximated GELU."""

    def __init__(self, d: int, ratio: int) -> None:
        super().__init__()
        # Index 1 is the published file's (parameterless) dropout.
        widen, narrow = nn.ModuleDict({"proj": nn.Linear(d, ratio * d)}), nn.Linear(ratio * d, d)
        self.net = nn.ModuleDict({"0": widen, "2": narrow})

    def forward(self, x: Tensor) -> Tensor:
        """(b, tokens, d) -> the same shape."""
        widened = F.gelu(cast(nn.ModuleDict, self.net["0"])["proj"](x), approximate="tanh")
        out: Tensor = self.net["2"](widened)
        return out
