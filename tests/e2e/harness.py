"""`emmdit serve` as a user starts it: a process of its own, with everything below it."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx
import psutil

START_TIMEOUT_S = 120


class Service:
    """One running service. `processes("worker")` are its workers; `stop` is Ctrl-C."""

    def __init__(self, models, data_dir, **settings):
        variables = {
            "MODELS": ",".join(map(str, models)) if isinstance(models, list) else models,
            "DATA_DIR": data_dir,
            "PORT": 0,
            "LEASE_S": 3,
            "HEARTBEAT_S": 0.5,
            "RETRY_DELAY_S": 0.1,
            "LOG_LEVEL": "info",
            "COMPILE_NETWORK": False,
            **{name.upper(): value for name, value in settings.items()},
        }
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
        environment |= {f"EMMDIT_{name}": str(value) for name, value in variables.items()}
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--log-level", "info"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = self._wait_until_ready()
        except BaseException:
            self.kill_everything()
            raise

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def _wait_until_ready(self):
        def ready():
            assert self.process.poll() is None, self.log()
            return next((line for line in self.lines if line.startswith("ready: ")), None)

        return wait_for(ready, START_TIMEOUT_S, self.log).split()[1]

    def log(self):
        return "\n".join(self.lines[-40:])

    def processes(self, kind):
        """Children started as `emmdit KIND`, or the queue's server for kind "server"."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a zombie, or gone since it was listed
                if _kind_of(child.cmdline()) == kind:
                    found.append(child)
        return found

    def client(self, timeout_s=120.0):
        return httpx.Client(base_url=self.address, timeout=timeout_s)

    def stop(self, timeout_s=60.0):
        """Ctrl-C; returns the exit code once everything has ended."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout_s)
        self._close()
        _, alive = psutil.wait_procs(below, timeout=5)
        assert not alive, f"left running: {alive}"
        return code

    def kill_everything(self):
        """kill -9 of the supervisor; the kernel takes the rest along."""
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        self._close()
        _, alive = psutil.wait_procs(below, timeout=5)
        for child in alive:
            child.kill()
        assert not alive, f"orphans: {alive}"

    def _close(self):
        self._reader.join(5)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill_everything()


def _kind_of(command):
    if "service.cli" in command:
        return command[command.index("service.cli") + 1]
    return "server" if command and "-server" in command[0] else None


def wait_for(condition, timeout_s, explain=lambda: ""):
    """Poll until `condition` gives something true."""
    deadline = time.monotonic() + timeout_s
    while not (outcome := condition()):
        assert time.monotonic() < deadline, f"still not true after {timeout_s} s\n{explain()}"
        time.sleep(0.05)
    return outcome
