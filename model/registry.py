"""The models folder as a registry: adding a bundle of one's own, so that it can be served by its name.

A bundle is judged before anything is touched, and appears under its name whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from model.bundle import Bundle, read_bundle, write_bundle
from model.catalog import PARTS_FOLDER, SHIPPED_NAMES
from model.errors import BundleError
from model.weights import verify_bundle

_PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "README*")  # texts that have to travel with weights
_RESERVED = (*SHIPPED_NAMES, PARTS_FOLDER)


def add_bundle(
    folder: Path,
    models_dir: Path,
    *,
    is_linked: bool = False,
    is_replacing: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """Copy the bundle in `folder` into `models_dir`, or link to it there; returns it as it can be served from now on.

    Parts that lie outside `folder` stay where they are, and the copy names them. Raises the BundleError of whatever is
    wrong with the bundle, and BundleError where its name is taken (unless `is_replacing`) or reserved.
    """
    bundle = read_bundle(folder)
    verify_bundle(bundle, report)
    name, target = bundle.card.name, models_dir / bundle.card.name
    if name in _RESERVED:
        raise BundleError(f'{folder}: the name {name!r} is reserved; change "name" in its bundle.json')
    if target.exists() and target.resolve() == bundle.folder:
        raise BundleError(f"{folder} is {target} already")
    if os.path.lexists(target) and not is_replacing:
        raise BundleError(
            f"{target} is there already; add --replace to put {folder} in its place, "
            f'or change "name" in {bundle.folder / "bundle.json"}'
        )
    draft, discarded = models_dir / f".{name}.{os.getpid()}.part", models_dir / f".{name}.{os.getpid()}.old"
    models_dir.mkdir(parents=True, exist_ok=True)
    try:
        if is_linked:
            draft.symlink_to(bundle.folder, target_is_directory=True)
        else:
            _copy(bundle, draft)
        if os.path.lexists(target):
            target.rename(discarded)
        draft.rename(target)
    except OSError as error:
        if os.path.lexists(discarded):
            discarded.rename(target)
        raise BundleError(f"{target}: can't be written: {error}") from error
    finally:
        _remove(draft)
    _remove(discarded)
    return read_bundle(target)


def _copy(bundle: Bundle, target: Path) -> None:
    """The manifest, the parts that lie inside the bundle's folder, and its licence texts."""
    target.mkdir()
    for pattern in _PAPERS:
        for path in bundle.folder.glob(pattern):
            shutil.copy2(path, target / path.name)
    located = {
        "transformer": bundle.parts.transformer,
        "text_encoder": bundle.parts.text_encoder,
        "tokenizer": bundle.parts.tokenizer,
        "autoencoder": bundle.parts.autoencoder,
        "adapter": bundle.parts.adapter,
        "preview": bundle.parts.preview,
    }
    parts = {}
    for key, source in located.items():
        if source is None:
            continue
        if not source.is_relative_to(bundle.folder):
            parts[key] = str(source)
            continue
        parts[key] = str(source.relative_to(bundle.folder))
        copied = target / parts[key]
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, dirs_exist_ok=True)
        else:
            shutil.copy2(source, copied)
    write_bundle(target, bundle.card, bundle.config, parts)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
