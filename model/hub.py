"""Fetching the published models from the hub: the only place that touches the network, and only when asked to.

Every download is pinned to a full commit and limited to safetensors, JSON and licence files. Parts land under
`models_dir/parts/<repository>/<commit>` and are shared between models; a manifest in `models_dir/<name>` names them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from model.bundle import Bundle, write_bundle
from model.catalog import AUTOENCODER, GATE_NOTE, KNOWN_SHA256, TEXT_ENCODER, VARIANTS, Source
from model.errors import DownloadError, MissingFiles, RevisionError, UnknownModel

_COMMIT = re.compile(r"[0-9a-f]{40}")
_READ_BYTES = 2**22


class Download(Protocol):
    """How files get here: the part of `huggingface_hub.snapshot_download` that is used."""

    def __call__(self, repo: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> object:
        """Bring the files of `repo` that match into `local_dir`. Raises OSError."""


def fetch_model(
    name: str,
    models_dir: Path,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    text_encoder: Path | None = None,
    download: Download | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Download the published model `name` and write its manifest.

    `revision` is the commit of the authors' repository (needed where the catalog knows none); `sha256` what the
    network's file must have (the catalog knows some); `text_encoder` a local Llama folder to use instead of the gated
    download. Raises UnknownModel, RevisionError, DownloadError, UnsafeFile.
    """
    if name not in VARIANTS:
        raise UnknownModel(f"{name!r} can't be fetched; published models: {', '.join(VARIANTS)}")
    variant = VARIANTS[name]
    source = _pinned(variant.source, revision)
    if text_encoder is None:  # first, because its gate is what most often stops a fetch
        text_dir = _fetch(TEXT_ENCODER, models_dir, download, report)
    else:
        text_dir = text_encoder.expanduser().resolve()
    transformer_dir = _fetch(source, models_dir, download, report)
    known = KNOWN_SHA256.get(variant.transformer) if source.revision == variant.revision else None
    for expected in (sha256, known):
        _check_sha256(transformer_dir / variant.transformer, expected, report)
    autoencoder_dir = _fetch(AUTOENCODER, models_dir, download, report)

    folder = models_dir / name
    parts = {
        "transformer": _relative(transformer_dir / variant.transformer, models_dir),
        "text_encoder": _relative(text_dir, models_dir),
        "tokenizer": _relative(text_dir, models_dir),
        "autoencoder": _relative(autoencoder_dir, models_dir),
    }
    if variant.adapter:
        parts["adapter"] = _relative(transformer_dir / variant.adapter, models_dir)
    bundle = write_bundle(folder, variant.card_at(str(source.revision)), variant.config, parts)
    if missing := bundle.missing_files():
        raise MissingFiles(name, missing, "the download did not bring them; is the revision the right one?")
    bundle.refuse_unsafe_files()
    report(f"{name}: ready in {folder}")
    return bundle


def _pinned(source: Source, revision: str | None) -> Source:
    """`source` at a full commit. Branches and tags can move, so they are refused."""
    commit = revision or source.revision
    if commit is None:
        raise RevisionError(f"no commit of {source.repo} is known here that holds {source.files[0]}: name --revision")
    if not _COMMIT.fullmatch(commit):
        raise RevisionError(
            f"revision {commit!r} is not a full commit (40 hexadecimal digits); branches and tags can move"
        )
    return source.at(commit)


def _fetch(source: Source, models_dir: Path, download: Download | None, report: Callable[[str], None]) -> Path:
    """The folder of `source` with its files in it, downloaded if need be."""
    folder = source.folder(models_dir)
    assert folder is not None  # `source` is pinned
    assert source.revision is not None
    report(f"{source.repo} at {source.revision[:12]} ({source.size_gb:g} GB) -> {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (download or _hub_download)(
            source.repo, revision=source.revision, allow_patterns=list(source.files), local_dir=folder
        )
    except OSError as error:  # every error of the hub's client is one
        note = f"\n{GATE_NOTE}" if source.is_gated else ""
        raise DownloadError(f"{source.repo} at {source.revision}: {str(error).strip()}{note}") from error
    return folder


def _hub_download(repo: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> object:
    from huggingface_hub import snapshot_download  # slow to import, and needed by this command alone

    return snapshot_download(repo, revision=revision, allow_patterns=allow_patterns, local_dir=local_dir)


def _check_sha256(path: Path, expected: str | None, report: Callable[[str], None]) -> None:
    if expected is None or not path.is_file():
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        raise RevisionError(f"{path}: SHA-256 is {digest.hexdigest()}, it has to be {expected}")
    report(f"{path.name}: SHA-256 as expected")


def _relative(path: Path, models_dir: Path) -> str:
    """As seen from a bundle's folder in `models_dir`, so that the whole tree can be moved; absolute if outside."""
    home = models_dir.resolve()
    resolved = path.resolve()
    return f"../{resolved.relative_to(home)}" if resolved.is_relative_to(home) else str(resolved)
