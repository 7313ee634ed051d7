"""Shapes and published settings of every model this project knows. Standard library only: the gateway reads it.

`ModelConfig` is the network's architecture (arXiv 2510.27135, section 3; the sizes are those of the published
checkpoints). `ModelCard` is what a client may ask of a bundle: sizes, steps, guidance. One class serves the
published models, the shipped demo and the tiny ones of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Architecture of one E-MMDiT network. `sample_size` is the latent's side, in latent pixels."""

    sample_size: int = 16
    in_channels: int = 32
    num_attention_heads: int = 24
    attention_head_dim: int = 32
    stages: tuple[int, int, int] = (4, 16, 4)
    caption_channels: int = 2048
    num_text_tokens: int = 128
    use_sub_attn: bool = True
    mlp_ratio: int = 3
    pos_embed_max_size: int = 96

    def __post_init__(self) -> None:
        if self.sample_size % 4:
            raise ValueError(f"sample_size must be a multiple of 4 (the 4x compression path), got {self.sample_size}")
        if self.sample_size > self.pos_embed_max_size:
            raise ValueError(f"sample_size {self.sample_size} exceeds the position table ({self.pos_embed_max_size})")
        if self.hidden_size % 16:
            raise ValueError(f"heads x head size must be a multiple of 16, got {self.hidden_size}")
        if self.use_sub_attn:
            for name, count in (
                ("image tokens", self.num_image_tokens),
                ("compressed tokens", self.num_compressed_tokens),
                ("text tokens", self.num_text_tokens),
            ):
                if count % 16:
                    raise ValueError(f"alternating subregion attention needs {name} in multiples of 16, got {count}")

    @property
    def hidden_size(self) -> int:
        """d: heads x channels per head."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def num_image_tokens(self) -> int:
        """n: one token per latent pixel."""
        return self.sample_size**2

    @property
    def num_compressed_tokens(self) -> int:
        """Tokens after multi-path compression: a quarter and a sixteenth of the image's."""
        return self.num_image_tokens // 4 + self.num_image_tokens // 16

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from a manifest's table. Unknown keys are errors."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"unknown architecture keys {unknown}; known: {sorted(cls.__dataclass_fields__)}")
        merged = dict(values)
        if "stages" in merged:
            merged["stages"] = tuple(merged["stages"])
        return cls(**merged)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest; `from_dict` reads them back."""
        values = asdict(self)
        values["stages"] = list(self.stages)
        return values


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client may ask of one model, and what it gets when it does not say.

    `sizes` are "WIDTHxHEIGHT" in pixels, the first is the default. `vocabulary` lists the words that a demo model
    was trained on, None where any text makes sense.
    """

    name: str
    description: str
    sizes: tuple[str, ...]
    default_steps: int
    default_guidance: float
    max_steps: int = 100
    max_guidance: float = 20.0
    version: str = "unknown"
    license: str = "unknown"
    vocabulary: tuple[str, ...] | None = None
    example_prompts: tuple[str, ...] = ()


NITRO_E_512 = ModelConfig()
NITRO_E_1024 = ModelConfig(sample_size=32, use_sub_attn=False)
