"""Preparing data: from folders, tables, WebDataset shards and rendered worlds to shards that training can index."""

import json
import os
import tarfile
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.autodecode import Decoder
from webdataset.tariterators import group_by_keys, tar_file_expander

from model.autoencoder import Autoencoder
from model.training import prepare as preparing
from model.training.encoders import load_text_encoder
from model.training.prepare import PrepareConfig, prepare
from model.training.prepared_data import PreparedData
from model.training.shards import ShardError, ShardReport, ShardWriter, read_report
from model.training.sources import SourceError
from model.training.world import EmojiWorld
from tests.support.pictures import CAPTIONS, write_pictures
from tests.support.trainer_runs import render_quietly


@pytest.fixture(scope="module")
def loaded():
    """Encoders by what makes them differ: loading takes longer than all else here."""
    return {}


@pytest.fixture(autouse=True)
def load_encoders_once(loaded, monkeypatch):
    def load(config, worker, load=PrepareConfig.load_encoders):
        key = (config.bundle, config.is_text_encoded, config.features)
        if key not in loaded:
            loaded[key] = load(config, worker)
        return loaded[key]

    monkeypatch.setattr(PrepareConfig, "load_encoders", load)


@pytest.fixture
def config(tiny_bundle, tmp_path):
    """Twelve pictures in shards of five."""
    write_pictures(tmp_path / "pictures")
    return PrepareConfig(
        tmp_path / "pictures", tmp_path / "data", tiny_bundle.folder, shard_samples=5, batch_size=4, device="cpu"
    )


def prepare_quietly(config):
    lines = []
    prepare(config, report=lines.append)
    return lines


def test_latents_and_embeddings_are_what_the_bundles_own_parts_make_of_picture_and_caption(config, tiny_bundle):
    lines = prepare_quietly(config)
    data = PreparedData([config.target])
    assert len(data) == 12
    assert "12 pictures in 3 shards; 0 had to be enlarged, 0 captions were cut, 0 samples skipped" in lines[-1]
    batch = data.read(np.array([7, 0]))
    autoencoder = Autoencoder.load(tiny_bundle.parts.autoencoder, num_channels=4)
    text = load_text_encoder(tiny_bundle, torch.device("cpu"), torch.float32)
    for row, index in enumerate((7, 0)):
        with Image.open(config.source / f"{index:02d}.png") as image:
            pixels = np.array(image)[:, 8:72]  # of 80x64: the middle 64x64
        expected = autoencoder.encode(pixels[None])[0].numpy()
        np.testing.assert_allclose(batch.latents[row].astype(np.float32), expected, rtol=2e-3, atol=2e-3)
        caption = text.clean(CAPTIONS[index])
        np.testing.assert_allclose(batch.text[row].astype(np.float32), text.encode([caption])[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(data.empty_text.astype(np.float32), text.encode([""])[0], rtol=2e-3, atol=2e-3)


def test_padding_is_kept_because_the_encoder_says_something_of_the_caption_there(config):
    prepare_quietly(config)
    text = PreparedData([config.target]).read(np.arange(2)).text.astype(np.float32)
    assert np.abs(text[0, -1] - text[1, -1]).max() > 0.01


def test_any_webdataset_reader_takes_the_shards(config):
    prepare_quietly(config)
    with (config.target / "shard-000000.tar").open("rb") as file:
        members = tar_file_expander([{"url": "a shard", "stream": file}])
        samples = [Decoder([]).decode(sample) for sample in group_by_keys(members)]
    assert [sample["__key__"] for sample in samples] == [f"shard-000000-{index:06d}" for index in range(5)]
    assert samples[0]["latent.npy"].shape == (4, 8, 8)
    assert samples[0]["json"] == {"caption": "a red square", "name": "00.png", "num_tokens": 13}


def test_features_are_stored_and_read_only_where_wanted(config, tiny_dinov2):
    prepare_quietly(replace(config, features=tiny_dinov2))
    data = PreparedData([config.target])
    assert data.read(np.arange(3)).features is None
    features = data.read(np.arange(3), with_features=True).features
    assert features.shape == (3, 256, 24)
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], features[1])


def test_captions_alone_can_be_stored(config):
    prepare_quietly(replace(config, is_text_encoded=False))
    data = PreparedData([config.target])
    batch = data.read(np.array([11, 3]))
    assert batch.text is None
    assert data.empty_text is None
    assert batch.captions == (CAPTIONS[11].lower(), CAPTIONS[3].lower())


def test_finished_shards_are_not_done_again_and_the_rest_is(config, monkeypatch):
    prepare_quietly(config)
    before = {path.name: path.read_bytes() for path in config.target.iterdir()}
    (config.target / "shard-000001.json").unlink()
    done = []
    original = preparing._prepare_shard
    monkeypatch.setattr(preparing, "_prepare_shard", lambda *args: done.append(args[-1]) or original(*args))
    prepare_quietly(config)
    assert done == [1]
    assert {path.name: path.read_bytes() for path in config.target.iterdir()} == before


def test_an_interrupted_shard_leaves_nothing_and_unfinished_data_is_refused(config, monkeypatch):
    def add_two_then_stop(self, sample, add=ShardWriter.add):
        if self.num_samples == 2:
            raise KeyboardInterrupt
        add(self, sample)

    monkeypatch.setattr(ShardWriter, "add", add_two_then_stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_quietly(config)
    assert sorted(path.name for path in config.target.iterdir()) == ["dataset.json", "empty_text.npy"]
    with pytest.raises(ShardError, match="0 of 3 shards are finished; run emmdit train prepare again"):
        PreparedData([config.target])


def test_what_a_killed_process_left_is_cleared_away(config):
    prepare_quietly(config)
    host = os.uname().nodename
    dead, alive = (config.target / f"shard-000000.tar.{host}-{pid}.part" for pid in (2**22 + 1, os.getppid()))
    for path in (dead, alive):
        path.write_bytes(b"half")
    prepare_quietly(config)
    assert not dead.exists()
    assert alive.exists()


def test_machines_share_the_shards(config):
    first, second = (prepare_quietly(replace(config, machine=machine, num_machines=2)) for machine in (0, 1))
    assert "3 shards of 12 pictures, 2 for this machine, 0 done already" in first[0]
    assert "1 for this machine" in second[0]
    assert len(PreparedData([config.target])) == 12


def test_broken_pictures_and_missing_captions_are_skipped_by_name(config):
    (config.source / "03.png").write_bytes((config.source / "03.png").read_bytes()[:200])
    (config.source / "04.png").write_bytes(b"not a picture")
    (config.source / "05.txt").unlink()
    (config.source / "06.txt").write_text("  \n")
    lines = prepare_quietly(config)
    assert len(PreparedData([config.target])) == 8
    assert "4 samples skipped" in "\n".join(lines)
    skipped = dict(read_report(config.target, 0).skipped + read_report(config.target, 1).skipped)
    assert sorted(skipped) == ["03.png", "04.png", "05.png", "06.png"]
    assert "truncated" in skipped["03.png"]
    assert "no caption" in skipped["05.png"]
    assert any("skipped 04.png: unreadable picture" in line for line in lines)


def test_a_sample_without_numbers_is_skipped_too(config, monkeypatch):
    original = Autoencoder.encode

    def encode(self, pictures):
        latents = original(self, pictures).clone()
        latents[0] = torch.inf
        return latents

    monkeypatch.setattr(Autoencoder, "encode", encode)
    prepare_quietly(replace(config, batch_size=5, shard_samples=12))
    assert [name for name, _ in read_report(config.target, 0).skipped] == ["00.png", "05.png", "10.png"]


def test_data_prepared_otherwise_and_a_source_that_grew_are_refused(config):
    prepare_quietly(config)
    with pytest.raises(ShardError, match=r"another way \(shard_samples differ\)|num_shards, shard_samples differ"):
        prepare_quietly(replace(config, shard_samples=6))
    Image.new("RGB", (64, 64)).save(config.source / "new.png")
    with pytest.raises(ShardError, match="source_digest differ"):
        prepare_quietly(config)


def test_a_table_of_captions_names_the_pictures(config):
    lines = [{"file_name": f"{index:02d}.png", "text": f"picture {index}"} for index in (2, 1)]
    (config.source / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    prepare_quietly(replace(config, is_text_encoded=False))
    assert PreparedData([config.target]).read(np.arange(2)).captions == ("picture 1", "picture 2")
    (config.source / "metadata.jsonl").write_text('{"file_name": "01.png"}\n')
    with pytest.raises(SourceError, match=r"metadata\.jsonl, line 1: not a JSON object with one of file_name"):
        prepare_quietly(config)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def png_bytes(color):
    buffer = BytesIO()
    Image.new("RGB", (64, 64), color).save(buffer, "png")
    return buffer.getvalue()


def test_webdataset_shards_are_taken_as_they_are_even_broken_ones(config, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    red, blue = png_bytes("red"), png_bytes("blue")
    two = {"x/1.png": red, "x/1.txt": b"Red", "x/2.png": blue, "x/2.json": b'{"caption": "blue"}'}
    write_tar(shards / "a.tar", two)
    write_tar(shards / "b.tar", {"3.png": red, "3.txt": b"three", "4.txt": b"four", "5.png": red, "5.txt": b"five"})
    whole = (shards / "b.tar").read_bytes()
    (shards / "b.tar").write_bytes(whole[: whole.index(b"5.txt") + 512 + 2])
    lines = prepare_quietly(replace(config, source=shards, is_text_encoded=False))
    assert PreparedData([config.target]).read(np.arange(3)).captions == ("red", "blue", "three")
    reasons = dict(read_report(config.target, 1).skipped)
    assert "broken shard: unexpected end of data" in reasons["source shard 1"]
    assert "unreadable picture" in reasons["b.tar/4"]
    assert reasons["b.tar/5"] == "no caption"
    assert "2 shards, 2 for this machine" in lines[0]


def test_a_rendered_world_is_a_source(config, tmp_path):
    render_quietly(EmojiWorld(("apple", "banana"), 64), 4, tmp_path / "world")
    prepare_quietly(replace(config, source=tmp_path / "world"))
    assert len(PreparedData([config.target])) == 4


@pytest.mark.slow
def test_several_processes_make_the_same_shards(config, tmp_path):
    prepare_quietly(config)
    prepare_quietly(replace(config, target=tmp_path / "other", num_workers=2))
    names = [path.name for path in config.target.iterdir()]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "other").iterdir())
    one, other = (PreparedData([folder]).read(np.arange(12)) for folder in (config.target, tmp_path / "other"))
    np.testing.assert_allclose(one.latents, other.latents, rtol=1e-2, atol=1e-2)


def test_damaged_and_foreign_data_are_named(config, tmp_path):
    prepare_quietly(config)
    with pytest.raises(ShardError, match="holds no prepared data"):
        PreparedData([tmp_path])
    (config.target / "shard-000002.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"shard-000002.tar: truncated: 512 bytes wanted at"):
        PreparedData([config.target]).read(np.array([11]))
    values = json.loads((config.target / "dataset.json").read_text())
    (config.target / "dataset.json").write_text(json.dumps(values | {"format_version": 9}))
    with pytest.raises(ShardError, match="this release reads format version 1, not 9"):
        PreparedData([config.target])


def test_folders_are_read_as_one_list_if_they_are_of_one_kind(config, tmp_path):
    prepare_quietly(config)
    data = PreparedData([config.target, config.target])
    assert len(data) == 24
    assert np.array_equal(data.read(np.array([13])).latents, data.read(np.array([1])).latents)
    assert data.fingerprint != PreparedData([config.target]).fingerprint
    prepare_quietly(replace(config, target=tmp_path / "captions", is_text_encoded=False))
    with pytest.raises(ShardError, match="captions stores"):
        PreparedData([config.target, tmp_path / "captions"])


def test_reports_come_back_as_they_were_written(config):
    prepare_quietly(config)
    assert read_report(config.target, 0) == ShardReport(5, 0, 0, ())
    assert read_report(config.target, 9) is None
