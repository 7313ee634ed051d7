"""A whole evaluation on a tiny bundle that draws noise, with a judge that has read the script."""

import json

import numpy as np
import pytest
from PIL import Image

from model.engine import Engine
from model.evaluation.detections import Detection
from model.evaluation.errors import EvaluationError
from model.evaluation.evaluate import SHEET_PICTURES_PER_TASK, draw_images, evaluate, score_bundle
from model.evaluation.jury import Jury, why_not_judged
from model.evaluation.prompt_sets import load_prompts
from model.evaluation.prompts import PromptEntry, Wanted, entry_line
from model.evaluation.report import report_values, table, write_report
from model.evaluation.rules import Thresholds
from model.evaluation.run import Options, open_run, plan_run, weights_digest
from model.evaluation.shots import Pace, picture_seed
from tests.support.tiny_bundle import write_tiny_bundle

ENTRIES = (
    PromptEntry("single_object", "a photo of a cat", (Wanted("cat", 1),)),
    PromptEntry("single_object", "a photo of a dog", (Wanted("dog", 1),)),
    PromptEntry("colors", "a photo of a red cat", (Wanted("cat", 1, "red"),)),
    PromptEntry("colors", "a photo of a blue cat", (Wanted("cat", 1, "blue"),), is_held_out=True),
    PromptEntry("colors", "a photo of a red dog", (Wanted("dog", 1, "red"),), is_held_out=True),
)
OPTIONS = Options(steps=1, guidance=0.0, batch_rows=2, device="cpu")
WORDS = ("a", "photo", "of", "cat", "dog", "red", "blue")


class ScriptedJudge:
    """Sees one red cat in every picture, and remembers what it was shown."""

    def __init__(self):
        self.shown = []

    def look(self, pictures):
        self.shown += list(pictures)
        return [(Detection("cat", "red", (0.2, 0.2, 0.8, 0.8), 0.9),) for _ in pictures]


def make_jury():
    published = {"real": {"overall": 0.98}, "shuffled": {"overall": 0.02}}
    return Jury(ScriptedJudge(), Thresholds(), "scripted 1", published)


@pytest.fixture
def jury():
    return make_jury()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", vocabulary=WORDS)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    path.write_text("".join(f"{entry_line(entry)}\n" for entry in ENTRIES), "utf-8")
    return load_prompts(path, "test")


@pytest.fixture(scope="module")
def engine_and_run(bundle, prompts):
    return open_run(bundle, prompts, OPTIONS)


@pytest.fixture(scope="module")
def evaluation(engine_and_run):
    return evaluate(*engine_and_run, make_jury())


def test_every_prompt_is_drawn_judged_and_counted(engine_and_run, jury):
    evaluation = evaluate(*engine_and_run, jury)
    assert [picture.verdict.is_correct for picture in evaluation.pictures] == [True, False, True, False, False]
    assert evaluation.scores.tasks["single_object"].share == 0.5
    assert evaluation.scores.overall == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert len(jury.judge.shown) == len(ENTRIES)


def test_seen_and_held_out_are_counted_apart(evaluation):
    assert evaluation.scores_where(is_held_out=False).tasks["colors"].share == 1.0
    assert evaluation.scores_where(is_held_out=True).overall == 0.0


def test_the_same_run_gives_the_same_figures_and_pictures_again(bundle, prompts):
    found = []
    for _ in range(2):
        jury = Jury(ScriptedJudge(), Thresholds(), "scripted 1", {})
        values = report_values(score_bundle(bundle, prompts, OPTIONS, jury=jury))
        assert values.pop("seconds_per_picture") > 0
        found.append((values, jury.judge.shown))
    assert found[0][0] == found[1][0]
    assert all(np.array_equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


def test_seeds_differ_between_runs_streams_prompts_and_pictures_but_not_with_how_many_there_are():
    places = [(0, "test", 0, 0), (1, "test", 0, 0), (0, "tuning", 0, 0), (0, "test", 1, 0), (0, "test", 0, 1)]
    assert len({picture_seed(*place) for place in places}) == len(places)
    assert picture_seed(0, "test", 5, 0) == 306987557


def test_more_pictures_of_a_prompt_join_the_first_one(engine_and_run, prompts, jury):
    engine, run = engine_and_run
    many = plan_run(engine, prompts, Options(steps=1, guidance=0.0, images_per_prompt=2, batch_rows=4))
    pictures = evaluate(engine, many, jury).pictures
    assert len(pictures) == 2 * len(ENTRIES)
    firsts = [picture.shot.recipe.seed for picture in pictures if picture.shot.image_index == 0]
    assert firsts == [picture.shot.recipe.seed for picture in evaluate(engine, run, jury).pictures]


def test_what_is_not_asked_for_is_the_models_own_setting(bundle, prompts):
    _, run = open_run(bundle, prompts, Options(device="cpu"))
    assert (run.settings.steps, run.settings.guidance) == (bundle.card.default_steps, bundle.card.default_guidance)


def test_a_device_that_is_not_there_is_refused(bundle, prompts):
    with pytest.raises(EvaluationError, match="cuda:9"):
        open_run(bundle, prompts, Options(device="cuda:9"))


def test_a_model_in_training_can_be_scored_without_a_file(bundle, prompts, jury):
    engine = Engine.load(bundle, "cpu")
    assert evaluate(engine, plan_run(engine, prompts, OPTIONS), jury).scores.num_pictures == len(ENTRIES)


def test_other_weights_have_another_digest(bundle, tmp_path):
    assert weights_digest(bundle) == weights_digest(bundle)
    assert weights_digest(bundle) != weights_digest(write_tiny_bundle(tmp_path / "other", seed=5))


def test_the_table_says_what_was_scored_how_and_by_whom(evaluation):
    text = table(evaluation)
    assert text.startswith("EmojiGenEval of tiny random-0\n")
    assert "single object    0.500       1 / 2       0.500 (2)               -" in text
    assert "colors           0.333       1 / 3       1.000 (1)       0.000 (2)" in text
    assert "overall          0.417   +- " in text
    assert "mean of the 1 tasks with held-out prompts: seen 1.000, held out 0.000" in text
    assert "judge scripted 1 (ceiling 0.980, floor 0.020)" in text


def test_the_json_holds_scores_settings_and_every_verdict(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "out")
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert values["score"] == "EmojiGenEval"
    assert values["scores"]["all"]["tasks"]["colors"] == {"score": 1 / 3, "num_right": 1, "num_pictures": 3}
    assert values["scores"]["held_out"]["overall"] == 0.0
    assert values["run"]["steps"] == 1
    assert values["run"]["prompts"] == "few.jsonl"
    assert values["judge"]["published"]["real"] == {"overall": 0.98}
    wrong = values["pictures"][1]
    assert (wrong["prompt"], wrong["is_correct"], wrong["reason"]) == (
        "a photo of a dog",
        False,
        "1 dog wanted, 0 found",
    )
    assert wrong["detections"] == [{"class": "cat", "color": "red", "box": [0.2, 0.2, 0.8, 0.8], "confidence": 0.9}]


def test_the_sheet_frames_right_pictures_green_and_wrong_ones_red(evaluation, tmp_path):
    write_report(evaluation, tmp_path)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    for color in ((50, 205, 50), (255, 0, 0)):  # limegreen, red
        assert (pixels == color).all(-1).any()


def test_the_sheet_shows_prompts_from_all_over_the_file_whatever_the_verdicts(evaluation):
    assert len(evaluation.on_sheet) == len(ENTRIES)
    assert len(ENTRIES) < SHEET_PICTURES_PER_TASK


def test_a_model_that_draws_anything_and_classes_that_the_judge_lacks_are_not_judged(bundle, prompts, tmp_path):
    assert why_not_judged(bundle.card, prompts) is None
    photographer = write_tiny_bundle(tmp_path / "any").card
    assert "draws anything" in why_not_judged(photographer, prompts)
    path = tmp_path / "dragons.jsonl"
    dragon = PromptEntry("single_object", "a photo of a dragon", (Wanted("dragon", 1),))
    path.write_text(f"{entry_line(dragon)}\n", "utf-8")
    assert why_not_judged(bundle.card, load_prompts(path, "test")) == "the judge doesn't know dragon"


def test_images_are_kept_and_a_second_run_draws_only_what_is_missing(engine_and_run, tmp_path, jury):
    engine, run = engine_and_run
    lines = []
    draw_images(engine, run, tmp_path / "images", report=lines.append)
    samples = sorted((tmp_path / "images").glob("*/samples/*.png"))
    assert len(samples) == len(ENTRIES)
    before = samples[3].read_bytes()
    samples[3].unlink()
    again = evaluate(engine, run, jury, images_out=tmp_path / "images", report=lines.append)
    assert samples[3].read_bytes() == before
    assert again.scores.num_pictures == len(ENTRIES)
    assert lines[0] == "few.jsonl: 5 pictures"
    assert lines[1] == f"few.jsonl: 5 pictures, 4 of them already in {tmp_path / 'images'}"


def test_kept_images_of_other_settings_are_refused(engine_and_run, prompts, tmp_path):
    engine, run = engine_and_run
    draw_images(engine, run, tmp_path / "images")
    other = plan_run(engine, prompts, Options(steps=2, guidance=0.0), run.weights_sha256)
    with pytest.raises(EvaluationError, match=r"another run \(steps 1\)"):
        draw_images(engine, other, tmp_path / "images")


def test_progress_is_told_with_the_time_that_is_left(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now_s)
    lines = []
    pace = Pace(40, lines.append)
    assert pace.seconds_per_picture is None
    pace.count(10, 5.0)
    assert lines == []
    now_s = 120.0
    pace.count(10, 15.0)
    assert lines == ["20 of 40 drawn, 1.00 s each, 0.3 min left"]
    assert pace.seconds_per_picture == 1.0
