"""The frozen networks that turn pictures and captions into training data, on one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from model import weights
from model.autoencoder import Autoencoder
from model.bundle import Bundle, read_bundle
from model.engine import choose_device, choose_dtype
from model.text import TextEncoder, clean_prompt
from model.training.dinov2 import FeatureEncoder
from model.training.shards import HalfArray, PreparedSample
from model.training.sources import Picture


class Encoders:
    """A bundle's autoencoder and, where asked for, its text encoder and a DINOv2."""

    def __init__(
        self, bundle: Bundle, autoencoder: Autoencoder, text: TextEncoder | None, features: FeatureEncoder | None
    ) -> None:
        self.bundle = bundle
        self.autoencoder = autoencoder
        self.text = text
        self.features = features
        # For counting only: what gets cut is worth knowing, and the text encoder does not tell.
        self._tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # local
            bundle.parts.tokenizer, local_files_only=True, trust_remote_code=False
        )

    @classmethod
    def load(
        cls, folder: Path, *, is_text_encoded: bool, features: Path | None, device: torch.device, dtype: torch.dtype
    ) -> Encoders:
        """Load from the bundle in `folder` and the DINOv2 folder `features`. Raises BundleError or ShardError."""
        bundle = read_bundle(folder)
        bundle.refuse_unsafe_files()
        autoencoder = Autoencoder.load(
            bundle.parts.autoencoder, num_channels=bundle.config.in_channels, device=device, dtype=dtype
        )
        text = load_text_encoder(bundle, device, dtype) if is_text_encoded else None
        return cls(
            bundle, autoencoder, text, None if features is None else FeatureEncoder.load(features, device, dtype)
        )

    @property
    def size_px(self) -> int:
        """Side of the pictures that the bundle's network draws."""
        return self.bundle.config.sample_size * self.autoencoder.spatial_compression

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one picture."""
        side = self.bundle.config.sample_size
        return (self.bundle.config.in_channels, side, side)

    @property
    def text_shape(self) -> tuple[int, int]:
        """(t, channels) of one caption."""
        return (self.bundle.config.num_text_tokens, self.bundle.config.caption_channels)

    def encode_text(self, captions: Sequence[str]) -> HalfArray:
        """Embeddings (b, t, channels) of cleaned captions, padding included."""
        assert self.text is not None
        embeddings: HalfArray = self.text.encode(captions).half().cpu().numpy()
        return embeddings

    def encode(self, pictures: Sequence[Picture]) -> Iterator[PreparedSample]:
        """One batch, in one call of each network."""
        pixels = np.stack([picture.pixels for picture in pictures])
        captions = [clean_prompt(picture.caption) for picture in pictures]
        latents: HalfArray = self.autoencoder.encode(pixels).half().cpu().numpy()
        text = None if self.text is None else self.encode_text(captions)
        features = None if self.features is None else self.features.encode(pixels)
        tokens = self._tokenizer(captions)["input_ids"]
        for row, picture in enumerate(pictures):
            yield PreparedSample(
                picture.name,
                captions[row],
                len(tokens[row]),
                latents[row],
                None if text is None else text[row],
                None if features is None else features[row],
            )


def load_text_encoder(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """A bundle's text encoder, with no cache: training hardly sees a caption twice. Raises TextEncoderError."""
    return weights.load_text_encoder(bundle, device=device, dtype=dtype, cache_bytes=0)


def place(device: str, dtype: str, worker: int) -> tuple[torch.device, torch.dtype]:
    """Where the networks of process number `worker` run: "auto" deals the GPUs out. Raises ValueError."""
    chosen = choose_device(device)
    if device == "auto" and chosen.type == "cuda":
        chosen = torch.device("cuda", worker % torch.cuda.device_count())
    return chosen, choose_dtype(dtype, chosen)
