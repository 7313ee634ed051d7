"""Sample grids on the way: drawn when due, always the same prompts, the same weights drawing the same pixels."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.errors import AutoencoderError
from model.training.dataset import load_records
from model.training.denoiser_trainer import train_denoiser
from model.training.latent_data import example_captions
from model.training.sample_grid import SAMPLES_NAME
from model.training.tracking import LOGS_NAME
from tests.support.trainer_runs import be_quiet, losses_of, write_tiny_autoencoder


@pytest.fixture
def config(denoiser_config, tiny_autoencoder, tmp_path):
    return replace(denoiser_config, out_dir=tmp_path / "out", autoencoder=tiny_autoencoder, checkpoint_every=2)


def test_grids_are_drawn_at_checkpoints_not_more_often_than_asked_and_change_nothing_of_the_training(config, tmp_path):
    often = replace(config, out_dir=tmp_path / "often", sample_every_min=0.0)
    seldom = replace(config, out_dir=tmp_path / "seldom", sample_every_min=10.0)
    never = replace(config, out_dir=tmp_path / "never", autoencoder=None)
    told = {settings.out_dir.name: [] for settings in (often, seldom, never)}
    for settings in (often, seldom, never):
        train_denoiser(settings, report=told[settings.out_dir.name].append)
    drawn = sorted(path.name for path in (often.out_dir / SAMPLES_NAME).iterdir())
    assert drawn == ["step-000002.png", "step-000004.png"]
    assert [path.name for path in (seldom.out_dir / SAMPLES_NAME).iterdir()] == ["step-000002.png"]
    assert not (never.out_dir / SAMPLES_NAME).exists()
    one, other = (np.asarray(Image.open(run.out_dir / SAMPLES_NAME / "step-000002.png")) for run in (often, seldom))
    assert np.array_equal(one, other)
    assert one.shape[1] >= 4 * 64
    events = EventAccumulator(str(often.out_dir / LOGS_NAME)).Reload()
    assert [event.step for event in events.Images(SAMPLES_NAME)] == [2, 4]
    assert losses_of(told["often"]) == losses_of(told["seldom"]) == losses_of(told["never"])
    assert len(losses_of(told["never"])) == config.max_steps


def test_an_autoencoder_of_other_latents_is_refused_before_training(config, tmp_path):
    other = write_tiny_autoencoder(tmp_path / "autoencoder", latent_channels=8)
    with pytest.raises(AutoencoderError, match="latents of 8 channels, but the network draws 4"):
        train_denoiser(replace(config, autoencoder=other), report=be_quiet)


def test_examples_are_of_every_kind_first(config):
    records = list(load_records(config.dataset))
    examples = example_captions(records, 8)
    assert len(examples) == len(set(examples)) == 8
    kinds = {record.caption: record.kind for record in records}
    num_kinds = len(set(kinds.values()))
    assert len({kinds[caption] for caption in examples[:num_kinds]}) == num_kinds
