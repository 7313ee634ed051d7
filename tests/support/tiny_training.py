"""A training run of milliseconds, in this process, in one that can be killed, or in several that torchrun starts.

`python -m tests.support.tiny_training FOLDER STOP_AT...` runs the stages of STOP_AT one after another, each until that
step: "8" plainly, "8:sharded" with FSDP, "8:hang" then hangs instead of saving. Row 5 of step 3 is not a number.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.config import ModelConfig
from model.training.devices import CPU, Place, open_place
from model.training.loop import LoopOptions, TrainingLoop
from model.transformer import EMMDiT

NETWORK = ModelConfig(
    sample_size=4,
    in_channels=3,
    num_attention_heads=2,
    attention_head_dim=8,
    stages=(1, 1, 1),
    caption_channels=8,
    num_text_tokens=4,
    use_sub_attn=False,
    pos_embed_max_size=4,
)
BAD_STEP, BAD_ROW = 3, 5


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
    model = EMMDiT(NETWORK)

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


def train(settings: TinySettings, place: Place = CPU, stop_at: int = 12, is_hanging: bool = False) -> TrainingLoop:
    loop = build(settings, place)

    def should_stop() -> bool:
        while is_hanging and loop.step == stop_at:
            sys.stdout.write("hanging\n")
            sys.stdout.flush()
            time.sleep(60)
        return loop.step == stop_at

    loop.run({}, report=lambda line: None, should_stop=should_stop)
    return loop


def main() -> None:
    torch.set_num_threads(1)
    settings = TinySettings(Path(sys.argv[1]))
    stages = [stage.partition(":") for stage in sys.argv[2:]]
    places = [open_place(torch.device("cpu"), is_sharded=kind == "sharded") for _, _, kind in stages]
    with closing(places[-1]):
        for place, (stop_at, _, kind) in zip(places, stages, strict=True):
            loop = train(settings, place, int(stop_at), is_hanging=kind == "hang")
        average = loop.average().state_dict()
        if place.is_main:
            written = load_file(settings.checkpoint)
            torch.testing.assert_close(average, {name: written[f"ema/{name}"] for name in average})


if __name__ == "__main__":
    main()
