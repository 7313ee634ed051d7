"""`emmdit train prepare`, `recipe` and `recipe-export`, then `emmdit models add`: as a researcher would type them."""

import signal

import pytest
from typer.testing import CliRunner

from model.catalog import resolve_bundle
from model.training.recipe import RECIPES_FOLDER
from model.weights import verify_bundle
from service.cli.app import app
from service.errors import ConfigurationError
from tests.support.pictures import write_pictures
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def emmdit(tmp_path):
    """Runs a command; returns its output. Signal handlers are put back: training sets its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def invoke(*words):
        environment = {"EMMDIT_MODELS_DIR": str(tmp_path / "models")}
        result = CliRunner().invoke(app, [str(word) for word in words], env=environment)
        if result.exception is not None:
            raise result.exception
        return result.output

    yield invoke
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_pictures_become_a_model_that_is_served_by_its_name(emmdit, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    bundle.parts.transformer.unlink()  # it is to be trained
    pictures, data, out = write_pictures(tmp_path / "pictures"), tmp_path / "data", tmp_path / "out"
    assert "12 pictures in 1 shards" in emmdit(
        "train", "prepare", pictures, data, "--bundle", bundle.folder, "--device", "cpu", "--text", "captions"
    )
    text = (RECIPES_FOLDER / "smoke.toml").read_text()
    text = text.replace("max_steps = 100", "max_steps = 2").replace("batch_size = 32", "batch_size = 8")
    (tmp_path / "short.toml").write_text(text)
    told = emmdit("train", "recipe", tmp_path / "short.toml", "--data", data, "--out", out, "--rows-per-forward", 4)
    assert "smoke: 12 samples, " in told
    assert "1 device(s) x 2 forward(s) x 4 rows" in told
    checkpoint = out / "recipe.checkpoint.safetensors"
    emmdit("train", "recipe-export", tmp_path / "mine", "--name", "mine", "--checkpoint", checkpoint)
    emmdit("models", "add", tmp_path / "mine")
    verify_bundle(resolve_bundle("mine", tmp_path / "models"), lambda line: None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepare", "here", "there", "--bundle", "demo", "--shard-of", "3/2"], r"--shard-of '3/2': must be i/n"),
        (
            ["prepare", "here", "there", "--bundle", "demo", "--text", "ids"],
            r"--text 'ids': must be embeddings or captions",
        ),
        (["prepare", "here", "there", "--bundle", "demo", "--device", "tpu"], r"--device: "),
        (["prepare", "gone", "there", "--bundle", "demo"], r"gone: neither a folder nor a \.tar file"),
        (["recipe", "emmdit-256", "--data", "gone"], r"no such file; shipped recipes"),
        (["recipe", "smoke", "--data", "gone"], r"gone holds no prepared data"),
    ],
)
def test_mistakes_end_a_command_with_a_sentence(emmdit, words, message):
    with pytest.raises(ConfigurationError, match=message):
        emmdit("train", *words)
