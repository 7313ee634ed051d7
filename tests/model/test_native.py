import logging
import shutil

import pytest

from model import native
from model.native import load_native


@pytest.fixture(autouse=True)
def nothing_loaded():
    load_native.cache_clear()
    yield
    load_native.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) here")
def test_code_is_compiled_once_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    library = load_native("winograd_tiles")
    assert library.emmdit_spread
    assert load_native("winograd_tiles") is library
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_one_does_without_and_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with caplog.at_level(logging.WARNING):
        assert load_native("winograd_tiles") is None
        assert load_native("winograd_tiles") is None
    assert [record.getMessage() for record in caplog.records] == [
        "no C compiler (cc, gcc, clang or what CC names): winograd_tiles goes on without code of its own"
    ]


def test_a_compiler_that_fails_is_quoted(monkeypatch, caplog):
    monkeypatch.setenv("CC", "false")
    with caplog.at_level(logging.WARNING):
        assert load_native("winograd_tiles") is None
    assert "which can't be compiled: Command" in caplog.text
