"""The engine's benchmark on a tiny model: that it measures what it says, not how fast anything is."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks.baseline import Baseline
from benchmarks.engine import floor_of, main
from benchmarks.flops import PictureFlops, count_flops
from benchmarks.machine import describe_machine, product_rates
from benchmarks.prompts import fresh_prompts
from benchmarks.tables import SECTIONS, engine_section
from benchmarks.versus import Comparison, Setting, Spread
from model.catalog import VARIANTS
from model.engine import Engine
from model.params import GenerationParams
from model.random_bundle import DC_AE_F32C32, LLAMA_3_2_1B
from tests.support.tiny_bundle import write_tiny_bundle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def report(bundle, tmp_path_factory):
    """The JSON of one small run from the command line."""
    out = tmp_path_factory.mktemp("results") / "engine-demo.json"
    sizes = [
        "--rows",
        "1",
        "2",
        "--calls",
        "2",
        "--pictures",
        "2",
        "--settings",
        "3:2",
        "2",
        "--pairs",
        "2",
        "--no-compile",
    ]
    main(["--model", str(bundle.folder), *sizes, "--product-sides", "32", "--out", str(out)])
    return json.loads(out.read_text())


@pytest.mark.parametrize(("steps", "guidance"), [(4, 2.0), (3, 0.0)])
def test_the_plain_loop_draws_the_engines_pictures(bundle, steps, guidance):
    prompts, seeds = ["a red apple", "a <b>blue</b> car"], [3, 4]
    theirs = Baseline(bundle, CPU, torch.float32)(prompts, seeds, steps, guidance)
    engine = Engine.load(bundle, "cpu")
    samples = engine.begin(
        [GenerationParams(prompt, 64, 64, steps, guidance, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    )
    while not samples[0].is_finished:
        engine.step(samples)
    for ours, other in zip(engine.decode(samples), theirs, strict=True):
        # The engine may leave out the last step, which moves the latents by a thousandth of the velocity.
        assert np.abs(ours.astype(int) - np.asarray(other).astype(int)).mean() < 1


@pytest.mark.slow
def test_operations_of_the_published_network_are_those_of_the_design(bundle, monkeypatch):
    """80 GFLOP a forward, 251 for the text, 2092 for the decoder."""
    published = VARIANTS["nitro-e-512"]

    class Configured:
        config, card, parts = published.config, published.card, bundle.parts

    monkeypatch.setattr("benchmarks.flops.LlamaConfig.from_pretrained", lambda *_, **__: _llama_config())
    monkeypatch.setattr("benchmarks.flops.AutoencoderDC.load_config", lambda _: dict(DC_AE_F32C32))
    flops = count_flops(Configured())
    assert [round(num / 1e9) for num in (flops.forward, flops.text, flops.decode)] == [80, 251, 2092]


def _llama_config():
    from transformers import LlamaConfig

    return LlamaConfig(**LLAMA_3_2_1B)


def test_a_run_measures_every_stage_and_pairs_every_setting(report):
    stages = [(figure["stage"], figure["num"]) for figure in report["stages"]]
    assert stages == [(name, num) for name in ("text", "denoise", "decode") for num in (1, 2)] + [("png", 1)]
    assert all(0 < figure["min_s"] <= figure["median_s"] <= figure["max_s"] for figure in report["stages"])
    assert [comparison["setting"]["num_steps"] for comparison in report["comparisons"]] == [3, 2]
    for comparison in report["comparisons"]:
        assert len(comparison["engine_s"]) == len(comparison["baseline_s"]) == 2
        ratios = [b / a for a, b in zip(comparison["engine_s"], comparison["baseline_s"], strict=True)]
        assert comparison["ratio"]["min"] == pytest.approx(min(ratios))
        assert comparison["ratio"]["max"] == pytest.approx(max(ratios))
        assert comparison["mean_level_difference"] < 1
    assert set(report["product_rates"]) == {"float32", "bfloat16"}
    assert all(len(measured) == 2 for measured in report["product_rates"].values())


def test_the_page_shows_every_figure_of_a_run(report):
    text = engine_section(report)
    assert "2 x 3 steps, guidance 2" in text
    assert report["machine"]["commit"][:12] in text
    assert all(name in SECTIONS for name in ("engine-demo", "overhead", "peers"))


def test_the_floor_of_a_picture_is_its_operations_at_the_product_rate():
    setting = Setting(2, 10, 4.5)
    comparison = Comparison(
        setting, [4.0], [8.0], Spread.of([2.0]), {"text": 0.2, "denoise": 3.0, "decode": 0.8}, 9, 0.0
    )
    floor = floor_of(comparison, PictureFlops(forward=10, text=5, decode=95), best_rate=1000.0, peak=3000.0)
    assert floor.at_product_rate_ms == {"text": 5.0, "denoise": 180.0, "decode": 95.0}
    assert floor.measured_ms == {"text": 100.0, "denoise": 1500.0, "decode": 400.0}
    assert floor.at_peak_ms == pytest.approx(280 / 3)
    assert floor.share_of_product_rate == pytest.approx(0.14)


def test_no_prompt_comes_twice_so_that_no_cache_helps():
    prompts = fresh_prompts()
    assert len({next(prompts) for _ in range(500)}) == 500


def test_product_rates_leave_out_what_would_take_too_long():
    rates = product_rates(CPU, torch.float32, (16, 1_000_000))
    assert list(rates) == [16]
    assert math.isfinite(rates[16])


def test_a_machine_tells_what_a_figure_was_measured_on():
    values = asdict(describe_machine(CPU))
    assert values["device"] == "cpu"
    assert values["num_cores"] >= 1
    assert values["versions"]["torch"] == torch.__version__
