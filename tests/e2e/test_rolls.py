"""Another version of the program beside this one, on one Redis, under load: no request fails, in either direction."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.embedded import EmbeddedServer
from service.gateway.server import bind
from tests.e2e.harness import wait_for
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PREVIOUS = "56dc615833752f7f766a5114953b1b994f6119ab"  # the version before this one
NUM_CLIENTS = 4
PATIENCE_S = 180
ANSWERS_BETWEEN = 12  # pictures that are drawn between two changes


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Folders with the code of the previous version and of this one."""
    folder = tmp_path_factory.mktemp("previous")
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed: the previous version cannot be had")
    packed = subprocess.run([git, "-C", ROOT, "archive", PREVIOUS, "service", "model"], capture_output=True)
    if packed.returncode:
        pytest.skip(f"this checkout has no commit {PREVIOUS}: {packed.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
    return {"previous": folder, "this": ROOT}


class Fleet:
    """Gateways and workers of several versions around one server, and what balances between the gateways."""

    def __init__(self, folder, versions):
        self._folder = folder
        self._versions = versions
        self._exits = ExitStack()
        self._numbers = itertools.count()
        self.running = {}
        self.addresses = {}

    def __enter__(self):
        self._bundle = write_tiny_bundle(self._folder / "bundle").folder
        self._server = self._exits.enter_context(EmbeddedServer(self._folder / "redis"))
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
            process.wait()
        self._exits.close()

    def start(self, kind, version):
        """A part of that version; returns its name once it serves."""
        name = f"{kind}-{version}-{next(self._numbers)}"
        with bind("127.0.0.1", 0) as probe:
            port = probe.getsockname()[1]
        variables = {
            "MODELS": self._bundle,
            "DATA_DIR": self._folder / "data",
            "REDIS_URL": self._server.url,
            "HEARTBEAT_S": 0.5,
            "LEASE_S": 3,
            "DRAIN_DELAY_S": 1,
            "COMPILE_NETWORK": "false",
            "PORT": port,
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
        code = self._versions[version]
        own = {f"EMMDIT_{key}": str(value) for key, value in variables.items()}
        with (self._folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "service.cli", kind],
                cwd=code,
                env={**kept, **own, "PYTHONPATH": str(code)},
                stdout=log,
                stderr=log,
            )
        if kind == "gateway":
            self.addresses[name] = f"http://127.0.0.1:{port}"
            wait_for(lambda: self._answers(name, "/livez"), PATIENCE_S, self.log)
        else:
            wait_for(lambda: any(version in known for known in self._workers(name)), PATIENCE_S, self.log)
        return name

    def stop(self, name):
        """SIGTERM, and wait for its end. A balancer has stopped sending to it by then, as its readiness told."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, PATIENCE_S, self.log)
        self.addresses.pop(name, None)
        assert process.returncode == 0, self.log()

    def ready_gateways(self):
        return [url for name, url in list(self.addresses.items()) if self._answers(name, "/readyz")]

    def log(self):
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in self._folder.glob("*.log"))

    def _answers(self, name, path):
        try:
            return httpx.get(self.addresses[name] + path, timeout=5).is_success
        except (httpx.TransportError, KeyError):  # not listening yet, or just gone
            return False

    def _workers(self, name):
        assert self.running[name].poll() is None, self.log()
        text = (self._folder / f"{name}.log").read_text()
        return [name] if "loaded on" in text else []


class Load:
    """Clients that always ask again, each through a gateway that says it is ready, as a balancer would have them."""

    def __init__(self, fleet):
        self._fleet = fleet
        self._ready = fleet.ready_gateways()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.num_answers = 0
        self.pictures = {}
        self.failures = []

    def __enter__(self):
        self._threads = [threading.Thread(target=self._balance)]
        self._threads += [threading.Thread(target=self._ask, args=(index,)) for index in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self):
        """Until some more pictures were drawn."""
        wanted = self.num_answers + ANSWERS_BETWEEN
        wait_for(lambda: self.num_answers >= wanted or self.failures, PATIENCE_S, self._fleet.log)
        assert not self.failures, f"{self.failures[:3]}\n{self._fleet.log()}"

    def _balance(self):
        while not self._is_over.wait(0.1):
            self._ready = self._fleet.ready_gateways()

    def _ask(self, index):
        for number in itertools.count():
            if self._is_over.is_set():
                return
            seed = (index + number) % 7
            body = {"prompt": "a picture", "seed": seed, "num_inference_steps": 3 + seed}
            try:
                url = self._ready[number % len(self._ready)]
                answer = httpx.post(f"{url}/v1/generate", json=body, headers={"Accept": "image/png"}, timeout=60)
                problem = None if answer.status_code == 200 else answer.text
            except (httpx.ConnectError, ZeroDivisionError):
                continue  # nothing was sent: a balancer tries the next one
            except httpx.TransportError as error:
                problem = repr(error)
            with self._lock:
                self.num_answers += problem is None
                if problem is not None:
                    self.failures.append(problem)
                elif self.pictures.setdefault(seed, answer.content[-200:]) is None:
                    self.failures.append("no picture")


@pytest.mark.parametrize(("before", "after"), [("previous", "this"), ("this", "previous")], ids=["forward", "back"])
def test_workers_and_gateways_change_their_version_and_no_request_fails(versions, tmp_path, before, after):
    with Fleet(tmp_path, versions) as fleet:
        old_gateway, old_worker = fleet.start("gateway", before), fleet.start("worker", before)
        wait_for(fleet.ready_gateways, PATIENCE_S, fleet.log)
        with Load(fleet) as load:
            load.go_on()
            fleet.start("worker", after)
            load.go_on()
            fleet.stop(old_worker)  # gateways of one version, workers of the other
            load.go_on()
            new_gateway = fleet.start("gateway", after)
            wait_for(lambda: len(fleet.ready_gateways()) == 2, PATIENCE_S, fleet.log)
            load.go_on()
            fleet.stop(old_gateway)
            load.go_on()
            fleet.start("worker", before)  # and the other way round
            load.go_on()
        assert list(fleet.addresses) == [new_gateway]
        assert load.failures == []
        assert len(load.pictures) == 7
