"""REPA: label features say what the renderer drew, heads learn them, and runs go on with and without them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from model.training import features
from model.training.dataset import load_dataset, load_records
from model.training.denoiser_trainer import build_loop, open_latents, train_denoiser
from model.training.export import export_bundle
from model.training.repa import open_features, projection_head, repa_loss
from model.weights import load_bundle
from tests.support.trainer_runs import be_quiet, losses_of, write_tiny_dinov2

OBJECTS = ("apple", "banana")
CLASSES, NATURAL = slice(0, 2), 2


@pytest.fixture(scope="module")
def label_file(fruit_dataset, tmp_path_factory):
    target = tmp_path_factory.mktemp("features") / "labels.npy"
    return features.write_label_features(fruit_dataset, target, grid=8, report=be_quiet)


@pytest.fixture
def config(denoiser_config, tmp_path):
    return replace(denoiser_config, out_dir=tmp_path / "out", repa_hidden_size=16)


def test_labels_say_which_object_covers_how_much_of_each_cell(fruit_dataset, label_file):
    stored = np.load(label_file).astype(np.float32)
    for record, cells in zip(load_records(fruit_dataset), stored, strict=True):
        covered = cells[..., CLASSES].sum(-1)
        assert cells[..., -11:].sum(-1) == pytest.approx(np.clip(1 - covered, 0, 1), abs=2e-3)
        for index, name in enumerate(OBJECTS):
            assert (cells[..., index].max() > 0.5) == any(thing == name for thing, _, _ in record.objects)
        outside = np.ones((8, 8), dtype=bool)
        for _, _, box in record.objects:
            outside[box[1] // 8 : -(-box[3] // 8), box[0] // 8 : -(-box[2] // 8)] = False
        assert not covered[outside].any()
        if all(color is None for _, color, _ in record.objects):
            assert cells[..., NATURAL] == pytest.approx(covered, abs=2e-3)


def test_labels_need_cells_of_whole_halves(fruit_dataset, tmp_path):
    with pytest.raises(ValueError, match="64 px can't be cut into 7 cells"):
        features.write_label_features(fruit_dataset, tmp_path / "labels.npy", grid=7)


def test_a_vision_transformers_patches_are_pooled_to_the_grid(fruit_dataset, tmp_path):
    write_tiny_dinov2(tmp_path / "vit", hidden_size=16, patch_size=14, image_size=56)
    encoder = features.load_encoder(tmp_path / "vit", "cpu")
    target = features.write_network_features(
        fruit_dataset, encoder, tmp_path / "dense.npy", grid=2, batch_size=8, report=be_quiet
    )
    dense = np.load(target)
    assert dense.shape == (len(load_dataset(fruit_dataset).pixels), 2, 2, 16)
    assert np.isfinite(dense).all()
    assert not np.array_equal(dense[0], dense[1])


def test_the_loss_is_minus_one_for_equal_directions_whatever_their_length():
    target = torch.randn(2, 5, 7)
    assert repa_loss(3 * target, target).item() == pytest.approx(-1)
    assert repa_loss(-target, target).item() == pytest.approx(1)


def test_a_head_learns_its_targets():
    torch.manual_seed(0)
    tokens, target, head = torch.randn(4, 16, 8), torch.randn(4, 16, 6), projection_head(8, 32, 6)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        repa_loss(head(tokens), target).backward()
        optimizer.step()
    assert repa_loss(head(tokens), target).item() < -0.6


def test_features_of_another_grid_are_interpolated(tmp_path):
    ramp = np.linspace(0, 1, 8, dtype=np.float16)[None, None, :, None] * np.ones((2, 8, 1, 3), dtype=np.float16)
    np.save(tmp_path / "grid.npy", ramp)
    np.save(tmp_path / "tokens.npy", ramp.reshape(2, 64, 3))
    for name in ("grid.npy", "tokens.npy"):
        targets = open_features(tmp_path / name, np.arange(2)).targets(np.array([1]), (4, 4))
        assert targets.shape == (1, 16, 3)
        across = targets.view(4, 4, 3)[0, :, 0]
        assert torch.all(across.diff() > 0.2)


def test_features_that_do_not_fit_are_refused(tmp_path):
    np.save(tmp_path / "oblong.npy", np.zeros((2, 6, 3), dtype=np.float16))
    with pytest.raises(ValueError, match="6 tokens are no square grid"):
        open_features(tmp_path / "oblong.npy", np.arange(2))
    np.save(tmp_path / "few.npy", np.zeros((2, 4, 3), dtype=np.float16))
    with pytest.raises(ValueError, match="features of 2 samples, but the latents have 3"):
        open_features(tmp_path / "few.npy", np.arange(3))


@pytest.mark.slow
def test_a_run_without_features_goes_on_with_them_and_back(config, label_file):
    lines = []
    train_denoiser(replace(config, max_steps=2), report=lines.append)
    train_denoiser(replace(config, features=label_file), report=lines.append)
    with safe_open(config.checkpoint, framework="pt") as file:
        heads = {key.split("/")[0] for key in file.keys() if "/projectors." in key}  # noqa: SIM118 (not a mapping)
        num_states = sum(key.endswith("exp_avg") for key in file.keys())  # noqa: SIM118
        num_weights = sum(key.startswith("model/") for key in file.keys())  # noqa: SIM118
    assert heads == {"model", "ema"}
    assert num_states == num_weights - 1  # the position table is no parameter
    train_denoiser(replace(config, max_steps=6), report=lines.append)
    assert len(losses_of(lines)) == 6


def test_the_alignment_falls_beside_the_shown_loss(config, label_file):
    chosen = replace(config, features=label_file, learning_rate=5e-3, max_steps=100)
    run = build_loop(chosen, open_latents(chosen))

    def alignment():
        minimised, shown = run.objective(0)
        return (minimised.item() - shown.item()) / chosen.repa_weight

    first = alignment()
    for _ in range(12):
        run.train_step()
    assert alignment() < first - 0.2


def test_heads_stay_out_of_bundles(config, label_file, tiny_autoencoder, tmp_path):
    trained = replace(config, features=label_file, max_steps=1)
    checkpoint = train_denoiser(trained, report=be_quiet)
    card = {"name": "demo", "version": "1", "default_steps": 4, "default_guidance": 2.0}
    load_bundle(export_bundle(checkpoint, tiny_autoencoder, tmp_path / "bundle", **card))
