"""The judge's lessons and its trainer: what is broken is not labelled, and stopping changes nothing."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from model.training import judge_trainer as trainer
from model.training.autoencoder_trainer import AutoencoderTrainConfig, build_autoencoder
from model.training.degrading import bend_slightly, degrade
from model.training.judge_scenes import broken_scene, label_table, natural_color, render_held_out
from model.training.mush import WAYS
from model.training.recolor import COLORS
from model.training.sprites import SpriteSheet, object_names
from model.training.world import EmojiWorld
from tests.support.trainer_runs import StopAfter, be_quiet, losses_of, render_quietly

OBJECTS = ("apple", "bus", "clock", "zebra")  # a bus beside a clock is held out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return render_quietly(EmojiWorld(OBJECTS), 12, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    channels = (8, 8, 8, 8, 8)
    config = AutoencoderTrainConfig(folder, folder, channels, channels, latent_channels=4)
    torch.manual_seed(0)
    build_autoencoder(config).save_pretrained(folder)
    return folder


def tiny_config(dataset, autoencoder, out_dir, **changes):
    config = trainer.JudgeTrainConfig(
        dataset=dataset,
        out_dir=out_dir,
        autoencoder=autoencoder,
        num_held_out=4,
        num_broken=4,
        num_round_trips=4,
        channels=(8, 8, 8),
        blocks=(1, 1, 1),
        batch_size=2,
        max_steps=4,
        warmup_steps=2,
        report_every=1,
        checkpoint_every=2,
    )
    return replace(config, **changes)


@pytest.mark.parametrize("way", WAYS)
def test_breaking_is_a_function_of_its_generator_and_leaves_something_else(way):
    sheet = SpriteSheet(side=64)
    sprite, other = sheet.image("car"), sheet.image("zebra")
    one, again = (WAYS[way](Random(3), sprite, other) for _ in range(2))
    assert one.tobytes() == again.tobytes()
    assert one.mode == "RGBA"
    assert np.asarray(one)[..., 3].any()
    small = sprite.resize(one.size)
    assert np.abs(np.asarray(one, dtype=float) - np.asarray(small, dtype=float)).mean() > 5


def test_a_broken_scene_labels_what_is_whole_and_nothing_else():
    scenes = [broken_scene(f"test/{index}", objects=OBJECTS) for index in range(12)]
    again = [broken_scene(f"test/{index}", objects=OBJECTS) for index in range(12)]
    for one, other in zip(scenes, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        names = [thing[0] for thing in one.things] + [name for name, _ in one.broken]
        assert len(names) == len(set(names)) >= 1
    assert any(scene.things for scene in scenes)
    assert any(scene.broken for scene in scenes)
    assert all(not broken_scene(f"x/{i}", intact_share=0.0, objects=OBJECTS).things for i in range(5))


def test_labels_hold_class_colour_and_box():
    table = label_table(
        [("apple", None, (0, 32, 64, 128)), ("zebra", None, (1, 2, 3, 4)), ("car", "blue", (0, 0, 8, 8))]
    )
    assert natural_color("apple") == "red"
    assert natural_color("zebra") is None
    assert table[0].tolist() == [object_names().index("apple"), COLORS.index("red"), 0, 0.25, 0.5, 1]
    assert table[1, 1] == -1
    assert table[2, 1] == COLORS.index("blue")
    assert table[3].tolist() == [-1] * 6


def test_degrading_changes_a_picture_a_little_and_the_same_way_again():
    picture = EmojiWorld(OBJECTS).scene(0).pixels
    for seed in range(10):
        one, again = (degrade(picture, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one, again)
        assert one.shape == picture.shape
        assert np.abs(one.astype(float) - picture).mean() < 25


def test_bending_slightly_moves_nothing_far():
    picture = np.zeros((1, 128, 128, 3), np.uint8)
    picture[0, 60:68, 60:68] = 255
    bent = bend_slightly(picture, np.random.default_rng(0))[0, 0]
    rows, columns = np.nonzero(bent > 0)
    assert abs(rows.mean() - 63.5) < 5
    assert abs(columns.mean() - 63.5) < 5


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(dataset, autoencoder, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "choose_threshold", lambda judge, folder: 0.35)
    monkeypatch.setattr(trainer, "NUM_STATISTICS_BATCHES", 2)
    whole, stopped = [], []
    straight = tiny_config(dataset, autoencoder, tmp_path / "straight")
    broken = tiny_config(dataset, autoencoder, tmp_path / "broken")
    assert trainer.train_judge(straight, report=whole.append) == straight.result
    assert trainer.train_judge(broken, report=stopped.append, should_stop=StopAfter(3)) is None
    assert trainer.train_judge(broken, report=stopped.append) == broken.result
    assert losses_of(stopped) == losses_of(whole)
    assert len(losses_of(whole)) == straight.max_steps
    one, other = load_file(straight.result), load_file(broken.result)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open(straight.result, framework="pt") as file:
        described = file.metadata()
    assert json.loads(described["classes"]) == list(object_names())
    assert described["threshold"] == "0.35"


def test_rendered_lessons_are_kept_and_never_taken_for_others(tmp_path):
    world, target, reports = EmojiWorld(OBJECTS), tmp_path / "held_out.npy", []
    first, again = (render_held_out(world, 3, target, reports.append) for _ in range(2))
    assert reports == ["held-out scenes: 0"]
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.pixels[1], world.held_out_scene(1).pixels)
    with pytest.raises(ValueError, match="holds 3 pictures, not 4"):
        render_held_out(world, 4, target, reports.append)


def test_scenes_of_another_size_are_refused(autoencoder, tmp_path):
    small = render_quietly(EmojiWorld(OBJECTS, 64), 2, tmp_path / "small")
    config = tiny_config(small, autoencoder, tmp_path)
    with pytest.raises(ValueError, match="64 px"):
        trainer.train_judge(config, report=be_quiet)
