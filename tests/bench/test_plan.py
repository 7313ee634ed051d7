import itertools
import json
import random
import statistics

import pytest

from service.bench.plan import (
    PlannedRequest,
    Way,
    parse_way,
    plan_requests,
    poisson_times,
    read_trace,
    scale_times,
    write_trace,
)


def test_poisson_times_rise_at_the_rate_asked_for_and_follow_from_the_seed():
    times = poisson_times(5.0, 4000, random.Random(1))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times == poisson_times(5.0, 4000, random.Random(1))
    assert min(gaps) > 0
    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(0.2, rel=0.1)  # an exponential's deviation is its mean


def test_a_mix_is_drawn_by_weight_and_prompts_in_turn():
    ways = [Way(4, 0.0, weight=3), Way(20, 4.5, "512x512", weight=1)]
    planned = plan_requests([float(index) for index in range(2000)], ["a", "b"], ways, random.Random(2))
    share = sum(request.num_inference_steps == 4 for request in planned) / len(planned)
    assert share == pytest.approx(0.75, abs=0.03)
    assert [request.prompt for request in planned[:3]] == ["a", "b", "a"]
    assert len({request.seed for request in planned}) == len(planned)


def test_what_is_not_given_is_left_to_the_model():
    assert PlannedRequest(1.0, "a cat", 7).body() == {"prompt": "a cat", "seed": 7}


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("20:4.5:512x512=3", Way(20, 4.5, "512x512", 3.0)),
        ("4:0", Way(4, 0.0)),
        ("::64x64", Way(size="64x64")),
        ("", Way()),
    ],
)
def test_a_way_of_drawing_is_read_from_a_few_characters(text, way):
    assert parse_way(text) == way


@pytest.mark.parametrize("text", ["four", "4:x", "4:0=0", "4:0=-1", "4:0=nan", "1:2:3:4"])
def test_a_way_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="STEPS:GUIDANCE:SIZE=WEIGHT"):
        parse_way(text)


def test_a_trace_written_is_the_trace_read_and_gaps_are_filled_in():
    planned = plan_requests([0.5, 1.5], ["a cat"], [Way(4, 0.0)], random.Random(3))
    assert read_trace(write_trace(planned), ["unused"], random.Random(4)) == planned
    (first, second) = read_trace('{"at_s": 2}\n\n{"at_s": 1, "prompt": "b"}\n', ["a"], random.Random(5))
    assert (first.at_s, first.prompt, second.prompt) == (1, "b", "a")


@pytest.mark.parametrize(
    "line", ['{"at_s": -1}', '{"at_s": NaN}', '{"at_s": 1, "stepz": 4}', "[]", "x", '{"prompt": "a"}']
)
def test_a_broken_line_of_a_trace_is_named(line):
    with pytest.raises(ValueError, match="line 2"):
        read_trace(json.dumps({"at_s": 0}) + "\n" + line, ["a"], random.Random(0))


def test_an_empty_trace_is_refused():
    with pytest.raises(ValueError, match="empty"):
        read_trace("\n", ["a"], random.Random(0))


def test_times_scaled_to_nothing_are_a_burst():
    planned = [PlannedRequest(2.0, "a", 1), PlannedRequest(5.0, "b", 2)]
    assert [request.at_s for request in scale_times(planned, 0.0)] == [0.0, 0.0]
    assert [request.at_s for request in scale_times(planned, 2.0)] == [4.0, 10.0]
