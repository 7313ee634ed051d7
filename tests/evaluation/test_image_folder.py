"""The folder layout of GenEval's public scorer."""

import json
import re

import numpy as np
import pytest

from model.evaluation.errors import EvaluationError
from model.evaluation.image_folder import ImageFolder
from model.evaluation.prompts import PromptEntry, Wanted

ENTRIES = (
    PromptEntry("single_object", "a photo of a cat", (Wanted("cat", 1),)),
    PromptEntry("counting", "a photo of two cats", (Wanted("cat", 2),), (Wanted("cat", 3),)),
)
DRAWN_BY = {"model": "tiny", "seed": 0}
PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


@pytest.fixture
def folder(tmp_path):
    folder = ImageFolder(tmp_path / "images")
    folder.claim(DRAWN_BY, ENTRIES)
    return folder


def found_by_the_public_scorer(root):
    """What evaluate_images.py finds: folders with a number for a name, in them whatever matches its pattern."""
    return {
        (path.parent.parent.name, path.name)
        for path in root.glob("*/samples/*")
        if path.parent.parent.name.isdigit() and re.match(r"\d+\.png", path.name)
    }


def test_a_picture_lies_where_the_public_scorer_looks_and_comes_back_as_it_was(folder):
    folder.store(1, 0, PICTURE)
    folder.store(1, 3, PICTURE)
    assert found_by_the_public_scorer(folder.root) == {("00001", "00000.png"), ("00001", "00003.png")}
    assert np.array_equal(folder.load(1, 3), PICTURE)


def test_every_prompt_has_its_line_beside_its_pictures(folder):
    values = json.loads((folder.root / "00001" / "metadata.jsonl").read_text("utf-8"))
    assert values["prompt"] == "a photo of two cats"
    assert values["exclude"] == [{"class": "cat", "count": 3}]


def test_a_folder_knows_what_it_has(folder):
    folder.store(0, 1, PICTURE)
    assert folder.has(0, 1)
    assert not folder.has(0, 0)
    assert not folder.has(1, 1)


def test_a_run_cut_short_leaves_no_half_picture(folder, monkeypatch):
    def fail(self, target, **options):
        target.write_bytes(b"half a")
        raise OSError("disk full")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.store(0, 0, PICTURE)
    assert not folder.has(0, 0)
    assert found_by_the_public_scorer(folder.root) == set()


def test_pictures_of_another_run_are_not_mixed_in(folder):
    folder.claim(DRAWN_BY, ENTRIES)
    with pytest.raises(EvaluationError, match=r"pictures of another run \(seed 0\)"):
        folder.claim({**DRAWN_BY, "seed": 1}, ENTRIES)


def test_pictures_of_nobody_knows_whom_are_not_mixed_in(folder):
    folder.store(0, 0, PICTURE)
    (folder.root / "drawn_by.json").unlink()
    with pytest.raises(EvaluationError, match="pictures of another run"):
        folder.claim(DRAWN_BY, ENTRIES)
