"""The real trainers under torchrun: two processes, by DDP and by FSDP, reach the losses of one."""

import pickle
import sys
from dataclasses import replace

import pytest
from diffusers import AutoencoderDC

from model.training.autoencoder_trainer import AutoencoderTrainConfig, train_autoencoder
from model.training.denoiser_trainer import train_denoiser
from model.training.export import export_bundle
from model.training.features import write_label_features
from model.training.sample_grid import SAMPLES_NAME
from model.training.tracking import CURVE_NAME, read_curve
from model.training.world import EmojiWorld
from tests.support.processes import run_all
from tests.support.trainer_runs import be_quiet, render_quietly, tiny_denoiser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SHARDING = pytest.mark.parametrize("is_sharded", [False, True], ids=["ddp", "fsdp"])
# Sums of float32 in another order; AdamW divides by what may be small.
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return render_quietly(EmojiWorld(("apple", "car"), size=64), 40, tmp_path_factory.mktemp("world"))


def train_in_two_processes(config):
    file = config.out_dir.with_suffix(".pickle")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(config))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    run_all([*launch, "tests.support.trainer_process", str(file)], timeout_s=580)


def assert_same_curve(config, expected):
    own, other = (list(read_curve(run.out_dir / CURVE_NAME)) for run in (config, expected))
    assert [point.step for point in own] == [point.step for point in other]
    for field in ("loss", "minimised", "grad_norm"):
        assert [getattr(point, field) for point in own] == pytest.approx(
            [getattr(point, field) for point in other], rel=TOLERANCE
        )


@SHARDING
def test_the_denoiser_with_features_parts_and_grids(world, tiny_autoencoder, tmp_path, is_sharded):
    alone = tiny_denoiser(
        world,
        tmp_path,
        out_dir=tmp_path / "alone",
        batch_size=8,
        max_steps=6,
        features=write_label_features(world, tmp_path / "labels.npy", grid=8, report=be_quiet),
        repa_hidden_size=16,
        autoencoder=tiny_autoencoder,
        checkpoint_every=3,
    )
    train_denoiser(alone, report=be_quiet)
    together = replace(alone, out_dir=tmp_path / "together", is_sharded=is_sharded, num_parts=2)
    train_in_two_processes(together)
    assert_same_curve(together, alone)
    assert [path.name for path in (together.out_dir / SAMPLES_NAME).iterdir()] == ["step-000003.png"]
    card = {"name": "demo", "version": "1", "default_steps": 4, "default_guidance": 2.0}
    export_bundle(together.checkpoint, tiny_autoencoder, tmp_path / "bundle", **card)


@SHARDING
def test_the_autoencoder_whose_loss_looks_at_the_whole_batch(world, tmp_path, is_sharded):
    alone = AutoencoderTrainConfig(
        dataset=world,
        out_dir=tmp_path / "alone",
        encoder_channels=(8, 8, 8, 8, 8),
        decoder_channels=(8, 8, 8, 8, 8),
        encoder_layers=(0, 1, 1, 1, 1),
        decoder_layers=(0, 1, 1, 1, 1),
        latent_channels=4,
        batch_size=4,
        max_steps=6,
        warmup_steps=2,
        latent_weight=1.0,  # so that it is seen in the loss
        is_compiled=False,
        num_threads=1,
        report_every=1,
        checkpoint_every=3,
        device="cpu",
    )
    train_autoencoder(alone, report=be_quiet)
    together = replace(alone, out_dir=tmp_path / "together", is_sharded=is_sharded)
    train_in_two_processes(together)
    assert_same_curve(together, alone)
    AutoencoderDC.from_pretrained(together.result)
