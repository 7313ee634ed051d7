"""How fast the engine draws: its stages apart, its share of this machine's product rate, and a plain loop beside it.

    python -m benchmarks.engine --model demo
    emmdit models make-random nitro-e-512 runs/nitro-random
    python -m benchmarks.engine --model runs/nitro-random --dtype bfloat16 --rows 1 8 --pictures 8 --pairs 3

The product rate is measured before and after everything else, so that a machine that changed meanwhile shows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.baseline import Baseline
from benchmarks.compiling import adopt_compiled
from benchmarks.flops import PictureFlops, count_flops
from benchmarks.machine import Machine, describe_machine, product_rates
from benchmarks.prompts import fresh_prompts
from benchmarks.stages import StageFigure, Stages
from benchmarks.versus import Comparison, Setting, compare
from model.catalog import resolve_bundle
from model.compiled import CompileError
from model.engine import Engine

MODELS_DIR = Path("~/.cache/emmdit/models").expanduser()
PRODUCT_DTYPES = ("float32", "bfloat16")
# Dense bfloat16, FLOP/s, as the makers state them.
PEAKS = {"H100": 989e12, "H200": 989e12, "MI300X": 1307e12}


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that one picture of a setting can cost, and what it did cost, in milliseconds.

    `at_product_rate_ms` is what the counted operations take at this machine's best measured product rate, by part;
    `at_peak_ms` the same at the maker's figure, where one is known.
    """

    setting: Setting
    measured_ms: dict[str, float]
    at_product_rate_ms: dict[str, float]
    at_peak_ms: float | None
    share_of_product_rate: float


@dataclass(frozen=True, slots=True)
class EngineReport:
    """Everything that one run measured. `product_rates` are FLOP/s by number format and side, before and after.

    `compile_s` is None where the network was drawn with as it is, and short where it had been compiled before.
    """

    machine: Machine
    model: str
    size: str
    dtype: str
    load_s: float
    compile_s: float | None
    warm_up_s: float
    flops: PictureFlops
    product_rates: dict[str, list[dict[int, float]]]
    stages: list[StageFigure]
    comparisons: list[Comparison]
    floors: list[Floor]
    duration_s: float

    @property
    def best_rate(self) -> float:
        """The highest product rate of the run in the engine's number format."""
        return max(rate for rates in self.product_rates[self.dtype] for rate in rates.values())


def measure(options: argparse.Namespace) -> EngineReport:
    """One run. Raises BundleError for a model that is not here, ValueError for a device that is not."""
    began_s = time.monotonic()
    deadline_s = began_s + options.max_s
    bundle = resolve_bundle(options.model, MODELS_DIR)
    flops = count_flops(bundle)
    prompts = fresh_prompts()

    started_s = time.monotonic()
    engine = Engine.load(bundle, options.device, options.dtype)
    load_s = time.monotonic() - started_s
    compile_s = None if options.no_compile else _compile(engine)
    warm_up_s = engine.warm_up()
    dtype = str(engine.dtype).removeprefix("torch.")
    sides = tuple(options.product_sides)
    rates = {
        name: [product_rates(engine.device, getattr(torch, name), sides)] for name in sorted({*PRODUCT_DTYPES, dtype})
    }
    stages = Stages(engine, flops, prompts, options.calls).measure(options.rows)

    baseline = Baseline(bundle, engine.device, engine.dtype)
    comparisons = [
        compare(engine, baseline, setting, prompts, num_pairs=options.pairs, deadline_s=deadline_s)
        for setting in (Setting(num, *way) for num in options.pictures for way in options.settings)
    ]
    for name in rates:
        rates[name].append(product_rates(engine.device, getattr(torch, name), sides))
    best = max(rate for measured in rates[dtype] for rate in measured.values())
    return EngineReport(
        machine=describe_machine(engine.device),
        model=f"{bundle.card.name} {bundle.card.version}",
        size=bundle.card.sizes[0],
        dtype=dtype,
        load_s=load_s,
        compile_s=compile_s,
        warm_up_s=warm_up_s,
        flops=flops,
        product_rates=rates,
        stages=stages,
        comparisons=comparisons,
        floors=[floor_of(comparison, flops, best, _peak(engine.device)) for comparison in comparisons],
        duration_s=time.monotonic() - began_s,
    )


def _compile(engine: Engine) -> float | None:
    try:
        return adopt_compiled(engine)
    except CompileError as error:
        print(f"measured with the network as it is: {error}")
        return None


def floor_of(comparison: Comparison, flops: PictureFlops, best_rate: float, peak: float | None) -> Floor:
    """The roofline note of one setting. Pure."""
    setting = comparison.setting
    per_picture = {
        "text": flops.text,
        "denoise": comparison.num_forwards * (2 if setting.guidance > 1 else 1) * flops.forward,
        "decode": flops.decode,
    }
    measured_ms = {name: seconds / setting.num_pictures * 1000 for name, seconds in comparison.parts_s.items()}
    floor_ms = {name: num / best_rate * 1000 for name, num in per_picture.items()}
    return Floor(
        setting=setting,
        measured_ms=measured_ms,
        at_product_rate_ms=floor_ms,
        at_peak_ms=sum(per_picture.values()) / peak * 1000 if peak else None,
        share_of_product_rate=sum(floor_ms.values()) / sum(measured_ms.values()),
    )


def _peak(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def summary(report: EngineReport) -> str:
    """The report for a terminal."""
    best = report.best_rate
    compiled = "not compiled" if report.compile_s is None else f"compiled (or read) in {report.compile_s:.1f} s"
    lines = [
        f"{report.model} {report.size} {report.dtype} on {report.machine.device}: {report.machine.processor}, "
        f"{report.machine.num_threads} thread(s), commit {report.machine.commit[:12]}",
        f"loaded in {report.load_s:.1f} s, {compiled}, warmed up in {report.warm_up_s:.1f} s; measured product rate "
        f"{best / 1e9:,.0f} GFLOP/s in {report.dtype}",
        "",
        f"{'stage':8} {'at once':>7} {'median ms':>10} {'GFLOP/s':>9} {'of product rate':>15}",
    ]
    for figure in report.stages:
        rate = f"{figure.flops_per_s / 1e9:9,.0f} {figure.flops_per_s / best:15.0%}" if figure.flops_per_s else ""
        lines.append(f"{figure.stage:8} {figure.num:7} {figure.median_s * 1000:10.2f} {rate}".rstrip())
    lines += ["", f"{'drawn':24} {'pictures/s':>10} {'baseline':>9}   ratio: median (min to max)"]
    for comparison in report.comparisons:
        setting, ratio = comparison.setting, comparison.ratio
        label = f"{setting.num_pictures} x {setting.num_steps} steps, g {setting.guidance:g}"
        ours, theirs = (
            setting.num_pictures / sorted(seconds)[len(seconds) // 2]
            for seconds in (comparison.engine_s, comparison.baseline_s)
        )
        spread = f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})"
        lines.append(f"{label:24} {ours:10.3f} {theirs:9.3f}   {spread}")
    lines += ["", "one picture, ms: floor at the product rate -> measured"]
    for floor in report.floors:
        setting = floor.setting
        parts = ", ".join(
            f"{name} {floor.at_product_rate_ms[name]:.2f} -> {floor.measured_ms[name]:.2f}"
            for name in floor.measured_ms
        )
        at_peak = f"; floor at the maker's peak {floor.at_peak_ms:.2f}" if floor.at_peak_ms else ""
        label = f"{setting.num_pictures} x {setting.num_steps} steps, g {setting.guidance:g}"
        lines.append(f"{label:24} {parts}; {floor.share_of_product_rate:.0%} of it{at_peak}")
    return "\n".join(lines)


def _setting(text: str) -> tuple[int, float]:
    """ "20:4.5" -> 20 steps at guidance 4.5."""
    steps, _, guidance = text.partition(":")
    return int(steps), float(guidance or 0)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="name of a model, or the folder of a bundle")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--no-compile", action="store_true", help="draw with the network as it is")
    parser.add_argument("--num-threads", type=int, default=0, help="0 leaves it to torch")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8], help="batches of the stages")
    parser.add_argument("--calls", type=int, default=5, help="measured calls of each stage")
    parser.add_argument("--pictures", type=int, nargs="+", default=[8], help="batches of the comparison")
    parser.add_argument("--settings", type=_setting, nargs="+", default=[(20, 4.5), (4, 0.0)], metavar="STEPS:GUIDANCE")
    parser.add_argument("--pairs", type=int, default=5, help="repetitions of the comparison")
    parser.add_argument("--product-sides", type=int, nargs="*", default=[], help="of the square matrix products")
    parser.add_argument("--max-s", type=float, default=float("inf"), help="no repetition begins after so long")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _arguments(arguments)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    report = measure(options)
    print(summary(report))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"kind": "engine"} | dataclasses.asdict(report), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
