"""Small data and networks that several files of tests read, made once; nobody writes to them."""

import pytest
import torch

from model.training.world import EmojiWorld
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.trainer_runs import render_quietly, tiny_denoiser, write_tiny_autoencoder, write_tiny_dinov2


@pytest.fixture(autouse=True)
def same_threads():
    """Trainers set how many threads torch uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fruit_dataset(tmp_path_factory):
    """Twenty scenes of apples and bananas, 64 px."""
    return render_quietly(EmojiWorld(("apple", "banana"), size=64), 20, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def denoiser_config(fruit_dataset, tmp_path_factory):
    """Four steps on the scenes' captions; tests replace `out_dir`."""
    return tiny_denoiser(fruit_dataset, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def tiny_autoencoder(tmp_path_factory):
    return write_tiny_autoencoder(tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def tiny_dinov2(tmp_path_factory):
    return write_tiny_dinov2(tmp_path_factory.mktemp("dinov2"))
