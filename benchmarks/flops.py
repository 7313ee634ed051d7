"""What one picture costs in floating-point operations, counted on networks without memory (meta device).

One multiplication with its addition counts as two, as usual. Only matrix products, convolutions and attention are
counted, as `torch.utils.flop_counter` does; everything else is below one percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderDC
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from model.bundle import Bundle
from model.transformer import EMMDiT


@dataclass(frozen=True, slots=True)
class PictureFlops:
    """Floating-point operations of one row or one picture at the bundle's first size."""

    forward: int  # one row through the network
    text: int  # one prompt through the text encoder's body, without its head
    decode: int  # one picture through the decoder


def count_flops(bundle: Bundle) -> PictureFlops:
    """Count for the architecture of `bundle`. Reads its configuration files, no weights."""
    config = bundle.config
    width_px, height_px = (int(side) for side in bundle.card.sizes[0].split("x"))
    with torch.device("meta"):
        network = EMMDiT(config).eval()
        llama = LlamaConfig.from_pretrained(bundle.parts.text_encoder, local_files_only=True)
        body = LlamaModel(llama).eval()
        autoencoder = AutoencoderDC.from_config(AutoencoderDC.load_config(bundle.parts.autoencoder)).eval()
        side_px = autoencoder.spatial_compression_ratio
        latents = torch.empty(1, config.in_channels, height_px // side_px, width_px // side_px)
        text = torch.empty(1, config.num_text_tokens, config.caption_channels)
        tokens = torch.zeros(1, config.num_text_tokens, dtype=torch.long)
        timestep = torch.empty(1)
        # Given whole, since making one from a padding mask would look at values that are not there.
        mask = torch.empty(1, 1, config.num_text_tokens, config.num_text_tokens, dtype=torch.bool)
    return PictureFlops(
        forward=_count(lambda: network(latents, text, timestep)),
        text=_count(lambda: body(input_ids=tokens, attention_mask=mask, use_cache=False)),
        decode=_count(lambda: autoencoder.decode(latents)),
    )


def _count(forward: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())
