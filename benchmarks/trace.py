"""Where the engine's thread of a loaded worker spends its time: torch's profiler over a full, mixed batch.

    python -m benchmarks.trace --out benchmarks/results/trace-demo.json

Pictures of different lengths, half of them with guidance, are kept under way by the worker's own rules
(service/scheduler.py) while others are begun, decoded and made into PNGs, first with the network as it is, then
compiled. `--chrome FILE` also writes the compiled run's timeline for chrome://tracing or Perfetto.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.compiling import COMPILED_DIR, adopt_compiled
from benchmarks.machine import Machine, describe_machine
from benchmarks.prompts import fresh_prompts
from model.catalog import resolve_bundle
from model.engine import Engine, Sample
from model.params import GenerationParams
from service.png import encode_png
from service.scheduler import Candidate, SchedulerState, choose

STAGES = ("choose", "text", "denoise", "decode", "png")
TOP_OPERATIONS = 12
MIX = ((4, 0.0), (20, 2.5), (20, 0.0), (50, 2.5))  # steps, guidance


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of torch: its own share of the profiled time, and calls a forward."""

    name: str
    share: float
    calls_per_forward: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """One profiled run. `stages` are shares of the time that the engine's thread was at work."""

    num_forwards: int
    num_pictures: int
    rows_per_forward: float
    duration_s: float
    stages: dict[str, float]
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class TraceReport:
    """Both runs of one model."""

    machine: Machine
    model: str
    as_it_is: Timeline
    compiled: Timeline


class LoadedThread:
    """What a worker's engine thread does when pictures never run out."""

    def __init__(self, engine: Engine, max_rows: int, max_images: int) -> None:
        self._engine = engine
        self._max_rows, self._max_images = max_rows, max_images
        self._prompts: Iterator[str] = fresh_prompts()
        self._mix = cycle(MIX)
        self._samples: list[Sample] = []
        self._schedule = SchedulerState()
        self._seed = 0
        self.num_forwards = self.num_rows = self.num_pictures = 0

    def turn(self) -> None:
        """One round of the worker's loop: admit, choose, step, decode what is finished, encode it."""
        with record_function("text"):
            missing = self._max_images - len(self._samples)
            self._samples += self._engine.begin([self._recipe() for _ in range(missing)]) if missing else []
        with record_function("choose"):
            chosen = self._choose()
        with record_function("denoise"):
            self._engine.step(chosen)
        self.num_forwards += 1
        self.num_rows += sum(sample.params.num_rows for sample in chosen)
        finished = [sample for sample in self._samples if sample.is_finished]
        self._samples = [sample for sample in self._samples if not sample.is_finished]
        with record_function("decode"):
            pictures = self._engine.decode(finished)
        with record_function("png"):
            for picture in pictures:
                encode_png(picture, {})
        self.num_pictures += len(pictures)

    def _recipe(self) -> GenerationParams:
        width, height = (int(side) for side in self._engine.card.sizes[0].split("x"))
        steps, guidance = next(self._mix)
        self._seed += 1
        return GenerationParams(next(self._prompts), width, height, steps, guidance, self._seed)

    def _choose(self) -> list[Sample]:
        candidates = [
            Candidate(
                index=place,
                group="one size",
                num_rows=sample.params.num_rows,
                steps_left=sample.num_steps - sample.step,
                priority=1,
                owner="",
                deadline_s=float("inf"),
                admitted_at=0,
                last_step_at=self.num_forwards,
                cost_per_step=sample.params.cost_per_step,
            )
            for place, sample in enumerate(self._samples)
        ]
        choice = choose(
            candidates,
            self._schedule,
            now_s=time.monotonic(),
            forward=self.num_forwards,
            max_rows=self._max_rows,
            step_s=lambda group, num_rows: 1.0,
        )
        self._schedule = choice.state
        return [self._samples[index] for index in choice.indices]


def trace(thread: LoadedThread, num_warm: int, num_forwards: int, chrome: Path | None = None) -> Timeline:
    """Profile so many rounds, after some that are not."""
    for _ in range(num_warm):
        thread.turn()
    before = (thread.num_forwards, thread.num_rows, thread.num_pictures)
    started_s = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(num_forwards):
            thread.turn()
    duration_s = time.perf_counter() - started_s
    if chrome is not None:
        profiler.export_chrome_trace(str(chrome))
    averages = profiler.key_averages()
    totals = {event.key: event.cpu_time_total for event in averages if event.key in STAGES}
    whole = sum(totals.values())
    own = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:TOP_OPERATIONS]
    return Timeline(
        num_forwards=num_forwards,
        num_pictures=thread.num_pictures - before[2],
        rows_per_forward=(thread.num_rows - before[1]) / num_forwards,
        duration_s=duration_s,
        stages={stage: totals.get(stage, 0.0) / whole for stage in STAGES},
        operations=[
            Operation(
                f"({event.key}: rest)" if event.key in STAGES else event.key,
                event.self_cpu_time_total / whole,
                event.count / num_forwards,
            )
            for event in own
        ],
    )


def summary(report: TraceReport) -> str:
    """The report for a terminal."""
    lines = [f"{report.model} on {report.machine.device}: {report.machine.processor}"]
    for label, timeline in (("as it is", report.as_it_is), ("compiled", report.compiled)):
        stages = ", ".join(f"{stage} {share:.1%}" for stage, share in timeline.stages.items())
        lines.append(
            f"{label}: {timeline.num_forwards} forwards of {timeline.rows_per_forward:.1f} rows, "
            f"{timeline.num_pictures} pictures in {timeline.duration_s:.1f} s; {stages}"
        )
        lines += [f"  {op.share:6.1%} {op.calls_per_forward:8.1f} {op.name}" for op in timeline.operations]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--max-rows", type=int, default=16)
    parser.add_argument("--max-images", type=int, default=48)
    parser.add_argument("--warm", type=int, default=60, help="rounds before the profiled ones")
    parser.add_argument("--forwards", type=int, default=100)
    parser.add_argument("--chrome", type=Path, help="where to write the compiled run's timeline")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    engine = Engine.load(resolve_bundle(options.model, COMPILED_DIR))
    runs = []
    for is_compiled in (False, True):
        if is_compiled:
            adopt_compiled(engine)
        thread = LoadedThread(engine, options.max_rows, options.max_images)
        runs.append(trace(thread, options.warm, options.forwards, options.chrome if is_compiled else None))
    report = TraceReport(describe_machine(engine.device), f"{engine.card.name} {engine.card.version}", *runs)
    print(summary(report))
    if options.out:
        options.out.write_text(json.dumps({"kind": "trace"} | dataclasses.asdict(report), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
