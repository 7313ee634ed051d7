"""Writes a bundle that is another bundle with an adapter: it names the base's parts where they lie and adds one file.

The paths are relative, so the two folders can be moved, or shipped, together.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from model.bundle import Bundle, write_bundle

ADAPTER_FOLDER = "adapter"
_LICENCE_FILES = ("LICENSE*", "NOTICE*")


def write_adapted_bundle(
    base: Bundle, adapter: Path, folder: Path, *, name: str, version: str, guidance: float | None = None
) -> Bundle:
    """The bundle `folder`: `base` with a copy of the PEFT folder `adapter`. `guidance` None is the base's default.

    Licence files are copied from the base. Raises ValueError where the base has an adapter already, or is `folder`.
    """
    if base.parts.adapter is not None:
        raise ValueError(f"{base.folder} has an adapter already; tune the model that it was made from")
    home = folder.resolve()
    if home == base.folder:
        raise ValueError(f"{folder} is the base itself; an adapted bundle needs a folder of its own")
    home.mkdir(parents=True, exist_ok=True)
    shutil.copytree(adapter, home / ADAPTER_FOLDER, dirs_exist_ok=True)
    for pattern in _LICENCE_FILES:
        for path in base.folder.glob(pattern):
            shutil.copyfile(path, home / path.name)
    parts = {
        kind: Path(os.path.relpath(getattr(base.parts, kind), home)).as_posix()
        for kind in ("transformer", "text_encoder", "tokenizer", "autoencoder", "preview")
        if getattr(base.parts, kind) is not None
    }
    card = replace(
        base.card,
        name=name,
        version=version,
        description=f"{base.card.name} {base.card.version}, tuned by rewards",
        default_guidance=base.card.default_guidance if guidance is None else guidance,
    )
    return write_bundle(home, card, base.config, {**parts, "adapter": ADAPTER_FOLDER})
