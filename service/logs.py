"""What a log line looks like, and whose line it is. The command line alone calls `start_logging`.

Ids reach a line in two ways: `log_ids` holds them for all that happens within a request, `about` names a job on one
line of a process that has many in hand. Surprising: "debug" is about this program only. Libraries stay at "info" or
quieter, since some of them write down headers or what they send.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Literal, TextIO

from service.jobs import Job
from service.trace_context import parse_traceparent

LogFormat = Literal["text", "json"]
OUR_LOGGERS = ("emmdit", "model", "service")
LIBRARY_LEVELS = {
    "botocore": logging.WARNING,  # at debug it writes down what it signs
    "httpx": logging.WARNING,
    "opentelemetry": logging.CRITICAL,  # service/tracing.py says it once, and not for every batch
    "urllib3": logging.WARNING,
}
# Beside time, level, logger and message; what else a library hangs on a line stays out of it.
FIELDS = ("request_id", "job_id", "job_ids", "trace_id", "method", "route", "code", "duration_s")

_ids: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))


@contextmanager
def log_ids(**ids: str) -> Iterator[None]:
    """Every line within the block, and within the tasks that it starts, bears these ids."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


def note_job(job_id: str) -> None:
    """From here on, until the request ends, lines are about this job too."""
    _ids.set({**_ids.get(), "job_id": job_id})


def current_ids() -> Mapping[str, str]:
    """The ids that a line would bear here."""
    return _ids.get()


def about(job: Job) -> dict[str, str]:
    """`extra` of a line about a job."""
    context = parse_traceparent([job.traceparent])
    return {"job_id": job.id} | ({"trace_id": context.trace_id} if context else {})


def about_all(jobs: Iterable[Job]) -> dict[str, list[str]]:
    """`extra` of a line about several jobs at once."""
    return {"job_ids": list(dict.fromkeys(job.id for job in jobs))}


class TextFormatter(logging.Formatter):
    """For people: one line, the ids that it names are in its message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII, so that nothing in a message can begin another line."""

    def __init__(self, process: Mapping[str, str]) -> None:
        super().__init__()
        self._process = {**process, "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        values: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
        }
        values |= _ids.get()
        values |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            values["stack"] = record.stack_info
        return json.dumps(values, default=str)


def start_logging(level: str, form: LogFormat, process: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Log to standard error from now on, warnings and what ends the process or a thread of it included.

    `process` says who speaks: in JSON its fields are on every line.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(process) if form == "json" else TextFormatter())
    root_level = max(logging.INFO, _number(level))
    logging.basicConfig(handlers=[handler], level=root_level, force=True)
    for library, least in LIBRARY_LEVELS.items():
        logging.getLogger(library).setLevel(max(least, root_level))
    _set_level(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_end
    threading.excepthook = lambda args: _log_end(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


def switch_level(level: str) -> None:
    """The least level of this program's own lines from now on. Safe in a signal handler."""
    _set_level(level)
    # Not from here: the signal may have come in the middle of a line, and a stream cannot be written to twice at once.
    say = logging.getLogger("emmdit").warning
    threading.Thread(target=say, args=("the log's level is %s now", level), name="log-level", daemon=True).start()


def _set_level(level: str) -> None:
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(_number(level))


def _log_end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    elif not issubclass(kind, SystemExit):
        logging.getLogger("emmdit").critical("unforeseen: %s", kind.__name__, exc_info=(kind, error, traceback))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
