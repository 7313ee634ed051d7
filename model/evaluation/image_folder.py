"""Pictures on disk in the layout that GenEval's public scorer reads, written so that a stopped run goes on.

NNNNN/metadata.jsonl holds the prompt's line, NNNNN/samples/NNNNN.png its pictures (README of djghosh13/geneval; that
scorer passes over anything but folders with a number for a name, so `drawn_by.json` may lie beside them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.evaluation.errors import EvaluationError
from model.evaluation.prompts import PromptEntry, entry_line

CLAIM_NAME = "drawn_by.json"


class ImageFolder:
    """The folder `root`, which belongs to one model with one choice of settings."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def claim(self, drawn_by: Mapping[str, object], entries: tuple[PromptEntry, ...]) -> None:
        """Write what the pictures are drawn by, and each prompt's line.

        Raises EvaluationError where the folder holds pictures drawn by something else: a mixture would have no meaning.
        """
        path = self.root / CLAIM_NAME
        found = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if found != drawn_by and (found or any(self.root.glob("*/samples/*"))):
            differing = [f"{key} {found.get(key)!r}" for key in drawn_by if found.get(key) != drawn_by[key]]
            raise EvaluationError(
                f"{self.root} holds pictures of another run ({', '.join(differing)}): choose another folder"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(drawn_by, indent=1) + "\n", "utf-8")
        for index, entry in enumerate(entries):
            (self.root / f"{index:05}" / "samples").mkdir(parents=True, exist_ok=True)
            (self.root / f"{index:05}" / "metadata.jsonl").write_text(f"{entry_line(entry)}\n", "utf-8")

    def has(self, prompt_index: int, image_index: int) -> bool:
        """Whether that picture is there."""
        return self._path(prompt_index, image_index).exists()

    def load(self, prompt_index: int, image_index: int) -> NDArray[np.uint8]:
        """A stored picture (H, W, 3)."""
        with Image.open(self._path(prompt_index, image_index)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)

    def store(self, prompt_index: int, image_index: int, picture: NDArray[np.uint8]) -> None:
        """Write a picture (H, W, 3), whole or not at all."""
        path = self._path(prompt_index, image_index)
        draft = path.with_name(f".{path.stem}.part")  # a name that the scorer does not take for a picture
        Image.fromarray(picture).save(draft, format="PNG")
        draft.replace(path)

    def _path(self, prompt_index: int, image_index: int) -> Path:
        return self.root / f"{prompt_index:05}" / "samples" / f"{image_index:05}.png"
