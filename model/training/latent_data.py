"""Latents, captions and features of rendered scenes, and the batches that steps draw from them.

A batch is a function of (seed, step) and of the kind of device; however many processes and parts a step has, together
they train on the same rows. Shapes: latents (b, c, h, w), token ids and masks (b, t), features (b, n, C).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.training.dataset import SceneRecord
from model.training.devices import Place
from model.training.flow_matching import logit_normal
from model.training.repa import FrozenFeatures

# Of a GPU's free memory: what is left is for activations.
_MAX_SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True, slots=True)
class LatentDataset:
    """Latents (N, c, h, w) float16 with token ids and masks (N, t), the empty caption's, and REPA's features.

    `examples` are captions to draw on the way.
    """

    latents: np.ndarray
    ids: Tensor
    mask: Tensor
    empty_ids: Tensor
    empty_mask: Tensor
    num_words: int
    features: FrozenFeatures | None = None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's rows of one part of a step: clean latents, their noise and sigma, text, perhaps features."""

    clean: Tensor
    noise: Tensor
    sigma: Tensor
    ids: Tensor
    mask: Tensor
    target: Tensor | None


class LatentBatches:
    """The batches of a run at one place. Latents lie on a GPU if they fit there."""

    def __init__(
        self, data: LatentDataset, place: Place, *, batch_size: int, num_parts: int, caption_dropout: float, seed: int
    ) -> None:
        self._data, self._place = data, place
        self._batch_size, self._num_parts = batch_size, num_parts
        self._caption_dropout, self._seed = caption_dropout, seed
        self._resident = _on_gpu(data.latents, place.device)
        tokens = (data.ids, data.mask, data.empty_ids, data.empty_mask)
        self._ids, self._mask, self._empty_ids, self._empty_mask = (tensor.to(place.device) for tensor in tokens)

    def draw(self, index: int) -> Batch:
        """The rows of forward number `index` = step * num_parts + part. Raises ValueError where they don't divide."""
        step, part = divmod(index, self._num_parts)
        device, size = self._place.device, self._batch_size
        source = torch.Generator(device).manual_seed(self._seed * 1_000_003 + step)
        chosen = torch.randint(len(self._ids), (size,), generator=source, device=device)
        is_dropped = torch.rand(size, generator=source, device=device) < self._caption_dropout
        normal = torch.randn(size, generator=source, device=device)
        noise = torch.randn((size, *self._data.latents.shape[1:]), generator=source, device=device)
        chosen, is_dropped, normal, noise = (
            self._place.own_rows(drawn, part, self._num_parts) for drawn in (chosen, is_dropped, normal, noise)
        )
        clean = self._latents(chosen)
        return Batch(
            clean,
            noise,
            logit_normal(normal),
            torch.where(is_dropped[:, None], self._empty_ids, self._ids[chosen]),
            torch.where(is_dropped[:, None], self._empty_mask, self._mask[chosen]),
            self._targets(chosen, (clean.shape[-2], clean.shape[-1])),
        )

    def _latents(self, chosen: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[chosen].float()
        return torch.from_numpy(self._data.latents[chosen.cpu().numpy()]).to(self._place.device).float()

    def _targets(self, chosen: Tensor, token_grid: tuple[int, int]) -> Tensor | None:
        if self._data.features is None:
            return None
        return self._data.features.targets(chosen.cpu().numpy(), token_grid).to(self._place.device)


def example_captions(records: Iterable[SceneRecord], num_captions: int) -> tuple[str, ...]:
    """Captions of as many kinds as there are: the first of every kind, then the second of every kind, and so on."""
    by_kind: dict[str, list[str]] = {}
    for record in records:
        of_kind = by_kind.setdefault(record.kind, [])
        if len(of_kind) < num_captions and record.caption not in of_kind:
            of_kind.append(record.caption)
    rounds = [kind[turn] for turn in range(num_captions) for kind in by_kind.values() if turn < len(kind)]
    return tuple(rounds[:num_captions])


def _on_gpu(latents: np.ndarray, device: torch.device) -> Tensor | None:
    """The latents in a GPU's memory, where there is one and they leave room for the rest."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return torch.from_numpy(latents).to(device) if latents.nbytes <= free * _MAX_SHARE_OF_MEMORY else None
