"""How `emmdit` reads what it is told."""

import os

import pytest
from typer.testing import CliRunner

from model.errors import DuplicateModel
from service.cli.app import app
from service.errors import ConfigurationError


@pytest.fixture
def given(monkeypatch):
    """The settings with which `emmdit gateway` would run."""
    for name in list(os.environ):
        if name.upper().startswith("EMMDIT_"):
            monkeypatch.delenv(name)
    seen = []
    monkeypatch.setattr("service.gateway.server.run_gateway", seen.append)
    return seen


def test_models_are_named_by_one_flag_or_several(given):
    result = CliRunner().invoke(app, ["gateway", "--model", "demo-grpo", "--model", "demo,demo-dist"])
    assert result.exit_code == 0, result.output
    assert given[0].models == ("demo-grpo", "demo", "demo-dist")


def test_without_the_flag_the_variable_counts(given, monkeypatch):
    monkeypatch.setenv("EMMDIT_MODELS", "demo-dist")
    assert CliRunner().invoke(app, ["gateway"]).exit_code == 0
    assert given[0].models == ("demo-dist",)


def test_a_model_that_is_named_twice_is_refused(given):
    result = CliRunner().invoke(app, ["gateway", "--model", "demo", "--model", "demo"])
    assert isinstance(result.exception, ConfigurationError)
    assert "demo is named twice" in result.exception.message


def test_two_folders_with_one_name_are_refused_before_anything_starts(given):
    from model.catalog import SHIPPED_FOLDER

    result = CliRunner().invoke(app, ["serve", "--model", f"demo,{SHIPPED_FOLDER / 'demo'}"])
    assert isinstance(result.exception, DuplicateModel)
    assert "both called 'demo'" in str(result.exception)
