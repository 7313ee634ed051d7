"""Trainable LoRA (arXiv 2106.09685) on E-MMDiT's attention projections, written as PEFT files for model/adapters.py.

An adapter lives beside the network, which stays frozen: `velocity` runs the network on merged weights W + (alpha / r)
B A, and the gradient passes through the sum. So one network serves several policies, a rollout costs nothing extra
for being low-rank, and what is trained is what is served after the merge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from model.adapters import PROJECTIONS, AdapterConfig
from model.schedule import NUM_TRAIN_TIMESTEPS
from model.transformer import EMMDiT

_KEY_PREFIX = "base_model.model."  # what PEFT puts before a module's name


class LowRankAdapter(nn.Module):
    """A and B, in float32, for every attention projection of `network`; B begins at zero, so nothing changes yet.

    A begins as in PEFT: uniform within 1 / sqrt(inputs), drawn from `seed`. Raises ValueError for a rank below 1.
    """

    def __init__(self, network: EMMDiT, rank: int, alpha: float, seed: int = 0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.rank, self.alpha = rank, alpha
        config = AdapterConfig(rank, alpha / rank, PROJECTIONS)
        covered = {name: weight for name, weight in network.named_parameters() if config.covers(name)}
        self.weight_names = tuple(covered)
        source = torch.Generator().manual_seed(seed)
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        for weight in covered.values():
            num_out, num_in = weight.shape
            down = (torch.rand(rank, num_in, generator=source) * 2 - 1) / math.sqrt(num_in)
            self.downs.append(nn.Parameter(down.to(weight.device)))
            self.ups.append(nn.Parameter(torch.zeros(num_out, rank, device=weight.device)))

    def merged(self, network: EMMDiT) -> dict[str, Tensor]:
        """The covered weights of `network` with this adapter merged in, in the network's type."""
        scaling = self.alpha / self.rank
        merged = {}
        for name, down, up in zip(self.weight_names, self.downs, self.ups, strict=True):
            weight = network.get_parameter(name)
            merged[name] = (weight.float() + scaling * (up @ down)).to(weight.dtype)
        return merged


def velocity(
    network: EMMDiT, weights: Mapping[str, Tensor], latents: Tensor, embeddings: Tensor, sigma: Tensor
) -> Tensor:
    """Float32 velocity (b, c, h, w) of `network` with `weights` in place of its own; {} is the network as it is.

    `latents` are (b, c, h, w) in any type, `embeddings` (b, t, channels), `sigma` (b,) in 0..1.
    """
    dtype = network.proj_out.weight.dtype
    inputs = (latents.to(dtype), embeddings, sigma * NUM_TRAIN_TIMESTEPS)
    output: Tensor = functional_call(network, dict(weights), inputs)
    return output.float()


def save_adapter(adapter: LowRankAdapter, folder: Path) -> None:
    """Write `adapter` as a PEFT folder, in float16: adapter_config.json and adapter_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, down, up in zip(adapter.weight_names, adapter.downs, adapter.ups, strict=True):
        module = f"{_KEY_PREFIX}{name.removesuffix('weight')}"
        tensors[f"{module}lora_A.weight"] = down.detach().cpu().half()
        tensors[f"{module}lora_B.weight"] = up.detach().cpu().half()
    values = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": [f"attn.{projection}" for projection in PROJECTIONS],
    }
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    draft = folder / "adapter_model.part"
    save_file(tensors, draft, metadata={"format": "pt"})
    draft.replace(folder / "adapter_model.safetensors")
