"""Fitting a bundle's previews from pictures, as an operator does it."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.bundle import name_preview, read_bundle
from model.engine import Engine
from model.preview import PREVIEW_NAME
from model.training.adapted_bundle import write_adapted_bundle
from model.training.preview_trainer import PreviewConfig, fit_preview
from model.training.sources import SourceError
from model.training.student_bundle import write_student_bundle
from model.transformer import EMMDiT
from service.cli.app import app
from tests.support.pictures import write_pictures
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def pictures(tmp_path):
    """24 of them, and one that can't be read."""
    for name in ("one", "other"):
        write_pictures(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "zz.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_a_fit_is_better_than_none_and_is_what_the_bundle_draws_with_from_then_on(tmp_path, pictures):
    bundle, lines = write_tiny_bundle(tmp_path / "tiny"), []
    figures = fit_preview(PreviewConfig(bundle.folder, pictures, batch_size=5, device="cpu"), report=lines.append)
    assert (figures.num_fitted, figures.num_held_out) == (22, 2)
    assert figures.fitted_db > figures.grey_db + 3
    assert figures.learnt_db > figures.grey_db
    assert lines[0].startswith("passed over: zz.png: unreadable picture")
    assert lines[-1].splitlines()[-1].startswith("written: ")
    found = read_bundle(bundle.folder)
    assert found.parts.preview == bundle.folder / PREVIEW_NAME
    assert (found.card, found.config) == (bundle.card, bundle.config)
    assert Engine.load(found, "cpu")._autoencoder.previews.given is not None


def test_no_more_pictures_are_read_than_were_asked_for(tmp_path, pictures):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    figures = fit_preview(PreviewConfig(bundle.folder, pictures, max_pictures=20, device="cpu"))
    assert figures.num_fitted + figures.num_held_out == 20
    assert np.isfinite(figures.fitted_db)


def test_too_few_pictures_leave_the_bundle_as_it_was(tmp_path):
    bundle, pictures = write_tiny_bundle(tmp_path / "tiny"), write_pictures(tmp_path / "pictures")
    with pytest.raises(SourceError, match="12 pictures that can be read; 20 are needed"):
        fit_preview(PreviewConfig(bundle.folder, pictures, device="cpu"))
    assert read_bundle(bundle.folder) == bundle


def test_the_command_tells_how_good_previews_are(tmp_path, pictures):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    words = ["train", "preview", str(bundle.folder), str(pictures), "--device", "cpu"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "dB  fitted" in result.output
    assert (bundle.folder / PREVIEW_NAME).stat().st_size < 30_000


def test_relatives_of_a_bundle_keep_its_previews(tmp_path):
    bundle = name_preview(write_tiny_bundle(tmp_path / "base"), PREVIEW_NAME)
    adapter = write_tiny_bundle(tmp_path / "other", adapter_name="lora").parts.adapter
    with torch.device("meta"):
        network = EMMDiT(bundle.config)
    network = network.to_empty(device="cpu")
    student = write_student_bundle(bundle, network, tmp_path / "dist", name="dist", version="1", num_steps=4)
    adapted = write_adapted_bundle(bundle, adapter, tmp_path / "grpo", name="grpo", version="1")
    assert student.parts.preview == adapted.parts.preview == bundle.folder / PREVIEW_NAME
