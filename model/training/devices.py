"""Where a run computes: one device, or one of several processes that torchrun started, by DDP or FSDP.

accelerate starts the processes' group (gloo on CPUs, NCCL or RCCL on GPUs) and wraps for DDP. FSDP is torch's own
`fully_shard`, which accelerate's plugin calls too, but on GPUs alone; so one path serves both and is tested on CPUs.
All processes know the whole batch of a step and compute their rows of it: N processes train as one does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.nn.functional import all_gather
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Place:
    """One process's device and its place among `num_processes`; with a `mesh`, parameters are sharded over it.

    `dtype` is what forward passes compute in: bfloat16 by autocast, or float32 as it is.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rank: int = 0
    num_processes: int = 1
    accelerator: Accelerator | None = None
    mesh: DeviceMesh | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process reports, writes and draws."""
        return self.rank == 0

    def only_main(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """`report` in the main process, silence in the others."""
        return report if self.is_main else _be_silent

    def own_rows(self, batch: Tensor, part: int = 0, num_parts: int = 1) -> Tensor:
        """This process's rows of one part of a batch that all processes know.

        Raises ValueError where the batch can't be shared evenly.
        """
        num_shares = num_parts * self.num_processes
        if len(batch) % num_shares:
            raise ValueError(
                f"a batch of {len(batch)} can't be shared by {self.num_processes} process(es) in {num_parts} part(s)"
            )
        return batch.chunk(num_shares)[part * self.num_processes + self.rank] if num_shares > 1 else batch

    def all_rows(self, rows: Tensor) -> Tensor:
        """Every process's rows, for losses that look at a batch as a whole. Gradients find their way back."""
        return torch.cat(all_gather(rows.contiguous())) if self.num_processes > 1 else rows

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """The context that forward passes run in."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def spread(self, network: nn.Module, average: nn.Module) -> nn.Module:
        """What objectives have to call so that gradients are averaged over all processes.

        Sharding changes `network` and `average` in place: optimisers must be made afterwards.
        """
        if self.accelerator is None:
            return network
        if self.mesh is None:
            with warnings.catch_warnings():
                # torch 2.13 calls broadcast_buffers by another name, which older releases and accelerate don't know.
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                wrapped: nn.Module = self.accelerator.prepare_model(network)
            return wrapped
        # True of many modules here, and harmless: nothing changes another module's output in place.
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module .* returned a view tensor", UserWarning)
        for module in (network, average):
            for unit in _units(module):
                fully_shard(unit, mesh=self.mesh)
            fully_shard(module, mesh=self.mesh)
        return network

    @contextmanager
    def deferred(self, network: nn.Module, is_deferred: bool) -> Iterator[None]:
        """While `is_deferred`, backward passes add gradients up without averaging them over the processes."""
        if is_deferred and isinstance(network, DistributedDataParallel):
            with network.no_sync():
                yield
        elif isinstance(network, FSDPModule):
            network.set_requires_gradient_sync(not is_deferred)
            yield
        else:
            yield

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` over all processes."""
        if self.accelerator is None:
            return values
        mean: Tensor = self.accelerator.reduce(values, "mean")
        return mean

    def of_main(self, value: float) -> float:
        """The main process's value, for all: clocks differ."""
        return self._sum(value if self.is_main else 0.0)

    def any(self, is_true: bool) -> bool:
        """Whether any process says so: a signal may reach one of them first."""
        return self._sum(float(is_true)) > 0

    def _sum(self, value: float) -> float:
        if self.accelerator is None:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """End the processes' group, if there is one. The last thing that a process does with it."""
        if self.accelerator is not None:
            self.accelerator.end_training()


CPU = Place(torch.device("cpu"))


def open_place(device: torch.device, dtype: torch.dtype = torch.float32, *, is_sharded: bool = False) -> Place:
    """This process's place: on `device`, or among torchrun's processes on its type of device.

    Raises ValueError for sharding with a single process, which has nobody to share with.
    """
    if not has_company():
        if is_sharded:
            raise ValueError("sharding needs several processes: start them with torchrun --nproc-per-node N")
        return Place(device, dtype)
    # Buffers here are constant tables: broadcasting them before every forward would cost more than it heals.
    of_ddp: Any = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[of_ddp])
    mesh = init_device_mesh(device.type, (accelerator.num_processes,)) if is_sharded else None
    return Place(accelerator.device, dtype, accelerator.process_index, accelerator.num_processes, accelerator, mesh)


def has_company() -> bool:
    """Whether torchrun started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def whole(value: Tensor) -> Tensor:
    """A sharded tensor put together, any other as it is. All processes must ask for the same one at once."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_like(value: Tensor, own: Tensor) -> Tensor:
    """`value`, whole in every process, sharded as `own` is."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """What is gathered and freed as one: the elements of module lists, such as a transformer's blocks."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _units(child)


def _be_silent(_: str) -> None: ...
