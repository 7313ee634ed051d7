"""Several bundles at once: the same parts loaded once, the same pictures as alone, and what lies in memory."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from model.bundle import read_bundle
from model.engine import Engine
from model.errors import AutoencoderError
from model.loading import load_engines
from model.params import GenerationParams
from tests.support.tiny_bundle import write_tiny_bundle, write_tiny_relative


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    home = tmp_path_factory.mktemp("bundles")
    base = write_tiny_bundle(home / "base", name="base", vocabulary=("red", "apple"))
    return base, write_tiny_relative(home / "few", base, name="few", vocabulary=("blue",))


@pytest.fixture(scope="module")
def loaded(bundles):
    return load_engines(bundles, "cpu")


def draw(engine, prompt="a red apple"):
    (sample,) = engine.begin([GenerationParams(prompt, 64, 64, 3, 2.0, seed=7)])
    while not sample.is_finished:
        engine.step([sample])
    return engine.decode([sample])[0]


def test_what_bundles_have_in_common_is_there_once(loaded):
    base, few = (loaded.engines[name].parts() for name in ("base", "few"))
    assert base["text_encoder"] is few["text_encoder"]
    assert base["autoencoder"] is few["autoencoder"]
    assert base["network"] is not few["network"]


def test_memory_names_each_part_once_with_its_owners_and_its_bytes(loaded, bundles):
    parts = {(part.part, part.models): part.num_bytes for part in loaded.memory}
    assert set(parts) == {
        ("network", ("base",)),
        ("network", ("few",)),
        ("text_encoder", ("base", "few")),
        ("autoencoder", ("base", "few")),
    }
    file_bytes = (bundles[0].parts.autoencoder / "diffusion_pytorch_model.safetensors").stat().st_size
    assert parts["autoencoder", ("base", "few")] == pytest.approx(file_bytes, rel=0.1)  # a header is all there is more
    assert parts["network", ("base",)] == parts["network", ("few",)] > 0


def test_each_model_draws_what_it_draws_alone(loaded, bundles):
    for bundle in bundles:
        alone = Engine.load(bundle, "cpu")
        assert np.array_equal(draw(loaded.engines[bundle.card.name]), draw(alone))
    assert not np.array_equal(draw(loaded.engines["base"]), draw(loaded.engines["few"]))


def test_a_prompt_is_encoded_once_for_all(loaded):
    draw(loaded.engines["base"], "a prompt that nobody has sent yet")
    hits, misses = loaded.engines["few"].cache_counts
    draw(loaded.engines["few"], "a prompt that nobody has sent yet")
    assert loaded.engines["few"].cache_counts == (hits + 2, misses)


def test_each_model_has_its_own_vocabulary(loaded):
    params = GenerationParams("red blue", 64, 64, 1, 0.0, seed=7)
    assert loaded.engines["base"].begin([params])[0].unknown_words == ("blue",)
    assert loaded.engines["few"].begin([params])[0].unknown_words == ("red",)


def test_every_phase_is_timed(loaded):
    assert list(loaded.phases_s) == ["text encoder", "autoencoder", "networks", "fusing", "warm-up"]
    assert loaded.phases_s["networks"] > 0
    assert loaded.phases_s["warm-up"] == 0  # a CPU has nothing to warm up


def test_copies_of_the_same_files_are_loaded_once_too(bundles, tmp_path):
    shutil.copytree(bundles[0].folder, tmp_path / "copy")
    copied = read_bundle(tmp_path / "copy")
    copy = replace(copied, card=replace(copied.card, name="copy"))
    engines = load_engines([bundles[0], copy], "cpu").engines
    for part in ("text_encoder", "autoencoder"):
        assert engines["base"].parts()[part] is engines["copy"].parts()[part]


def test_parts_that_differ_are_each_models_own(bundles, tmp_path):
    other = write_tiny_bundle(tmp_path, name="other", seed=5)  # the same names and sizes, other values
    engines = load_engines([bundles[0], other], "cpu").engines
    for part in ("text_encoder", "autoencoder"):
        assert engines["base"].parts()[part] is not engines["other"].parts()[part]


def test_a_model_that_reads_fewer_tokens_has_a_text_encoder_of_its_own(bundles, tmp_path):
    short = write_tiny_relative(tmp_path / "short", bundles[0], name="short", num_text_tokens=8)
    engines = load_engines([bundles[0], short], "cpu").engines
    assert engines["base"].parts()["text_encoder"] is not engines["short"].parts()["text_encoder"]
    assert engines["base"].parts()["autoencoder"] is engines["short"].parts()["autoencoder"]


def test_an_adapter_changes_its_own_model_and_not_the_one_that_it_is_for(tmp_path):
    tuned = write_tiny_bundle(tmp_path, name="tuned", adapter_name="lora")
    plain = replace(tuned, card=replace(tuned.card, name="plain"), parts=replace(tuned.parts, adapter=None))
    alone = draw(Engine.load(plain, "cpu"))
    engines = load_engines([plain, tuned], "cpu").engines
    assert np.array_equal(draw(engines["plain"]), alone)
    assert not np.array_equal(draw(engines["tuned"]), alone)


def test_a_size_that_the_shared_autoencoder_cannot_have_is_refused(bundles, tmp_path):
    wide = write_tiny_relative(tmp_path / "wide", bundles[0], name="wide")
    path = wide.folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sizes": ["60x64"]}))
    with pytest.raises(AutoencoderError, match="60x64 is no multiple"):
        load_engines([bundles[0], read_bundle(wide.folder)], "cpu")
