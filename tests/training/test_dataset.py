"""Rendered datasets: what is on disk is what the world says, and a stopped rendering goes on."""

import json

import numpy as np
import pytest

from model.training import dataset as rendering
from model.training.dataset import load_dataset, load_records, render_dataset
from model.training.world import EmojiWorld
from tests.support.trainer_runs import be_quiet, render_quietly

OBJECTS = ("apple", "car", "cat")
CHUNK_SCENES, NUM_SCENES = 20, 25


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "CHUNK_SCENES", CHUNK_SCENES)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return render_quietly(EmojiWorld(OBJECTS, size=16, seed=5), NUM_SCENES, tmp_path_factory.mktemp("scenes"))


def test_pixels_and_captions_are_the_worlds_own(folder):
    dataset = load_dataset(folder)
    assert dataset.pixels.shape == (NUM_SCENES, 16, 16, 3)
    records = list(load_records(folder))
    for index in (0, 7, NUM_SCENES - 1):
        scene = EmojiWorld(OBJECTS, size=16, seed=5).scene(index)
        assert np.array_equal(dataset.pixels[index], scene.pixels)
        assert dataset.captions[index] == records[index].caption == scene.caption
        assert records[index].objects == tuple((thing.name, thing.color, thing.box) for thing in scene.objects)


def test_processes_of_their_own_render_the_same(folder, tmp_path):
    render_dataset(EmojiWorld(OBJECTS, 16, 5), 3, tmp_path, num_workers=1, report=be_quiet)
    assert np.array_equal(load_dataset(tmp_path).pixels, load_dataset(folder).pixels[:3])


def test_the_caption_file_has_one_json_line_for_every_scene(folder):
    lines = (folder / "captions.jsonl").read_text().splitlines()
    assert len(lines) == NUM_SCENES
    assert set(json.loads(lines[0])) == {"caption", "kind", "objects", "background", "relation", "is_held_out"}


def test_a_rendering_that_was_stopped_goes_on_and_ends_up_the_same(folder, tmp_path):
    whole = np.load(folder / "pixels.npy").copy()
    np.save(tmp_path / "pixels.npy", np.zeros_like(whole))
    (tmp_path / "world.json").write_text((folder / "world.json").read_text())
    (tmp_path / "captions.parts").mkdir()
    first_part = (folder / "captions.parts" / "000000.jsonl").read_text()
    (tmp_path / "captions.parts" / "000000.jsonl").write_text(first_part)
    reports = []
    render_quietly(EmojiWorld(OBJECTS, 16, 5), NUM_SCENES, tmp_path, reports.append)
    assert len(reports) == 1
    resumed = np.load(tmp_path / "pixels.npy")
    assert np.array_equal(resumed[CHUNK_SCENES:], whole[CHUNK_SCENES:])
    assert not resumed[:CHUNK_SCENES].any()  # the finished chunk was left alone
    assert (tmp_path / "captions.jsonl").read_text() == (folder / "captions.jsonl").read_text()


def test_only_finished_chunks_are_seen_while_rendering_goes_on(folder, tmp_path):
    np.save(tmp_path / "pixels.npy", np.load(folder / "pixels.npy"))
    (tmp_path / "world.json").write_text((folder / "world.json").read_text())
    (tmp_path / "captions.parts").mkdir()
    (tmp_path / "captions.parts" / "000001.jsonl").write_text((folder / "captions.parts" / "000001.jsonl").read_text())
    assert len(load_dataset(tmp_path).pixels) == 0


def test_a_folder_of_another_world_is_refused(folder):
    with pytest.raises(ValueError, match="another world"):
        render_dataset(EmojiWorld(OBJECTS, 16, seed=6), NUM_SCENES, folder)
