"""The judge that scores: shipped weights, pictures in, detections out. On the CPU, the same every time.

It looks at 128 px whatever the pictures' size; `judge_report` says how far it can be trusted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open

from model.evaluation.detections import Detection
from model.evaluation.judge_network import SIDE_PX, JudgeNetwork, JudgeShape, decode_peaks
from model.evaluation.rules import Thresholds
from model.tensor_file import read_header

SHIPPED_WEIGHTS = Path(__file__).parent / "data" / "judge.safetensors"
BATCH_PICTURES = 32


class NetworkJudge:
    """A trained network with the names of what it knows. Float32, whatever the file holds."""

    def __init__(
        self,
        network: JudgeNetwork,
        classes: tuple[str, ...],
        colors: tuple[str, ...],
        *,
        threshold: float = 0.5,
        version: str = "untrained",
    ) -> None:
        self.network = network.float().eval().requires_grad_(False)
        self.classes = classes
        self.colors = colors
        self.version = version
        # One number serves both; GenEval's detector needs a higher one for counting (0.3 and 0.9).
        self.thresholds = Thresholds(presence=threshold, counting=threshold)

    @torch.inference_mode()
    def look(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[Detection, ...]]:
        """Detections of each picture (H, W, 3), the most confident first. Pictures may be of any one size.

        Raises ValueError where pictures differ in size or are no RGB bytes.
        """
        detections: list[tuple[Detection, ...]] = []
        for start in range(0, len(pictures), BATCH_PICTURES):
            pixels = _to_input(pictures[start : start + BATCH_PICTURES])
            for peaks in decode_peaks(self.network(pixels)):
                seen = (Detection(self.classes[p.kind], self.colors[p.color], p.box, p.confidence) for p in peaks)
                detections.append(tuple(seen))
        return detections


def load_judge(path: Path | None = None) -> NetworkJudge:
    """The judge of a weights file; the shipped one where `path` is None. Raises TensorFileError for a bad file."""
    path = path or SHIPPED_WEIGHTS
    read_header(path)
    with safe_open(path, framework="pt") as file:
        described = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    classes, colors = (tuple(json.loads(described[key])) for key in ("classes", "colors"))
    channels, blocks = (tuple(json.loads(described[key])) for key in ("channels", "blocks"))
    network = JudgeNetwork(JudgeShape(len(classes), len(colors), channels, blocks))
    network.load_state_dict(tensors)
    return NetworkJudge(network, classes, colors, threshold=float(described["threshold"]), version=described["version"])


def _to_input(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures (H, W, 3) to (B, 3, 128, 128) in -1..1; other sizes are averaged over areas."""
    batch = np.stack(pictures)  # refuses pictures of different sizes
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3:
        raise ValueError(f"pictures must be (H, W, 3) of uint8, not {batch.shape[1:]} of {batch.dtype}")
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pixels.shape[-2:] != (SIDE_PX, SIDE_PX):
        pixels = F.interpolate(pixels, (SIDE_PX, SIDE_PX), mode="area")
    return pixels.contiguous(memory_format=torch.channels_last)
