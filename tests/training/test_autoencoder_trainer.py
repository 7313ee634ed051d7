"""The autoencoder's trainer: stopping changes nothing, bad steps change nothing, latents come out normalised."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC

from model.training import autoencoder_trainer as trainer
from model.training import reconstruction
from model.training.dataset import load_dataset
from model.training.world import EmojiWorld
from tests.support.trainer_runs import StopAfter, be_quiet, losses_of, render_quietly


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return render_quietly(EmojiWorld(("apple", "car"), size=32, seed=0), 24, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A finished run's configuration and what it reported."""
    reports = []
    config = tiny_config(dataset, tmp_path_factory.mktemp("trained"))
    assert trainer.train_autoencoder(config, report=reports.append) == config.result
    return config, reports


def tiny_config(dataset, out_dir, **changes):
    config = trainer.AutoencoderTrainConfig(
        dataset=dataset,
        out_dir=out_dir,
        encoder_channels=(8, 8, 8, 8, 8),
        decoder_channels=(8, 8, 8, 8, 8),
        latent_channels=4,
        batch_size=4,
        max_steps=6,
        warmup_steps=2,
        report_every=1,
        checkpoint_every=3,
        is_compiled=False,
        device="cpu",
        num_threads=1,
    )
    return replace(config, **changes)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(trained, tmp_path):
    straight, whole = trained
    broken, stopped = replace(straight, out_dir=tmp_path), []
    assert trainer.train_autoencoder(broken, report=stopped.append, should_stop=StopAfter(4)) is None
    assert not broken.result.exists()
    assert trainer.train_autoencoder(broken, report=stopped.append) == broken.result
    assert losses_of(stopped) == losses_of(whole)
    assert len(losses_of(whole)) == straight.max_steps
    one, other = (AutoencoderDC.from_pretrained(config.result) for config in (straight, broken))
    for (name, value), again in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name


def test_a_run_ends_when_its_minutes_are_over(dataset, tmp_path):
    config = tiny_config(dataset, tmp_path, max_steps=10**9, max_minutes=0.001)
    reports = []
    trainer.train_autoencoder(config, report=reports.append)
    assert reports[-1].startswith("finished at step")


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(dataset, tmp_path):
    run = trainer.build_loop(tiny_config(dataset, tmp_path), lambda step: torch.full((4, 3, 32, 32), math.nan))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    loss = run.train_step()
    assert math.isnan(loss)
    assert (run.num_skipped, run.step) == (1, 1)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_the_loss_falls(dataset, tmp_path):
    pixels = reconstruction.to_network(load_dataset(dataset).pixels[:8])
    run = trainer.build_loop(tiny_config(dataset, tmp_path, max_steps=40), lambda step: pixels)
    losses = [run.train_step() for _ in range(16)]
    assert losses[-1] < 0.7 * losses[0]


def test_finished_latents_have_mean_zero_and_deviation_one_in_every_channel(trained, dataset, tmp_path):
    config, _ = trained
    target = trainer.encode_dataset(config.result, dataset, tmp_path / "latents.npy", device="cpu", report=be_quiet)
    latents = np.load(target).astype(np.float32)
    assert latents.shape == (24, 4, 2, 2)
    assert latents.mean((0, 2, 3)) == pytest.approx(np.zeros(4), abs=0.02)
    assert latents.std((0, 2, 3)) == pytest.approx(np.ones(4), abs=0.02)


def test_normalising_latents_leaves_pictures_nearly_as_they_were(dataset, tmp_path):
    torch.manual_seed(0)
    model = trainer.build_autoencoder(tiny_config(dataset, tmp_path))
    pixels = load_dataset(dataset).pixels
    before = reconstruction.reconstruct(model, pixels)
    reconstruction.normalize_latents(model, pixels)
    # Only the zero padding around the latent changes its meaning.
    assert reconstruction.psnr(reconstruction.reconstruct(model, pixels), before) > 25


def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(trained, dataset, tmp_path):
    first, _ = trained
    second = replace(
        first, out_dir=tmp_path, max_steps=2, frozen_encoder=first.result, decoder_channels=(8, 8, 8, 8, 16)
    )
    trainer.train_autoencoder(second, report=be_quiet)
    old, new = (AutoencoderDC.from_pretrained(config.result) for config in (first, second))
    pixels = reconstruction.to_network(load_dataset(dataset).pixels[:4])
    with torch.no_grad():
        assert torch.equal(old.encoder(pixels), new.encoder(pixels))


def test_bytes_survive_the_way_to_the_network_and_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 8, 32, 1).repeat(3, axis=-1)
    assert np.array_equal(reconstruction.to_bytes(reconstruction.to_network(pixels)), pixels)


def test_psnr_of_a_known_error():
    target = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    assert reconstruction.psnr(target + 1, target) == pytest.approx(20 * math.log10(255))
