"""A process with the imports behind it, which forks parts of the service: a restart costs no nine seconds of imports.

`python -m tests.chaos.nursery MODULE...` imports the modules and then reads orders, one JSON line each, from its
standard input: {"module", "argv", "env", "log"}. It answers {"pid"} and, when a child has ended, {"pid", "status"}.
A child is the part itself, by the same code as its command; it dies with the nursery, and the nursery with its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
from typing import Any, NoReturn

from service.tether import PR_SET_PDEATHSIG

POLL_S = 0.02


def main() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    _say({"ready": True})
    buffered = b""
    while True:
        if select.select([0], [], [], POLL_S)[0]:
            received = os.read(0, 65536)
            if not received:
                return
            *orders, buffered = (buffered + received).split(b"\n")
            for order in orders:
                _say({"pid": _fork(json.loads(order))})
        _report_dead()


def _report_dead() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _fork(order: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(order, parent)
    return pid


def _become(order: dict[str, Any], parent: int) -> NoReturn:
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = order["argv"]
        importlib.import_module(order["module"]).main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
