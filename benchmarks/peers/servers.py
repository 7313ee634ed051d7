"""Starts one server, ours or a peer's, waits until it draws, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from benchmarks.compiling import COMPILED_DIR
from benchmarks.machine import ROOT
from benchmarks.peers.drawing import PeerSettings, Pipeline
from service.gateway.server import bind

OURS = "emmdit"
MODULES = {"litserve": "litserve_server", "mosec": "mosec_server", "ray": "ray_server"}
PACKAGES = {"litserve": "litserve", "mosec": "mosec", "ray": "ray.serve"}
START_TIMEOUT_S = 900.0  # the first one compiles the network
STOP_TIMEOUT_S = 30.0
BODY = {"prompt": "a photo of a red apple", "num_inference_steps": 1, "guidance_scale": 0, "seed": 1}


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a server is to batch: so many pictures at once. Ours has no wait: rows join between any two steps."""

    batch_size: int
    wait_s: float


def missing_packages(python: Path) -> dict[str, str]:
    """The peers that this interpreter cannot import, each with why."""
    problems = {}
    for name, package in PACKAGES.items():
        found = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
        if found.returncode:
            problems[name] = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
    return problems


class RunningServer:
    """A context manager: draws on entry, gone on exit. `python` is the interpreter that has the peers."""

    def __init__(
        self, name: str, tuning: Tuning, *, python: Path, model: str, num_threads: int, pipeline: Pipeline
    ) -> None:
        self._name, self._tuning, self._python = name, tuning, python
        self._model, self._num_threads, self._pipeline = model, num_threads, pipeline
        self._folder = tempfile.TemporaryDirectory(prefix="peer-")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        with bind("127.0.0.1", 0) as probe:
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        command, environment = self._ours(port) if self._name == OURS else self._theirs(port)
        log = self._log_path().open("wb")
        with log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_it_draws()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ask, wait, then kill whatever is left of the process's whole family."""
        if self._process is not None:
            family = [*psutil.Process(self._process.pid).children(recursive=True)] if self._is_running() else []
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            _, alive = psutil.wait_procs(family, timeout=5)
            for process in alive:
                process.kill()
            psutil.wait_procs(alive, timeout=5)
            self._process = None
        self._folder.cleanup()

    def _ours(self, port: int) -> tuple[list[str], dict[str, str]]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
        environment |= {
            "EMMDIT_DATA_DIR": self._folder.name,
            "EMMDIT_COMPILED_DIR": str(COMPILED_DIR),
            "EMMDIT_MAX_BATCH_ROWS": str(2 * self._tuning.batch_size),  # two a guided picture, as in the peers' batches
            "EMMDIT_NUM_THREADS": str(self._num_threads),
            "EMMDIT_QUEUE_CAPACITY": "100000",
            "EMMDIT_DEFAULT_TIMEOUT_S": "3600",
        }
        return [sys.executable, "-m", "service.cli", "serve", "--model", self._model, "--port", str(port)], environment

    def _theirs(self, port: int) -> tuple[list[str], dict[str, str]]:
        tuning = self._tuning
        settings = PeerSettings(port, tuning.batch_size, tuning.wait_s, self._model, self._num_threads, self._pipeline)
        environment = {**os.environ, **settings.environment(), "PYTHONPATH": str(ROOT)}
        return [str(self._python), "-m", f"benchmarks.peers.{MODULES[self._name]}"], environment

    def _log_path(self) -> Path:
        return Path(self._folder.name, "server.log")

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _is_compiled(self) -> bool:
        """Peers compile before they listen; ours tells when it has changed over."""
        if self._name != OURS:
            return True
        page = httpx.get(f"{self.url}/metrics", timeout=60.0).text
        return "emmdit_worker_compiled_networks 1.0" in page.splitlines()

    def _wait_until_it_draws(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._is_running():
            try:
                reply = httpx.post(f"{self.url}/v1/generate", json=BODY, headers={"Accept": "image/png"}, timeout=60.0)
                if reply.is_success and reply.content.startswith(b"\x89PNG") and self._is_compiled():
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(0.2)
        log = self._log_path().read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self._name} does not draw:\n{log}")
