"""Log lines as the command line sets them up: their forms, their ids, their levels."""

import io
import json
import logging
import threading
import warnings

import pytest

from service.logs import about, log_ids, note_job, start_logging, switch_level
from tests.support.server import make_job

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def start():
    def start(form="json", level="info", **process):
        stream = io.StringIO()
        start_logging(level, form, process or {"process": "worker", "worker": "w1"}, stream)
        return lambda: stream.getvalue().splitlines() if form == "text" else [*map(json.loads, _lines(stream))]

    return start


def _lines(stream):
    return stream.getvalue().splitlines()


def test_a_line_is_one_object_with_time_level_logger_message_and_who_speaks(start):
    lines = start()
    logging.getLogger("service.worker").info("drew %d\nof %s", 2, "\u2028")
    (line,) = lines()
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-11-23T19:38:28.123Z")
    assert line.pop("pid") > 0
    assert {name: value for name, value in line.items() if name != "time"} == {
        "level": "info",
        "logger": "service.worker",
        "message": "drew 2\nof \u2028",
        "process": "worker",
        "worker": "w1",
    }


def test_text_looks_as_it_always_did(start):
    lines = start("text")
    logging.getLogger("service.worker").warning("hello")
    (line,) = lines()
    assert line.endswith(" WARNING service.worker: hello")


def test_an_exception_is_a_text_in_its_line(start):
    lines = start()
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("service.worker").exception("failed")
    (line,) = lines()
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("RuntimeError: broken")


def test_lines_within_a_request_bear_its_ids_and_those_after_it_none(start):
    lines = start()
    with log_ids(request_id="r1", trace_id=TRACE):
        logging.getLogger("service.gateway").info("before")
        note_job("j1")
        logging.getLogger("uvicorn.error").info("after")
    logging.getLogger("service.gateway").info("outside")
    ids = [{name: line[name] for name in ("request_id", "trace_id", "job_id") if name in line} for line in lines()]
    assert ids == [
        {"request_id": "r1", "trace_id": TRACE},
        {"request_id": "r1", "trace_id": TRACE, "job_id": "j1"},
        {},
    ]


def test_a_line_about_a_job_bears_its_id_and_its_trace(start):
    lines = start()
    logging.getLogger("service.worker").info(
        "x", extra=about(make_job(id="j1", traceparent=f"00-{TRACE}-{'1' * 16}-00"))
    )
    logging.getLogger("service.worker").info("x", extra=about(make_job(id="j2")))
    logging.getLogger("service.worker").info("x", extra={"job_ids": ["j1", "j2"], "secret": "swordfish"})
    first, second, third = lines()
    assert (first["job_id"], first["trace_id"]) == ("j1", TRACE)
    assert second["job_id"] == "j2"
    assert "trace_id" not in second
    assert third["job_ids"] == ["j1", "j2"]
    assert "swordfish" not in json.dumps(third)


def test_warnings_and_what_ends_a_thread_are_lines_too(start):
    lines = start()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # which catch_warnings has taken back for its block
        warnings.warn("old", UserWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: [][1])
    thread.start()
    thread.join()
    warned, ended = lines()
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")
    assert "UserWarning: old" in warned["message"]
    assert (ended["level"], ended["message"]) == ("critical", "unforeseen: IndexError")
    assert "IndexError" in ended["exception"]


def test_debug_is_about_this_program_and_never_about_libraries(start):
    lines = start(level="debug")
    logging.getLogger("service.gateway").debug("ours")
    for library in ("httpx", "urllib3", "botocore", "redis", "PIL", "anything"):
        logging.getLogger(library).debug("what was sent")
    assert [line["message"] for line in lines()] == ["ours"]


def test_the_level_changes_and_says_so(start):
    lines = start(level="warning")
    log = logging.getLogger("service.worker")
    for level in ("debug", "warning"):
        log.debug("unseen before, seen after")
        switch_level(level)
        for thread in threading.enumerate():
            if thread.name == "log-level":
                thread.join()
    log.info("unseen again")
    assert [line["message"] for line in lines()] == [
        "the log's level is debug now",
        "unseen before, seen after",
        "the log's level is warning now",
    ]


def test_a_quiet_log_is_quiet_about_libraries_too(start):
    lines = start(level="error")
    logging.getLogger("httpx").warning("x")
    logging.getLogger("uvicorn.error").warning("x")
    assert not lines()
