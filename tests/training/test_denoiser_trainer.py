"""The denoiser's trainer: stopping changes nothing, bad steps change nothing, bundles draw what was trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.engine import Engine
from model.params import GenerationParams
from model.training.dataset import load_records
from model.training.denoiser_trainer import build_loop, open_latents, train_denoiser
from model.training.export import export_bundle
from tests.support.trainer_runs import StopAfter, be_quiet, losses_of

CARD = {"name": "demo", "version": "7", "default_steps": 4, "default_guidance": 2.0}


@pytest.fixture
def config(denoiser_config, tmp_path):
    return replace(denoiser_config, out_dir=tmp_path / "out")


@pytest.fixture(scope="module")
def trained(denoiser_config, tmp_path_factory):
    """Two steps' configuration, its checkpoint written."""
    config = replace(
        denoiser_config,
        out_dir=tmp_path_factory.mktemp("trained"),
        max_steps=2,
        learning_rate=1e-2,
        warmup_steps=1,
        objects=("apple", "banana"),
    )
    train_denoiser(config, report=be_quiet)
    return config


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(config, tmp_path):
    whole, parts = [], []
    train_denoiser(replace(config, out_dir=tmp_path / "whole"), report=whole.append)
    stopped = replace(config, out_dir=tmp_path / "parts")
    assert train_denoiser(stopped, report=parts.append, should_stop=StopAfter(2)) is None
    assert train_denoiser(stopped, report=parts.append) == stopped.checkpoint
    assert losses_of(parts) == losses_of(whole)
    assert len(losses_of(whole)) == config.max_steps


def test_training_lowers_the_loss_on_a_batch_seen_again_and_again(config):
    run = build_loop(replace(config, max_steps=60, learning_rate=3e-3), open_latents(config))
    first = run.objective(0)[1].item()
    for _ in range(15):
        run.train_step()
        run.step = 0
    assert run.objective(0)[1].item() < 0.9 * first


def test_a_step_whose_loss_is_not_finite_changes_nothing_and_is_counted(config):
    data = open_latents(config)
    run = build_loop(config, replace(data, latents=np.full_like(data.latents, np.inf)))
    before = [parameter.clone() for parameter in run.model.parameters()]
    run.train_step()
    assert run.num_skipped == 1
    assert all(torch.equal(old, new) for old, new in zip(before, run.model.parameters(), strict=True))


def test_only_scenes_of_the_chosen_objects_are_trained_on(config):
    apples = open_latents(replace(config, objects=("apple",)))
    assert 0 < len(apples.ids) < len(open_latents(config).ids) == 20
    with pytest.raises(ValueError, match="no scene of only \\['boat'\\]"):
        open_latents(replace(config, objects=("boat",)))


def test_a_trained_model_is_exported_as_a_bundle_that_draws_what_was_trained(trained, tiny_autoencoder, tmp_path):
    bundle = export_bundle(trained.checkpoint, tiny_autoencoder, tmp_path / "bundle", **CARD)
    assert bundle.card.sizes == ("64x64",)
    assert "apple" in bundle.card.vocabulary
    assert "boat" not in bundle.card.vocabulary
    assert (bundle.folder / "NOTICE").is_file()
    engine = Engine.load(bundle, "cpu")
    samples = engine.begin([GenerationParams("two red apples", 64, 64, 2, 2.0, seed=1)])
    while not samples[0].is_finished:
        engine.step(samples)
    assert engine.decode(samples)[0].shape == (64, 64, 3)
    assert_text_is_read_as_in_training(trained, engine)


def test_a_new_run_begins_with_the_weights_of_a_bundle(trained, tiny_autoencoder, tmp_path):
    bundle = export_bundle(trained.checkpoint, tiny_autoencoder, tmp_path / "bundle", **CARD)
    before = build_loop(trained, open_latents(trained))
    before.restore()
    begun = build_loop(replace(trained, seed=5, start_from=bundle.folder), open_latents(trained))
    for (name, value), average in zip(begun.model.named_parameters(), before.ema.parameters(), strict=True):
        torch.testing.assert_close(value, average, rtol=1e-3, atol=1e-3, msg=name)


def assert_text_is_read_as_in_training(config, engine):
    """The service's text encoder and the trainer's give one caption the same embedding."""
    data = open_latents(config)
    run = build_loop(config, data)
    run.restore()
    captions = [record.caption for record in load_records(config.dataset)]
    with torch.inference_mode():
        trained = run.ema.text(input_ids=data.ids[:1], attention_mask=data.mask[:1]).last_hidden_state[0]
    (sample,) = engine.begin([GenerationParams(captions[0], 64, 64, 1, 0.0, seed=1)])
    torch.testing.assert_close(sample.embedding, trained, rtol=2e-2, atol=2e-2)  # the bundle is float16
