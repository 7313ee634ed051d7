"""What the comparison with other servers decides by itself; the servers need packages of their own."""

import json

import numpy as np
import pytest

from benchmarks.peers.drawing import EngineDrawer, PeerSettings, PlainDrawer
from benchmarks.peers.experiment import Mix, highest_rate, make_trace
from benchmarks.peers.servers import MODULES, missing_packages
from benchmarks.tables import RESULTS, SECTIONS, fill, verdict
from tests.support.tiny_bundle import write_tiny_bundle


def test_the_trace_is_the_same_for_every_server_and_mixes_the_steps():
    trace = make_trace(Mix(4, 50, None), ["a cat"], 2.0, 400, seed=7)
    assert trace == make_trace(Mix(4, 50, None), ["a cat"], 2.0, 400, seed=7)
    steps = {request.num_inference_steps for request in trace}
    assert (min(steps), max(steps), len(steps)) == (4, 50, 8)
    assert trace[-1].at_s == pytest.approx(200, rel=0.2)


@pytest.mark.parametrize("limit", [0.3, 0.9, 1.0, 2.2])
def test_the_highest_rate_within_an_objective_is_found(limit):
    found = highest_rate(lambda rate: 1.0 if rate <= limit else 9.0, 5.0, 1.0, num_halvings=8)
    assert found <= limit
    assert found == pytest.approx(limit, abs=0.02)


def test_a_server_that_never_meets_the_objective_has_no_rate():
    assert highest_rate(lambda _: 9.0, 5.0, 1.0) == 0.0


def test_a_server_that_always_meets_it_is_asked_no_more_than_a_few_times_the_rate():
    asked = []
    assert 4 <= highest_rate(lambda rate: asked.append(rate) or 0.1, 5.0, 1.0) <= 6.5
    assert len(asked) < 8


def test_settings_travel_to_a_child_process_unchanged(monkeypatch):
    settings = PeerSettings(8001, 16, 0.05, "demo", 2, "engine")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert PeerSettings.from_environment() == settings


@pytest.mark.parametrize("pipeline", ["plain", "engine"])
def test_a_batch_of_mixed_lengths_comes_back_in_order(tmp_path, pipeline):
    settings = PeerSettings(0, 4, 0.0, str(write_tiny_bundle(tmp_path).folder), 1, pipeline)
    drawer = PlainDrawer(settings) if pipeline == "plain" else EngineDrawer(settings, is_compiled=False)
    bodies = [{"prompt": "a cat", "seed": seed, "num_inference_steps": steps} for seed, steps in ((1, 5), (2, 2))]
    together = drawer.draw(bodies)
    alone = [drawer.draw([body])[0] for body in bodies]
    assert all(png.startswith(b"\x89PNG") for png in together)
    for one, other in zip(together, alone, strict=True):
        difference = np.abs(_pixels(one) - _pixels(other))
        assert difference.mean() < 1


def _pixels(png):
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture).astype(int)


def test_a_peer_that_cannot_be_imported_is_named_with_the_reason(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "ModuleNotFoundError: no such thing" >&2\nexit 1\n')
    python.chmod(0o755)
    assert missing_packages(python) == dict.fromkeys(MODULES, "ModuleNotFoundError: no such thing")


def test_a_section_without_a_result_says_what_to_run(tmp_path):
    page = "".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->\n" for name in SECTIONS)
    text = fill(page, tmp_path)
    assert "old" not in text
    assert text.count("Not measured yet") == len(SECTIONS)
    assert fill(text, tmp_path) == text
    with pytest.raises(ValueError, match="no section"):
        fill("", tmp_path)


def test_every_committed_result_of_ours_says_what_it_is():
    for file, _, show in SECTIONS.values():
        path = RESULTS / file
        if path.exists():
            assert show(json.loads(path.read_text("utf-8")))


def test_a_missed_target_says_so():
    assert verdict(1.6, 1.5) == ">= 1.5: met"
    assert verdict(0.7, 0.5, is_most=True) == "<= 0.5: missed"
