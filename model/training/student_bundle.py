"""Writes a distilled student as a bundle of one file: everything but the network is its teacher's, where it lies.

The paths are relative, so that the two folders can be moved, or shipped, together.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.bundle import Bundle, write_bundle
from model.training.trajectories import segments
from model.transformer import EMMDiT

_LICENCE_FILES = ("LICENSE*", "NOTICE*")


def write_student_bundle(
    teacher: Bundle, network: EMMDiT, folder: Path, *, name: str, version: str, num_steps: int
) -> Bundle:
    """The bundle `folder`: `network` in float16, for `num_steps` steps without guidance, and the parts of `teacher`.

    Licence files are copied. Raises ValueError where `folder` is the teacher's.
    """
    home = folder.resolve()
    if home == teacher.folder:
        raise ValueError(f"{folder} is the teacher itself; a student needs a folder of its own")
    home.mkdir(parents=True, exist_ok=True)
    weights = {key: value.to("cpu", torch.float16).contiguous() for key, value in network.state_dict().items()}
    save_file(weights, home / "transformer.safetensors", metadata={"format": "pt"})
    for pattern in _LICENCE_FILES:
        for path in teacher.folder.glob(pattern):
            shutil.copyfile(path, home / path.name)
    shared = {
        kind: Path(os.path.relpath(getattr(teacher.parts, kind), home)).as_posix()
        for kind in ("text_encoder", "tokenizer", "autoencoder", "preview")
        if getattr(teacher.parts, kind) is not None
    }
    steps = f"{num_steps} steps ({len(segments(num_steps))} forwards)"
    card = replace(
        teacher.card,
        name=name,
        version=version,
        description=f"{teacher.card.name} {teacher.card.version}, distilled to {steps} without guidance",
        default_steps=num_steps,
        default_guidance=0.0,
    )
    return write_bundle(home, card, teacher.config, {"transformer": "transformer.safetensors", **shared})
