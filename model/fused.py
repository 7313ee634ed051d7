"""E-MMDiT for serving: the same numbers as model/transformer.py from fewer, larger operations.

Query, key and value of a stream are one product; the modulation of every block and both streams is one broadcast;
heads and subregions are laid out by one copy of all three. Weights are the network's own where they can be (the
fused projections are copies, and the network's own are let go). Surprising: it has no gradients and no published
names; training, checkpoints and parity tests belong to model/transformer.py, and a test holds the two together.
Legend as there: b rows, c h w a latent, d hidden size, n image tokens, m compressed tokens, t text tokens, k heads,
e = d / k, s subregions, j blocks' tables.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.transformer import (
    NUM_SUBREGIONS,
    EMMDiT,
    FeedForward,
    JointAttention,
    JointBlock,
    TokenCompressor,
    TokenReconstructor,
    timestep_sinusoid,
)


class FusedEMMDiT(nn.Module):
    """An inference-only copy of `network`, which may be thrown away. Same inputs and output as `EMMDiT.forward`."""

    bias: Tensor
    scale: Tensor

    def __init__(self, network: EMMDiT) -> None:
        super().__init__()
        self.pos_embed = network.pos_embed
        self.context_embedder = network.context_embedder
        self.timestep_embedder = network.adaln_single.emb["timestep_embedder"]
        self.modulation = network.adaln_single.linear
        self.compressor = cast(TokenCompressor, cast(nn.ModuleList, network.tokencompressor[0])[0])
        self.reconstructor = cast(TokenReconstructor, cast(nn.ModuleList, network.tokenreconstructor[0])[0])
        self.norm_out, self.proj_out = network.norm_out, network.proj_out
        self.num_hidden = network.config.hidden_size

        stages = [[cast(JointBlock, block) for block in cast(nn.ModuleList, group)] for group in network.block_groups]
        blocks = [block for stage in stages for block in stage]
        streams = [(block.scale_shift_bias, block.scale_shift_scale) for block in blocks]
        streams += [(b.scale_shift_bias_c, b.scale_shift_scale_c) for b in blocks if not b.is_last]
        self.register_buffer("bias", torch.stack([bias.detach() for bias, _ in streams]))  # (j, 6, d): image, then text
        self.register_buffer("scale", 1 + torch.stack([scale.detach() for _, scale in streams]))
        fused = iter([FusedBlock(block) for block in blocks])
        self.stages = nn.ModuleList([nn.ModuleList([next(fused) for _ in stage]) for stage in stages])
        self.requires_grad_(False).eval()

    def forward(self, latents: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        """Velocity (b, c, h, w) at `latents` (b, c, h, w), given `text` (b, t, caption channels), `timestep` (b,)."""
        height, width = latents.shape[-2:]
        tables = self._modulation_tables(timestep, latents.dtype)
        positions = self.pos_embed.positions(height, width).to(latents.dtype)  # (1, n, d)
        weight = self.pos_embed.proj.weight.flatten(1)
        image = F.linear(latents.flatten(2).transpose(1, 2), weight, self.pos_embed.proj.bias) + positions  # (b, n, d)
        text = self.context_embedder(text)  # (b, t, d)

        image, text, tables = self._run_stage(0, image, text, tables)
        skip = image
        image, text, tables = self._run_stage(1, self.compressor(image, height, width), text, tables)
        image = self.reconstructor(image, skip, height, width) + positions
        image, _, _ = self._run_stage(2, image, text, tables)

        velocity = self.proj_out(self.norm_out(image)).transpose(1, 2)  # (b, c, n)
        return cast(Tensor, velocity.unflatten(2, (height, width)))

    def _modulation_tables(self, timestep: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor | None]]:
        """For each block (b, 6, 1, d) of the image stream and of the text stream, None where that has none."""
        embedded = self.timestep_embedder(timestep_sinusoid(timestep).to(dtype))
        shared = self.modulation(F.silu(embedded)).unflatten(1, (1, 6, -1))  # (b, 1, 6, d)
        tables = torch.addcmul(self.bias, shared, self.scale).unsqueeze(3).unbind(1)  # j of (b, 6, 1, d)
        num_blocks = (len(tables) + 1) // 2
        return list(zip(tables[:num_blocks], [*tables[num_blocks:], None], strict=True))

    def _run_stage(
        self, stage: int, image: Tensor, text: Tensor, tables: list[tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor | None]]]:
        """Both streams behind a stage's blocks, and the tables that are left for the next."""
        blocks = cast(nn.ModuleList, self.stages[stage])
        for block, (of_image, of_text) in zip(blocks, tables, strict=False):
            image, text = block(image, text, of_image, of_text)
        return image, text, tables[len(blocks) :]


class FusedBlock(nn.Module):
    """One MMDiT block; see `model.transformer.JointBlock`."""

    def __init__(self, block: JointBlock) -> None:
        super().__init__()
        self.norm1, self.norm1_context, self.norm2 = block.norm1, block.norm1_context, block.norm2
        self.attn = FusedAttention(block.attn)
        self.ff = block.ff
        if not block.is_last:
            self.norm2_context, self.ff_context = block.norm2_context, block.ff_context

    def forward(self, image: Tensor, text: Tensor, of_image: Tensor, of_text: Tensor | None) -> tuple[Tensor, Tensor]:
        """(b, n, d), (b, t, d) and their modulation (b, 6, 1, d) -> both streams, updated."""
        shift, scale, gate, *feed_forward = of_image.unbind(1)  # each (b, 1, d)
        normed_image = torch.addcmul(shift, self.norm1(image), 1 + scale)
        normed_text = self.norm1_context(text)
        if of_text is None:
            attended, _ = self.attn(normed_image, normed_text)
        else:
            shift_c, scale_c, gate_c, *feed_forward_c = of_text.unbind(1)
            attended, attended_text = self.attn(normed_image, torch.addcmul(shift_c, normed_text, 1 + scale_c))
            text = torch.addcmul(text, gate_c, attended_text)
            text = _feed_forward(text, self.norm2_context, self.ff_context, feed_forward_c)
        image = torch.addcmul(image, gate, attended)
        return _feed_forward(image, self.norm2, self.ff, feed_forward), text


def _feed_forward(x: Tensor, norm: nn.LayerNorm, feed_forward: FeedForward, modulation: list[Tensor]) -> Tensor:
    shift, scale, gate = modulation
    return torch.addcmul(x, gate, feed_forward(torch.addcmul(shift, norm(x), 1 + scale)))


class FusedAttention(nn.Module):
    """Joint attention with one product for query, key and value of each stream."""

    image_norm: Tensor
    text_norm: Tensor

    def __init__(self, attention: JointAttention) -> None:
        super().__init__()
        self.num_heads, self.subregion_run = attention.num_heads, attention.subregion_run
        self.eps = cast(float, attention.norm_q.eps)
        self.of_image = _stacked(attention.to_q, attention.to_k, attention.to_v)
        self.of_text = _stacked(attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        self.register_buffer("image_norm", _norm_weights(attention.norm_q, attention.norm_k))
        self.register_buffer("text_norm", _norm_weights(attention.norm_added_q, attention.norm_added_k))
        self.to_out = attention.to_out[0]
        self.to_add_out = None if attention.is_last else attention.to_add_out

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, d) and (b, t, d) -> attended image, attended text (of no use in the last block)."""
        num_rows, num_image, _ = image.shape
        q, k, v = self._lay_out(
            self._heads(self.of_image(image), self.image_norm), self._heads(self.of_text(text), self.text_norm)
        )
        attended = self._join(F.scaled_dot_product_attention(q, k, v), num_rows)  # (b, n + t, d)
        of_text = attended[:, num_image:]
        return self.to_out(attended[:, :num_image]), of_text if self.to_add_out is None else self.to_add_out(of_text)

    def _heads(self, projected: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """(b, tokens, 3 d) -> normalised queries and keys (b, tokens, 2, k, e), values (b, tokens, 1, k, e)."""
        x = projected.unflatten(2, (3, self.num_heads, -1))
        return F.rms_norm(x[:, :, :2], x.shape[-1:], eps=self.eps) * norm, x[:, :, 2:]

    def _lay_out(self, image: tuple[Tensor, Tensor], text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, value (b * s, k, (n + t) / s, e): image tokens first, read as (l, s, run) as text tokens are."""
        queries_keys, values = torch.cat([image[0], text[0]], dim=1), torch.cat([image[1], text[1]], dim=1)
        q, k, v = (*queries_keys.unbind(2), values.squeeze(2))  # (b, n + t, k, e)
        return self._split(q), self._split(k), self._split(v)

    def _split(self, x: Tensor) -> Tensor:
        if self.subregion_run:
            x = x.unflatten(1, (-1, NUM_SUBREGIONS, self.subregion_run))  # (b, l, s, run, k, e)
            x = x.transpose(1, 2).flatten(2, 3).flatten(0, 1)
        return x.transpose(1, 2)

    def _join(self, x: Tensor, num_rows: int) -> Tensor:
        x = x.transpose(1, 2).flatten(2)  # (b * s, tokens / s, d)
        if self.subregion_run:
            x = x.unflatten(0, (num_rows, NUM_SUBREGIONS)).unflatten(2, (-1, self.subregion_run))
            x = x.transpose(1, 2).flatten(1, 3)
        return x


def _stacked(*layers: nn.Linear) -> nn.Linear:
    """One layer whose outputs are those of `layers`, one after the other."""
    first = layers[0]
    stacked = nn.Linear(first.in_features, sum(layer.out_features for layer in layers), device="meta")
    stacked.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    stacked.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    return stacked


def _norm_weights(query: nn.RMSNorm, key: nn.RMSNorm) -> Tensor:
    """(2, 1, e): the per-head weights of both norms."""
    return torch.stack([query.weight.detach(), key.weight.detach()])[:, None]
