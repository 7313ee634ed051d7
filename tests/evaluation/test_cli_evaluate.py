"""`emmdit evaluate` from end to end on a tiny bundle."""

import json
import sys

import pytest
from typer.testing import CliRunner

from model.evaluation.detections import Detection
from model.evaluation.jury import Jury
from model.evaluation.prompts import PromptEntry, Wanted, entry_line
from model.evaluation.rules import Thresholds
from service.cli.app import app
from service.errors import ConfigurationError
from tests.support.tiny_bundle import write_tiny_bundle

ENTRIES = (
    PromptEntry("single_object", "a photo of a cat", (Wanted("cat", 1),)),
    PromptEntry("counting", "a photo of two cats", (Wanted("cat", 2),), (Wanted("cat", 3),)),
)
FAST = ("--steps", "1", "--guidance", "0", "--device", "cpu")


class OneCatEverywhere:
    def look(self, pictures):
        return [(Detection("cat", "red", (0.2, 0.2, 0.8, 0.8), 0.9),) for _ in pictures]


@pytest.fixture(autouse=True)
def jury(monkeypatch):
    jury = Jury(OneCatEverywhere(), Thresholds(), "scripted 1", {})
    monkeypatch.setattr("model.evaluation.evaluate.scoring_jury", lambda: jury)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    return str(write_tiny_bundle(folder, vocabulary=("a", "photo", "of", "two", "cat", "cats")).folder)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text("".join(f"{entry_line(entry)}\n" for entry in ENTRIES), "utf-8")
    return str(path)


def run(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_model_is_scored_and_the_report_written_without_the_renderer(bundle, prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)  # as where the train extra is not installed
    result = run(bundle, "--prompts", prompts, *FAST, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0
    assert "EmojiGenEval of tiny" in result.output
    assert "overall          0.500" in result.output
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert values["scores"]["all"]["overall"] == 0.5
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_without_a_judge_pictures_are_only_drawn(bundle, prompts, tmp_path):
    images = tmp_path / "images"
    result = run(
        bundle, "--prompts", prompts, *FAST, "--no-judge", "--images-out", str(images), "--images-per-prompt", "2"
    )
    assert "not judged (--no-judge)" in result.output
    assert [path.name for path in sorted((images / "00001" / "samples").iterdir())] == ["00000.png", "00001.png"]
    assert json.loads((images / "00000" / "metadata.jsonl").read_text("utf-8"))["prompt"] == "a photo of a cat"


def test_a_model_of_anything_is_drawn_and_not_judged(prompts, tmp_path):
    photographer = write_tiny_bundle(tmp_path / "any")
    result = run(str(photographer.folder), "--prompts", prompts, *FAST, "--images-out", str(tmp_path / "images"))
    assert "not judged (tiny draws anything" in result.output
    assert (tmp_path / "images" / "00000" / "samples" / "00000.png").is_file()


def test_a_run_without_judge_and_pictures_is_refused(bundle, prompts):
    with pytest.raises(ConfigurationError, match=r"nothing would be judged \(--no-judge\): add --images-out DIR"):
        run(bundle, "--prompts", prompts, "--no-judge")


def test_a_model_without_the_words_is_told_which(bundle):
    with pytest.raises(ConfigurationError, match=r"lacks words of even emoji_12\.jsonl: above, an, and, apple"):
        run(bundle)
