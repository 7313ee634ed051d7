import json
import math

import pytest

from service.jobs import (
    Cancelled,
    Done,
    Expired,
    Failed,
    ImageRef,
    JobState,
    decode_job,
    decode_result,
    encode_job,
    encode_result,
)
from service.queue_types import WorkerInfo
from service.queue_wire import STATUS_FIELDS, decode_known_status, decode_workers
from service.records import to_fields, to_json
from tests.support.server import DONE, make_job, make_worker

RESULTS = [
    DONE,
    Done((ImageRef("a", 1, 2, "00"), ImageRef("b", 2, 3, "01")), "ü", "v1", 0.25, ("one", "two")),
    Failed("generation_failed", "not a number"),
    Cancelled("queued"),
    Expired("running"),
]
NOW = (100, 0)


def changed(text, change):
    values = json.loads(text)
    change(values)
    return json.dumps(values)


def test_a_job_comes_back_as_it_was_with_what_the_queue_knows_of_it():
    job = make_job(prompt='a "red" äpfel\n\u2028')
    decoded = decode_job(encode_job(job), attempt=2, time_left_s=1.5)
    assert decoded.attempt == 2
    assert decoded.time_left_s == 1.5
    assert decode_job(encode_job(job)) == job
    assert decode_job(encode_job(job)).time_left_s == math.inf


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_comes_back_as_it_was(result):
    assert decode_result(encode_result(result)) == result


def test_an_older_reader_passes_over_what_a_newer_writer_has_added():
    job = make_job()

    def add(values):
        values["colour_space"] = "srgb"
        values["params"]["style"] = {"name": "oil"}

    assert decode_job(changed(encode_job(job), add)) == job


def test_a_newer_reader_gives_its_defaults_to_what_an_older_writer_did_not_know():
    job = make_job()

    def remove(values):
        del values["inbox"], values["params"]["exact_schedule"], values["params"]["negative_prompt"]

    decoded = decode_job(changed(encode_job(job), remove))
    assert decoded.inbox == ""
    assert decoded.params == job.params


def test_a_jobs_trace_travels_with_it_and_older_versions_know_of_none():
    traced = make_job(id="j1", traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert decode_job(encode_job(traced)).traceparent == traced.traceparent
    older = changed(encode_job(traced), lambda values: values.pop("traceparent"))
    assert decode_job(older).traceparent == ""
    assert decode_job(older) == traced, "a trace makes a job no other"


def test_no_writer_can_say_what_belongs_to_the_queue():
    assert decode_job(changed(encode_job(make_job()), lambda values: values.update(attempt=7)), attempt=1).attempt == 1


@pytest.mark.parametrize("result", RESULTS)
def test_results_of_newer_writers_can_be_read(result):
    def add(values):
        values["energy_j"] = 12.5
        for image in values.get("images", ()):
            image["width"] = 512

    assert decode_result(changed(encode_result(result), add)) == result


def test_results_of_older_writers_can_be_read():
    assert decode_result(changed(encode_result(DONE), lambda values: values.pop("warnings"))) == DONE


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(v=2),
        lambda values: values.pop("v"),
        lambda values: values.pop("params"),
        lambda values: values.update(params=7),
        lambda values: values["params"].pop("prompt"),
        lambda values: values["params"].update(width=-1),
        lambda values: values.update(priority=9),
        lambda values: values.pop("id"),
    ],
)
def test_a_job_that_cannot_be_understood_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        decode_job(changed(encode_job(make_job()), change))


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(v=2),
        lambda values: values.update(state="resting"),
        lambda values: values.update(state="queued"),
        lambda values: values.pop("images"),
        lambda values: values.update(images=[{"blob": "a"}]),
        lambda values: values.update(images=[7]),
        lambda values: values.pop("prompt"),
    ],
)
def test_a_result_that_cannot_be_understood_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        decode_result(changed(encode_result(DONE), change))


def test_workers_of_newer_and_older_versions_are_seen():
    newer = to_fields(make_worker("w1")) | {"temperature_c": 61}
    older = to_fields(make_worker("w2"))
    del older["costs"], older["rate_cost_per_s"]
    records = {"w1": to_json(newer), "w2": to_json(older)}
    seen = [("w1", 99_000.0), ("w2", 99_000.0)]
    assert decode_workers(NOW, seen, records, lease_s=15) == (make_worker("w1"), make_worker("w2"))
    assert json.loads(to_json(to_fields(make_worker()))) == to_fields(WorkerInfo("w1", "demo", "demo-1", "cpu", 1.0))


def test_a_job_whose_result_nobody_can_read_has_ended_all_the_same():
    job = make_job()
    fields = {"owner": job.owner, "state": "done", "attempt": "1", "step": "3", "num_steps": "19", "created": "1000"}
    fields["result"] = changed(encode_result(DONE), lambda values: values.update(v=2))
    status = decode_known_status(job, [fields.get(name) for name in STATUS_FIELDS])
    assert status.state is JobState.FAILED
    assert status.result.code == "unreadable_result"
