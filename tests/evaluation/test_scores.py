"""Verdicts counted as GenEval counts them."""

import math

import pytest

from model.evaluation.prompts import PromptEntry
from model.evaluation.rules import Verdict
from model.evaluation.scores import count_verdicts


def verdicts(**tasks):
    return [
        (PromptEntry(task, "", ()), Verdict(is_correct, "")) for task, found in tasks.items() for is_correct in found
    ]


def test_every_task_weighs_the_same_however_many_pictures_it_has():
    scores = count_verdicts(verdicts(colors=[True] * 9 + [False], counting=[False, True]))
    assert scores.tasks["colors"].share == 0.9
    assert scores.overall == pytest.approx(0.7)
    assert scores.num_pictures == 12


def test_tasks_that_do_not_occur_do_not_count_and_the_order_is_genevals():
    scores = count_verdicts(verdicts(position=[True], single_object=[False]))
    assert list(scores.tasks) == ["single_object", "position"]
    assert scores.overall == 0.5
    assert scores.only(["position", "colors"]).overall == 1.0


def test_the_standard_error_is_that_of_a_mean_of_shares():
    scores = count_verdicts(verdicts(colors=[True, False] * 8, counting=[True] * 4))
    assert scores.standard_error == pytest.approx(math.sqrt(0.25 / 16) / 2)


def test_no_verdicts_have_no_score():
    assert math.isnan(count_verdicts([]).overall)
    assert math.isnan(count_verdicts([]).standard_error)
