"""A training run of milliseconds, in this process, in one that can be killed, or in several that train as one.

`python -m tests.support.tiny_training` does one job a line of its input, NUM_PROCESSES FOLDER STOP_AT..., in processes
that it forks, as importing torch takes far longer than all that they do; several are started by torchrun's own
launcher. A job runs the stages of STOP_AT one after another, each until that step: "8" plainly, "8:sharded" with FSDP,
"8:hang" then says which process it is and hangs instead of saving. "ended STATUS" follows every job.
Row 5 of step 3 is not a number.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.training.devices import CPU, Place, open_place
from model.training.loop import LoopOptions, TrainingLoop

BAD_STEP, BAD_ROW = 3, 5


class TinyNetwork(nn.Module):
    """Two blocks and a constant table. Sharding costs by the tensor, whatever its size: here are few."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(8, 48)
        self.blocks = nn.ModuleList(nn.Linear(48, 48) for _ in range(2))
        self.write = nn.Linear(48, 48)
        self.register_buffer("table", torch.linspace(0, 1, 48), persistent=False)

    def forward(self, pictures: torch.Tensor, text: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Pictures (b, 3, 4, 4), text (b, 4, 8) and timesteps (b,) in 0..1000 -> (b, 3, 4, 4)."""
        hidden = pictures.flatten(1) + self.read(text.mean(1)) + self.table * timestep[:, None] / 1000
        for block in self.blocks:
            hidden = hidden + block(hidden).tanh()
        written: torch.Tensor = self.write(hidden)
        return written.view_as(pictures)


@dataclass(frozen=True, slots=True)
class TinySettings:
    out_dir: Path
    batch_size: int = 8
    max_steps: int = 12
    max_minutes: float = math.inf
    learning_rate: float = 3e-3
    warmup_steps: int = 3
    decay_from: float = 1.0
    weight_decay: float = 0.03
    max_grad_norm: float = 0.5
    ema_decay: float = 0.9
    report_every: int = 2
    checkpoint_every: int = 5

    @property
    def checkpoint(self) -> Path:
        return self.out_dir / "tiny.checkpoint.safetensors"


def build(settings: TinySettings, place: Place = CPU, num_parts: int = 1) -> TrainingLoop:
    torch.manual_seed(0)
    model = TinyNetwork()

    def objective(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        step, part = divmod(index, num_parts)
        source = torch.Generator().manual_seed(step)
        clean, text = torch.randn(8, 3, 4, 4, generator=source), torch.randn(8, 4, 8, generator=source)
        timestep = 1000 * torch.rand(8, generator=source)
        if step == BAD_STEP:
            clean[BAD_ROW] = math.nan
        clean, text, timestep = (place.own_rows(drawn, part, num_parts) for drawn in (clean, text, timestep))
        loss = (loop.network(clean, text, timestep) + clean.sin()).square().mean()
        return loss, loss.detach()

    loop = TrainingLoop(model, settings, objective, place=place, options=LoopOptions(num_parts=num_parts))
    return loop


def tell(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def train(settings: TinySettings, place: Place = CPU, stop_at: int = 12, is_hanging: bool = False) -> TrainingLoop:
    loop = build(settings, place)

    def should_stop() -> bool:
        while is_hanging and loop.step == stop_at:
            tell(f"hanging {os.getpid()}")
            time.sleep(60)
        return loop.step == stop_at

    loop.run({}, report=lambda line: None, should_stop=should_stop)
    return loop


def train_stages(folder: str, stages: list[str]) -> None:
    """Run the stages in this process, alone or in company, and check the average that the last one wrote."""
    settings = TinySettings(Path(folder))
    parsed = [stage.partition(":") for stage in stages]
    places = [open_place(torch.device("cpu"), is_sharded=kind == "sharded") for _, _, kind in parsed]
    with closing(places[-1]):
        for place, (stop_at, _, kind) in zip(places, parsed, strict=True):
            loop = train(settings, place, int(stop_at), is_hanging=kind == "hang")
        average = loop.average().state_dict()
        if place.is_main:
            written = load_file(settings.checkpoint)
            torch.testing.assert_close(average, {name: written[f"ema/{name}"] for name in average})


def train_in_company(num_processes: int, folder: str, stages: list[str]) -> None:
    """Run the stages in several processes, as torchrun does."""
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(launch, train_stages)(folder, stages)


def main() -> None:
    torch.set_num_threads(1)
    import_module("torch._dynamo")  # what optimisers would import in every process
    for line in sys.stdin:
        num_processes, folder, *stages = line.split()
        pid = os.fork()
        if pid == 0:
            if num_processes == "1":
                train_stages(folder, stages)
            else:
                train_in_company(int(num_processes), folder, stages)
            return
        _, status = os.waitpid(pid, 0)
        tell(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
