"""Every input that a search found worth keeping, once more. `python -m tests.fuzz TARGET` searches on."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_what_once_was_tried_holds_still(name):
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(CORPUS)}: {path.read_bytes()[:200]!r}") from error


def test_each_target_has_a_corpus_and_each_corpus_a_target():
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
