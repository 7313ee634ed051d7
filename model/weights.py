"""From a bundle on disk to a model in memory: verified first, then mapped rather than copied.

Headers are judged before any data is read, so a wrong file is named in milliseconds. The network is built without
memory (meta device) and takes the mapped tensors over; only a change of type or device copies them. Never touches
the network. Surprising: replacing a file in place under a running process breaks its mapping; rename over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from model.adapters import merge_adapter, read_adapter_config
from model.autoencoder import Autoencoder
from model.bundle import Bundle
from model.config import ModelCard, ModelConfig
from model.errors import MissingFiles
from model.preview import Projection, expected_shapes
from model.tensor_file import check_tensors, read_header
from model.text import DEFAULT_CACHE_BYTES, TextEncoder
from model.transformer import EMMDiT

# REPA heads of training checkpoints: of no use at inference.
_IGNORED_PREFIXES = ("projectors.",)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Everything that turns prompts into pixels, on one device."""

    card: ModelCard
    config: ModelConfig
    transformer: EMMDiT
    text: TextEncoder
    autoencoder: Autoencoder


def load_bundle(
    bundle: Bundle,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> LoadedModel:
    """Load every part of `bundle` onto `device` in `dtype` (float32, bfloat16 or float16).

    Raises a BundleError naming the file and, for tensors, their names.
    """
    refuse_unfit(bundle)
    transformer = load_network(bundle, device=device, dtype=dtype)
    text = load_text_encoder(bundle, device=device, dtype=dtype, cache_bytes=text_cache_bytes)
    autoencoder = load_autoencoder(bundle, device=device, dtype=dtype)
    return LoadedModel(bundle.card, bundle.config, transformer, text, autoencoder)


def refuse_unfit(bundle: Bundle) -> None:
    """Raise MissingFiles or UnsafeFile for a bundle of which nothing should be loaded."""
    if missing := bundle.missing_files():
        raise MissingFiles(bundle.card.name, missing, f"complete the bundle in {bundle.folder}")
    bundle.refuse_unsafe_files()


def load_network(bundle: Bundle, *, device: torch.device | str, dtype: torch.dtype) -> EMMDiT:
    """The bundle's network, its adapter merged into a copy."""
    parts = bundle.parts
    return load_transformer(parts.transformer, bundle.config, adapter=parts.adapter, device=device, dtype=dtype)


def load_text_encoder(
    bundle: Bundle, *, device: torch.device | str, dtype: torch.dtype, cache_bytes: int = DEFAULT_CACHE_BYTES
) -> TextEncoder:
    """The bundle's text encoder, as its network wants to be told."""
    return TextEncoder.load(
        bundle.parts.text_encoder,
        bundle.parts.tokenizer,
        num_tokens=bundle.config.num_text_tokens,
        num_channels=bundle.config.caption_channels,
        device=device,
        dtype=dtype,
        cache_bytes=cache_bytes,
    )


def load_autoencoder(bundle: Bundle, *, device: torch.device | str, dtype: torch.dtype) -> Autoencoder:
    """The bundle's autoencoder, checked to fit the network's latents and every size on the card."""
    autoencoder = Autoencoder.load(
        bundle.parts.autoencoder,
        num_channels=bundle.config.in_channels,
        sizes=bundle.card.sizes,
        device=device,
        dtype=dtype,
    )
    give_projection(bundle, autoencoder)
    return autoencoder


def give_projection(bundle: Bundle, autoencoder: Autoencoder) -> None:
    """Let `autoencoder` draw its previews with the bundle's projection, if there is one and it has none yet."""
    if bundle.parts.preview is not None and autoencoder.previews.given is None:
        autoencoder.previews.given = Projection.load(bundle.parts.preview, autoencoder.num_channels)


def load_transformer(
    path: Path,
    config: ModelConfig,
    *,
    adapter: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> EMMDiT:
    """Load the network from a safetensors file of the published layout; `dtype` None keeps the file's.

    `adapter` is a PEFT folder, merged before the cast. Raises TensorFileError or AdapterError.
    """
    expected = expected_tensors(config)
    check_tensors(path, read_header(path), expected, _IGNORED_PREFIXES)
    with safe_open(path, framework="pt") as file:
        weights: dict[str, Tensor] = {name: file.get_tensor(name) for name in expected}
    if adapter is not None:
        weights = merge_adapter(weights, adapter)
    weights = {name: tensor.to(device=device, dtype=dtype) for name, tensor in weights.items()}
    with torch.device("meta"):
        network = EMMDiT(config)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a transformer file of this architecture holds, sorted by name."""
    with torch.device("meta"):
        tensors = EMMDiT(config).state_dict()
    return {name: tuple(tensors[name].shape) for name in sorted(tensors)}


def verify_bundle(bundle: Bundle, report: Callable[[str], None]) -> None:
    """Check a bundle without loading it: files there, no code, every header sound, the transformer's complete.

    Tells `report` what was found. Raises the BundleError that loading would raise for the same reason.
    """
    refuse_unfit(bundle)
    parts = bundle.parts
    expected = expected_tensors(bundle.config)
    check_tensors(parts.transformer, read_header(parts.transformer), expected, _IGNORED_PREFIXES)
    report(f"transformer   {len(expected)} tensors, {parts.transformer.stat().st_size:,} bytes")
    if parts.adapter is not None:
        config = read_adapter_config(parts.adapter)
        num = len(read_header(parts.adapter / "adapter_model.safetensors"))
        report(f"adapter       {num} tensors, rank {config.rank}, scaling {config.scaling:g}")
    if parts.preview is not None:
        check_tensors(parts.preview, read_header(parts.preview), expected_shapes(bundle.config.in_channels))
        report(f"preview       {parts.preview.stat().st_size:,} bytes")
    for label, folder in (("text encoder", parts.text_encoder), ("autoencoder", parts.autoencoder)):
        files = sorted(folder.glob("*.safetensors"))
        num = sum(len(read_header(path)) for path in files)
        report(f"{label:13} {num} tensors in {len(files)} file(s)")
