"""PEFT LoRA adapters over the attention projections, merged into the weights at load: W + (alpha / r) B A.

The published GRPO checkpoints are of this kind (rank 32, alpha 64). Merged, they cost nothing at inference, so PEFT
itself isn't needed. Whatever else PEFT can express is refused rather than half understood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from model.errors import AdapterError
from model.tensor_file import check_tensors, read_header

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_KEY_PREFIX = "base_model.model."
# Options that change what is to be merged; each must be off, whatever PEFT's version calls "off".
_MUST_BE_OFF = (
    "alpha_pattern",
    "rank_pattern",
    "fan_in_fan_out",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
    "exclude_modules",
)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What `adapter_config.json` asks for: rank, scaling of B A, and the projections it covers."""

    rank: int
    scaling: float
    targets: tuple[str, ...]

    def covers(self, weight_name: str) -> bool:
        """Whether this adapter changes the weight of that name."""
        module, _, kind = weight_name.rpartition(".")
        return kind == "weight" and any(module.endswith(f".{target}") for target in self.targets)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and judge `adapter_config.json`. Raises AdapterError naming what can't be merged."""
    path = folder / "adapter_config.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: unreadable: {error}") from error
    if values.get("peft_type") != "LORA":
        raise AdapterError(f"{path}: peft_type is {values.get('peft_type')!r}; only LORA can be merged")
    for option in _MUST_BE_OFF:
        if values.get(option):
            raise AdapterError(f"{path}: {option} = {values[option]!r} can't be merged")
    if values.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias = {values['bias']!r} can't be merged; only 'none'")
    rank, alpha = values.get("r"), values.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise AdapterError(f"{path}: r = {rank!r} and lora_alpha = {alpha!r} must be numbers, r at least 1")
    targets = values.get("target_modules")
    if not isinstance(targets, list) or not targets:
        raise AdapterError(f"{path}: target_modules must list projections, got {targets!r}")
    bare = sorted(str(target).removeprefix("attn.") for target in targets)
    if strangers := [target for target in bare if target not in PROJECTIONS]:
        raise AdapterError(f"{path}: target_modules {strangers} are no attention projections; known: {PROJECTIONS}")
    # Rank-stabilised LoRA (arXiv 2312.03732) divides by the root of the rank instead.
    scaling = alpha / (math.sqrt(rank) if values.get("use_rslora") else rank)
    return AdapterConfig(rank, scaling, tuple(bare))


def merge_adapter(weights: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """`weights` with the adapter in `folder` merged in; the tensors passed in are left alone.

    Raises AdapterError, or a TensorFileError for missing, unknown or misshaped adapter tensors.
    """
    config = read_adapter_config(folder)
    path = folder / "adapter_model.safetensors"
    covered = {name: name.removesuffix("weight") for name in weights if config.covers(name)}
    expected = {}
    for name, module in covered.items():
        num_out, num_in = weights[name].shape
        expected[f"{_KEY_PREFIX}{module}lora_A.weight"] = (config.rank, num_in)
        expected[f"{_KEY_PREFIX}{module}lora_B.weight"] = (num_out, config.rank)
    check_tensors(path, read_header(path), expected)

    merged = dict(weights)
    with safe_open(path, framework="pt") as file:
        for name, module in covered.items():
            down = file.get_tensor(f"{_KEY_PREFIX}{module}lora_A.weight").float()  # (r, in)
            up = file.get_tensor(f"{_KEY_PREFIX}{module}lora_B.weight").float()  # (out, r)
            # In float32 whatever the file's type: the difference is small against the weight.
            merged[name] = (weights[name].float() + config.scaling * (up @ down)).to(weights[name].dtype)
    return merged
