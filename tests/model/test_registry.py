"""`emmdit models add`: a bundle of one's own, judged, copied or linked, and found by its name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from model.bundle import read_bundle
from model.catalog import find_card, list_models, resolve_bundle
from model.errors import BundleError, ManifestError, MissingFiles, TruncatedFile, UnknownTensors, UnsafeFile
from model.registry import add_bundle
from model.weights import load_bundle
from service.cli.app import app
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("made"), name="mine")


def copy_of(made, folder, **values):
    """A copy that a test may spoil, with other values in its manifest."""
    shutil.copytree(made.folder, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | values))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return copy_of(made, tmp_path / "bundle")


@pytest.fixture
def models_dir(tmp_path):
    return tmp_path / "models"


def test_an_added_bundle_is_served_by_its_name_without_the_original(folder, models_dir):
    (folder / "LICENSE-mine.txt").write_text("free")
    (folder / "sheet.png").write_text("not needed")
    add_bundle(folder, models_dir)
    shutil.rmtree(folder)
    assert find_card("mine", models_dir).description == "A tiny model with random values, for tests"
    assert resolve_bundle("mine", models_dir).folder == models_dir / "mine"
    load_bundle(resolve_bundle("mine", models_dir))
    status = list_models(models_dir)[-1]
    assert (status.card.name, status.is_ready) == ("mine", True)
    assert (models_dir / "mine" / "LICENSE-mine.txt").is_file()
    assert not (models_dir / "mine" / "sheet.png").exists()
    assert [path.name for path in models_dir.iterdir()] == ["mine"]


def test_a_linked_bundle_stays_where_it_is(folder, models_dir):
    add_bundle(folder, models_dir, is_linked=True)
    assert (models_dir / "mine").is_symlink()
    assert resolve_bundle("mine", models_dir).folder == folder.resolve()
    assert list_models(models_dir)[-1].is_ready


def test_parts_outside_the_folder_are_named_not_copied(folder, models_dir, tmp_path):
    (folder / "autoencoder").rename(tmp_path / "elsewhere")
    values = json.loads((folder / "bundle.json").read_text())
    values["parts"]["autoencoder"] = "../elsewhere"
    (folder / "bundle.json").write_text(json.dumps(values))
    bundle = add_bundle(folder, models_dir)
    assert bundle.parts.autoencoder == tmp_path / "elsewhere"
    assert not (models_dir / "mine" / "autoencoder").exists()
    assert resolve_bundle("mine", models_dir) == bundle


@pytest.mark.parametrize("is_linked", [False, True])
def test_a_taken_name_is_kept_unless_it_may_be_replaced(made, folder, models_dir, tmp_path, is_linked):
    add_bundle(folder, models_dir, is_linked=is_linked)
    other = copy_of(made, tmp_path / "other", version="2")
    with pytest.raises(BundleError, match="is there already; add --replace to put"):
        add_bundle(other, models_dir)
    assert find_card("mine", models_dir).version == "random-0"
    add_bundle(other, models_dir, is_replacing=True)
    assert find_card("mine", models_dir).version == "2"
    assert read_bundle(folder).card.version == "random-0"
    assert [path.name for path in models_dir.iterdir()] == ["mine"]


def test_a_bundle_is_not_added_to_where_it_lies(folder, models_dir):
    added = add_bundle(folder, models_dir)
    with pytest.raises(BundleError, match=r"is .*mine already"):
        add_bundle(added.folder, models_dir, is_replacing=True)
    assert resolve_bundle("mine", models_dir) == added


@pytest.mark.parametrize("name", ["demo", "parts"])
def test_names_that_mean_something_else_are_refused(made, tmp_path, models_dir, name):
    reserved = copy_of(made, tmp_path / "reserved", name=name)
    with pytest.raises(BundleError, match="is reserved; change"):
        add_bundle(reserved, models_dir)


def test_what_is_wrong_with_a_bundle_is_said_before_anything_is_copied(folder, models_dir):
    transformer, pickle = folder / "transformer.safetensors", folder / "autoencoder" / "weights.bin"
    pickle.write_bytes(b"")
    with pytest.raises(UnsafeFile, match=r"weights\.bin: files ending in \.bin can carry code"):
        add_bundle(folder, models_dir)
    pickle.unlink()
    whole = transformer.read_bytes()
    save_file(load_file(transformer) | {"extra": torch.zeros(1)}, transformer)
    with pytest.raises(UnknownTensors, match="1 unknown tensors: extra"):
        add_bundle(folder, models_dir)
    transformer.write_bytes(whole[:-100])
    with pytest.raises(TruncatedFile):
        add_bundle(folder, models_dir)
    transformer.unlink()
    with pytest.raises(MissingFiles, match=r"transformer\.safetensors"):
        add_bundle(folder, models_dir)
    (folder / "bundle.json").write_text("{}")
    with pytest.raises(ManifestError, match="format_version: missing"):
        add_bundle(folder, models_dir)
    assert not models_dir.exists()


def test_the_command_adds_and_lists(folder, models_dir):
    runner, environment = CliRunner(), {"EMMDIT_MODELS_DIR": str(models_dir)}
    added = runner.invoke(app, ["models", "add", str(folder), "--link"], env=environment)
    assert added.exit_code == 0, added.output
    assert "serve it: emmdit serve --model mine" in added.output
    listed = runner.invoke(app, ["models"], env=environment)
    assert "mine                   ready     64x64, 4 steps, guidance 2" in listed.output
    again = runner.invoke(app, ["models", "add", str(folder)], env=environment)
    assert isinstance(again.exception, BundleError)
