"""A bundle: a folder whose `bundle.json` says what a model is and where its parts lie. Standard library only.

Parts are named relative to the folder (or absolutely, where an operator keeps the text encoder elsewhere), so that
several bundles can share one text encoder. Reading a bundle opens no tensor file; `model/weights.py` loads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import ModelCard, ModelConfig
from model.errors import ManifestError, UnsafeFile

MANIFEST_NAME = "bundle.json"
FORMAT_VERSION = 1
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # part of keys and paths
UNSAFE_SUFFIXES = frozenset({
    ".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib",
    ".dill", ".npy", ".npz", ".msgpack", ".h5", ".keras", ".onnx", ".tflite",
})  # fmt: skip
MAX_JSON_BYTES = 10 * 1024**2  # manifests, configurations, indexes of shards: some kilobytes each


@dataclass(frozen=True, slots=True)
class Parts:
    """Where a bundle's parts lie: transformer and preview are safetensors files, the rest folders as transformers,
    diffusers and PEFT write them. A bundle needs neither adapter nor preview (the projection of model/preview.py)."""

    transformer: Path
    text_encoder: Path
    tokenizer: Path
    autoencoder: Path
    adapter: Path | None = None
    preview: Path | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model: what clients may ask of it, its architecture, and where its parts lie (absolute paths)."""

    folder: Path
    card: ModelCard
    config: ModelConfig
    parts: Parts

    def missing_files(self) -> tuple[str, ...]:
        """Paths that loading will need and that are not there."""
        parts = self.parts
        needed = [
            parts.transformer,
            parts.text_encoder / "config.json",
            parts.tokenizer / "tokenizer.json",
            parts.autoencoder / "config.json",
        ]
        if parts.adapter is not None:
            needed += [parts.adapter / "adapter_config.json", parts.adapter / "adapter_model.safetensors"]
        if parts.preview is not None:
            needed.append(parts.preview)
        missing = [str(path) for path in needed if not path.is_file()]
        for folder in (parts.text_encoder, parts.autoencoder):
            if not any(folder.glob("*.safetensors")):
                missing.append(str(folder / "*.safetensors"))
        return tuple(missing)

    def refuse_unsafe_files(self) -> None:
        """Raise UnsafeFile where a part is, or lies beside, something that can carry code.

        Loading reads safetensors and JSON only; this makes sure that no library is ever tempted otherwise.
        """
        parts = self.parts
        for name, part in (("transformer", parts.transformer), ("preview", parts.preview)):
            if part is not None and part.suffix != ".safetensors":
                raise UnsafeFile(f"{part}: the {name} must be a .safetensors file")
        for folder in (parts.text_encoder, parts.tokenizer, parts.autoencoder, parts.adapter):
            if folder is None or not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in UNSAFE_SUFFIXES:
                    raise UnsafeFile(
                        f"{path}: files ending in {path.suffix} can carry code and are refused; remove it "
                        "(safetensors and JSON are all that is needed)"
                    )
                if path.name.endswith("config.json"):
                    _refuse_remote_code(path)
                elif path.name.endswith(".index.json"):
                    _refuse_other_shards(path)


def _refuse_remote_code(path: Path) -> None:
    """Read as the libraries read it: a key written with escapes is the same key."""
    if _has_key(_read_json(path), "auto_map"):
        raise UnsafeFile(f"{path}: auto_map asks for code of the repository to be run; remove that entry")


def _refuse_other_shards(path: Path) -> None:
    """An index says in which files tensors lie, and the libraries would follow it out of the folder, to any format."""
    index = _read_json(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict):
        raise UnsafeFile(f"{path}: weight_map must be an object")
    for name in names.values():
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise UnsafeFile(f"{path}: {name!r} is no name of a .safetensors file beside it")


def _read_json(path: Path) -> Any:  # noqa: ANN401 (JSON values)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UnsafeFile(f"{path}: {path.stat().st_size} bytes are too many for a configuration")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnsafeFile(f"{path}: unreadable: {error}") from error


def _has_key(value: object, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(child, key) for child in value.values())
    return isinstance(value, list) and any(_has_key(child, key) for child in value)


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`. Raises ManifestError naming the key that is wrong."""
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ManifestError(path, "", f"{path.stat().st_size} bytes are too many; allowed: {MAX_JSON_BYTES}")
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ManifestError(path, "", "no such file; a bundle is a folder with a manifest") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(path, "", f"unreadable: {error}") from error
    table = _Table(path, "", values)
    if (version := table.take("format_version", int)) != FORMAT_VERSION:
        raise ManifestError(path, "format_version", f"this release reads version {FORMAT_VERSION}, not {version}")
    try:
        config = ModelConfig.from_dict(table.take("architecture", dict))
    except (ValueError, TypeError) as error:
        raise ManifestError(path, "architecture", str(error)) from error
    parts = _Table(path, "parts", table.take("parts", dict))
    home = folder.resolve()
    optional = {key: parts.take(key, str) for key in ("adapter", "preview") if key in parts.values}
    located = Parts(
        transformer=(home / parts.take("transformer", str)).resolve(),
        text_encoder=(home / parts.take("text_encoder", str)).resolve(),
        tokenizer=(home / parts.take("tokenizer", str)).resolve(),
        autoencoder=(home / parts.take("autoencoder", str)).resolve(),
        **{key: (home / path).resolve() for key, path in optional.items()},
    )
    parts.refuse_rest()
    card = _read_card(table)
    table.refuse_rest()
    return Bundle(home, card, config, located)


def write_bundle(folder: Path, card: ModelCard, config: ModelConfig, parts: Mapping[str, str]) -> Bundle:
    """Write the manifest of a bundle into `folder` and read it back.

    `parts` maps transformer, text_encoder, tokenizer, autoencoder and perhaps adapter and preview to paths, relative to
    `folder`.
    """
    values = {
        "format_version": FORMAT_VERSION,
        "name": card.name,
        "description": card.description,
        "version": card.version,
        "license": card.license,
        "architecture": config.to_dict(),
        "parts": dict(parts),
        "sizes": list(card.sizes),
        "default_steps": card.default_steps,
        "default_guidance": card.default_guidance,
        "max_steps": card.max_steps,
        "max_guidance": card.max_guidance,
        "vocabulary": None if card.vocabulary is None else list(card.vocabulary),
        "example_prompts": list(card.example_prompts),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return _write_manifest(folder, values)


def name_preview(bundle: Bundle, path: str) -> Bundle:
    """Name the preview at `path`, relative to the bundle's folder, in its manifest; the rest stays as it is."""
    values = json.loads((bundle.folder / MANIFEST_NAME).read_text("utf-8"))
    values["parts"]["preview"] = path
    return _write_manifest(bundle.folder, values)


def _write_manifest(folder: Path, values: Mapping[str, Any]) -> Bundle:
    temporary = folder / f"{MANIFEST_NAME}.part"
    temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(folder / MANIFEST_NAME)
    return read_bundle(folder)


def _read_card(table: _Table) -> ModelCard:
    sizes = table.take_strings("sizes")
    for size in sizes:
        width, _, height = size.partition("x")
        if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
            raise ManifestError(table.path, "sizes", f'{size!r} is not of the form "512x512"')
    if not sizes:
        raise ManifestError(table.path, "sizes", "at least one size is needed")
    optional: dict[str, Any] = {}
    if "max_steps" in table.values:
        optional["max_steps"] = table.take("max_steps", int)
    if "max_guidance" in table.values:
        optional["max_guidance"] = float(table.take("max_guidance", (int, float)))
    if table.values.get("vocabulary", ...) is None:
        del table.values["vocabulary"]
    if "vocabulary" in table.values:
        optional["vocabulary"] = table.take_strings("vocabulary")
    if "example_prompts" in table.values:
        optional["example_prompts"] = table.take_strings("example_prompts")
    card = ModelCard(
        name=table.take("name", str),
        description=table.take("description", str),
        sizes=sizes,
        default_steps=table.take("default_steps", int),
        default_guidance=float(table.take("default_guidance", (int, float))),
        version=table.take("version", str),
        license=table.take("license", str),
        **optional,
    )
    if not MODEL_NAME.fullmatch(card.name):
        raise ManifestError(table.path, "name", f"{card.name!r} must match {MODEL_NAME.pattern}")
    if not 1 <= card.default_steps <= card.max_steps:
        raise ManifestError(table.path, "default_steps", f"{card.default_steps} is not in 1..{card.max_steps}")
    if not 0 <= card.default_guidance <= card.max_guidance:
        raise ManifestError(table.path, "default_guidance", f"{card.default_guidance} is not in 0..{card.max_guidance}")
    return card


class _Table:
    """One JSON object of the manifest, taken apart key by key; whatever is left over is an error."""

    def __init__(self, path: Path, key: str, values: object) -> None:
        if not isinstance(values, dict):
            raise ManifestError(path, key, f"must be an object, got {type(values).__name__}")
        self.path = path
        self.prefix = f"{key}." if key else ""
        self.values = dict(values)

    def take(self, key: str, kind: type | tuple[type, ...]) -> Any:  # noqa: ANN401 (JSON values)
        """The value of `key`, removed. Missing, or of another kind: ManifestError."""
        if key not in self.values:
            raise ManifestError(self.path, self.prefix + key, "missing")
        value = self.values.pop(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = "/".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise ManifestError(self.path, self.prefix + key, f"must be {names}, got {value!r}")
        return value

    def take_strings(self, key: str) -> tuple[str, ...]:
        """A list of strings as a tuple."""
        values = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise ManifestError(self.path, self.prefix + key, "must be a list of strings")
        return tuple(values)

    def refuse_rest(self) -> None:
        if self.values:
            key = sorted(self.values)[0]
            raise ManifestError(self.path, self.prefix + key, "unknown key")
