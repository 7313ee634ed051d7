"""Several bundles as engines on one device: what they have in common is loaded once, timed and weighed by part.

Text encoder (with its cache) and autoencoder are shared between bundles whose files are the same, wherever they lie:
the published variants have 3.7 GB in common. Whatever differs is loaded for its own model. The engines of one call
belong to one thread, since they compute with the same modules.
"""

from __future__ import annotations

import filecmp
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from model.autoencoder import Autoencoder
from model.bundle import Bundle
from model.engine import Engine, choose_device, choose_dtype
from model.text import TextEncoder
from model.weights import LoadedModel, give_projection, load_autoencoder, load_network, load_text_encoder, refuse_unfit

T = TypeVar("T")
_READ_SUFFIXES = (".json", ".safetensors")  # nothing else of a part's folder is read


@dataclass(frozen=True, slots=True)
class PartMemory:
    """A part in memory: network, text_encoder or autoencoder, the models that draw with it, and its weights' size."""

    part: str
    models: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class LoadedEngines:
    """Engines by model, in the order of their bundles; their parts; and the seconds that each phase of loading took."""

    engines: Mapping[str, Engine]
    memory: tuple[PartMemory, ...]
    phases_s: Mapping[str, float]


def load_engines(
    bundles: Sequence[Bundle], device: str = "auto", dtype: str = "auto", *, exact_rows: int = 0
) -> LoadedEngines:
    """Load `bundles`, which must have different names, onto one device, and warm up where that is not a CPU.

    `exact_rows` is what `Engine` makes of it.
    Raises BundleError for a bundle, ValueError for a device that is not there.
    """
    chosen = choose_device(device)
    number_format = choose_dtype(dtype, chosen)
    phases_s = dict.fromkeys(("text encoder", "autoencoder", "networks", "fusing", "warm-up"), 0.0)
    engines: dict[str, Engine] = {}
    texts: list[tuple[Bundle, TextEncoder]] = []
    autoencoders: list[tuple[Bundle, Autoencoder]] = []
    for bundle in bundles:
        refuse_unfit(bundle)
        with _timed(phases_s, "text encoder"):
            text = _shared(texts, bundle, _has_same_text_encoder) or load_text_encoder(
                bundle, device=chosen, dtype=number_format
            )
        texts.append((bundle, text))
        with _timed(phases_s, "autoencoder"):
            autoencoder = _shared(autoencoders, bundle, _has_same_autoencoder) or load_autoencoder(
                bundle, device=chosen, dtype=number_format
            )
            autoencoder.refuse_sizes_off_grid(bundle.parts.autoencoder, bundle.card.sizes)
            give_projection(bundle, autoencoder)  # all that share an autoencoder draw with the first one
        autoencoders.append((bundle, autoencoder))
        with _timed(phases_s, "networks"):
            network = load_network(bundle, device=chosen, dtype=number_format)
        with _timed(phases_s, "fusing"):  # the network itself is let go with this round of the loop
            model = LoadedModel(bundle.card, bundle.config, network, text, autoencoder)
            engines[bundle.card.name] = Engine(model, chosen, number_format, exact_rows=exact_rows)
        del network, model
    if chosen.type != "cpu":  # a CPU has nothing to warm up, and a picture of the published size takes it half a minute
        with _timed(phases_s, "warm-up"):
            for _, autoencoder in autoencoders:
                autoencoder.prime_previews()
            for engine in engines.values():
                engine.warm_up()
    return LoadedEngines(engines, memory_by_part(engines), phases_s)


def memory_by_part(engines: Mapping[str, Engine]) -> tuple[PartMemory, ...]:
    """What the engines keep in memory, each part once: weights only, not what a forward needs on top."""
    owners: dict[tuple[str, int], list[str]] = {}
    modules: dict[tuple[str, int], nn.Module] = {}
    for name, engine in engines.items():
        for part, module in engine.parts().items():
            owners.setdefault((part, id(module)), []).append(name)
            modules[part, id(module)] = module
    return tuple(PartMemory(key[0], tuple(names), _num_bytes(modules[key])) for key, names in owners.items())


def _num_bytes(module: nn.Module) -> int:
    """Of parameters and buffers, tied ones once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in (*module.parameters(), *module.buffers())}.values())


def _shared(loaded: Sequence[tuple[Bundle, T]], bundle: Bundle, is_same: Callable[[Bundle, Bundle], bool]) -> T | None:
    return next((part for other, part in loaded if is_same(bundle, other)), None)


def _has_same_text_encoder(one: Bundle, other: Bundle) -> bool:
    """Whether both networks are told the same about the same prompt."""
    return (
        one.config.num_text_tokens == other.config.num_text_tokens
        and one.config.caption_channels == other.config.caption_channels
        and _has_same_files(one.parts.text_encoder, other.parts.text_encoder)
        and _has_same_files(one.parts.tokenizer, other.parts.tokenizer)
    )


def _has_same_autoencoder(one: Bundle, other: Bundle) -> bool:
    return one.config.in_channels == other.config.in_channels and _has_same_files(
        one.parts.autoencoder, other.parts.autoencoder
    )


def _has_same_files(one: Path, other: Path) -> bool:
    """Whether two folders of a part are one, or hold the same bytes: copies are compared, names prove nothing."""
    if one == other:
        return True
    files, others = _read_files(one), _read_files(other)
    return files.keys() == others.keys() and all(
        path.samefile(others[name]) or filecmp.cmp(path, others[name], shallow=False) for name, path in files.items()
    )


def _read_files(folder: Path) -> dict[str, Path]:
    """By name, small ones first: what differs mostly differs in its configuration."""
    paths = [path for path in folder.iterdir() if path.suffix in _READ_SUFFIXES]
    return {path.name: path for path in sorted(paths, key=lambda path: path.stat().st_size)}


@contextmanager
def _timed(phases_s: dict[str, float], phase: str) -> Iterator[None]:
    started_s = time.perf_counter()
    yield
    phases_s[phase] += time.perf_counter() - started_s
