"""Training checkpoints: one safetensors file with weights, averages and optimiser state, replaced atomically.

Nothing pickled. A trainer's randomness is a function of its seed and step, so no generator state needs keeping.
Tensors are whole in the file, so any number of processes, sharded or not, goes on from what any other wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.training.devices import shared_like, whole


def save_checkpoint(
    path: Path,
    meta: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    *,
    is_writer: bool = True,
) -> None:
    """Write `modules` (each under its own name), the optimiser's state and `meta` (plain JSON values).

    Where tensors are sharded, all processes must call this together, one of them as the writer.
    """
    held = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        held.update({f"optimizer/{index}/{key}": value for key, value in state.items()})
    tensors: dict[str, Tensor] = {}
    for key, value in held.items():
        complete = whole(value.detach())
        if is_writer:
            tensors[key] = complete.cpu().contiguous()
    if is_writer:
        _write(path, meta, tensors)


def _write(path: Path, meta: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")  # one name: what a killed run leaves behind is written over
    save_file(tensors, draft, metadata={"meta": json.dumps(meta)})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    optional_prefix: str | None = None,
) -> dict[str, Any]:
    """Fill `modules` (and `optimizer`) from a file of `save_checkpoint`; returns its meta values.

    Tensors under `optional_prefix` may be missing (the module's own stay) or left over, if they are a module's last
    parameters. Raises RuntimeError where a module's other tensors do not fit.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    for name, module in modules.items():
        found, own = _under(f"{name}/", tensors), module.state_dict()
        if optional_prefix is not None:
            found = {key: value for key, value in found.items() if key in own or not key.startswith(optional_prefix)}
            found |= {key: own[key] for key in own.keys() - found.keys() if key.startswith(optional_prefix)}
        module.load_state_dict({key: shared_like(value, own.get(key, value)) for key, value in found.items()})
    if optimizer is not None:
        _fill_optimizer(optimizer, _under("optimizer/", tensors))
    return read_meta(path)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take over the state of as many parameters as there are; new ones at the end begin without."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, field = name.partition("/")
        if int(index) < len(parameters):
            parameter = parameters[int(index)]
            # Laid out in memory as its parameter is (channels last, perhaps): fused optimisers look at nothing else.
            fitting = value if field == "step" else torch.empty_like(parameter).copy_(shared_like(value, parameter))
            state.setdefault(int(index), {})[field] = fitting
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def read_meta(path: Path) -> dict[str, Any]:
    """The meta values of a checkpoint, without its tensors."""
    with safe_open(path, framework="pt") as file:
        meta: dict[str, Any] = json.loads(file.metadata()["meta"])
    return meta
