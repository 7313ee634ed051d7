"""Sample grids on the way: drawn when due, always the same prompts, the same weights drawing the same pixels."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import AutoencoderDC
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.errors import AutoencoderError
from model.training.dataset import load_records, render_dataset
from model.training.denoiser_trainer import DenoiserTrainConfig, train_denoiser
from model.training.latent_data import example_captions
from model.training.sample_grid import SAMPLES_NAME
from model.training.tracking import LOGS_NAME
from model.training.world import EmojiWorld
from tests.support.tiny_bundle import TINY_AUTOENCODER


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    world = EmojiWorld(("apple", "banana"), size=64)
    render_dataset(world, 20, folder / "world", num_workers=1, report=lambda line: None)
    np.save(folder / "latents.npy", np.random.default_rng(0).normal(size=(20, 4, 8, 8)).astype(np.float16))
    AutoencoderDC(**TINY_AUTOENCODER).save_pretrained(folder / "autoencoder")
    return DenoiserTrainConfig(
        dataset=folder / "world",
        latents=folder / "latents.npy",
        out_dir=folder / "out",
        num_attention_heads=2,
        attention_head_dim=16,
        stages=(1, 1, 1),
        text_hidden_size=32,
        text_layers=1,
        batch_size=4,
        max_steps=4,
        num_threads=1,
        checkpoint_every=2,
        autoencoder=folder / "autoencoder",
        device="cpu",
    )


def test_grids_are_drawn_at_checkpoints_but_not_more_often_than_asked(config, tmp_path):
    often = replace(config, out_dir=tmp_path / "often", sample_every_min=0.0)
    seldom = replace(config, out_dir=tmp_path / "seldom", sample_every_min=10.0)
    for settings in (often, seldom):
        train_denoiser(settings, report=lambda line: None)
    drawn = sorted(path.name for path in (often.out_dir / SAMPLES_NAME).iterdir())
    assert drawn == ["step-000002.png", "step-000004.png"]
    assert [path.name for path in (seldom.out_dir / SAMPLES_NAME).iterdir()] == ["step-000002.png"]
    one, other = (np.asarray(Image.open(run.out_dir / SAMPLES_NAME / "step-000002.png")) for run in (often, seldom))
    assert np.array_equal(one, other)
    assert one.shape[1] >= 4 * 64
    events = EventAccumulator(str(often.out_dir / LOGS_NAME)).Reload()
    assert [event.step for event in events.Images(SAMPLES_NAME)] == [2, 4]


def test_drawing_changes_nothing_of_the_training(config, tmp_path):
    lines = {}
    for name, autoencoder in (("with", config.autoencoder), ("without", None)):
        told = lines.setdefault(name, [])
        run = replace(config, out_dir=tmp_path / name, autoencoder=autoencoder, report_every=1, sample_every_min=0.0)
        train_denoiser(run, report=told.append)
    losses = {name: [line.split()[3] for line in told if " loss " in line] for name, told in lines.items()}
    assert losses["with"] == losses["without"]
    assert len(losses["with"]) == 4


def test_an_autoencoder_of_other_latents_is_refused_before_training(config, tmp_path):
    AutoencoderDC(**{**TINY_AUTOENCODER, "latent_channels": 8}).save_pretrained(tmp_path / "autoencoder")
    with pytest.raises(AutoencoderError, match="latents of 8 channels, but the network draws 4"):
        train_denoiser(
            replace(config, autoencoder=tmp_path / "autoencoder", out_dir=tmp_path), report=lambda line: None
        )


def test_examples_are_of_every_kind_first(config):
    records = list(load_records(config.dataset))
    examples = example_captions(records, 8)
    assert len(examples) == len(set(examples)) == 8
    kinds = {record.caption: record.kind for record in records}
    num_kinds = len(set(kinds.values()))
    assert len({kinds[caption] for caption in examples[:num_kinds]}) == num_kinds
