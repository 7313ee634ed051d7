"""Gateways, workers and the queue's server on hosts of their own, one of which is cut off in the middle of its work."""

import io
import itertools
import os
import sys
import threading
import time

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.embedded import find_server_binary
from tests.e2e.harness import wait_for
from tests.support.hosts import Lan
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.system, pytest.mark.timeout(600)]

GATEWAYS, WORKERS = ("gateway-a", "gateway-b"), ("worker-a", "worker-b")
PORT, METRICS_PORT, QUEUE_PORT = 8000, 9100, 6379
LEASE_S = 3
NUM_CLIENTS = 6
PATIENCE_S = 120
PASSWORD = "the-password-of-the-queue"


class Site:
    """The service on five hosts, and threads on a sixth for those who use it."""

    def __init__(self, folder):
        self._folder = folder
        self._lan = Lan("queue", *GATEWAYS, *WORKERS, "people")

    def __enter__(self):
        self._lan.__enter__()
        self._person = self._lan.people("people")
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._person.shutdown()
        self._lan.__exit__()

    @property
    def lan(self):
        return self._lan

    def url(self, host, port=PORT):
        return f"http://{self._lan.addresses[host]}:{port}"

    def ask(self, method, host, path, timeout_s=30.0, **more):
        """A request by somebody who has a key, from the users' host. Gives None where no answer came in time."""
        return self._person.submit(self._ask, method, self.url(host) + path, timeout_s, more).result()

    def sample(self, host, name, **labels):
        """A metric of a part, 0 where it has none."""
        port = PORT if host in GATEWAYS else METRICS_PORT
        text = self._person.submit(httpx.get, self.url(host, port) + "/metrics", timeout=10).result().text
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(
            found.value
            for found in samples
            if found.name == f"emmdit_{name}" and labels.items() <= found.labels.items()
        )

    def log(self):
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self._folder.glob("*.log"))

    def _start(self):
        server = [find_server_binary(), "--port", QUEUE_PORT, "--bind", "0.0.0.0", "--requirepass", PASSWORD]
        server += ["--save", "", "--dir", self._folder, "--maxmemory-policy", "noeviction"]
        self._lan.start("queue", server, self._folder / "queue.log")
        bundle = write_tiny_bundle(self._folder / "tiny").folder
        self._variables = {
            "MODELS": bundle,
            "REDIS_URL": f"redis://:{PASSWORD}@{self._lan.addresses['queue']}:{QUEUE_PORT}/0",
            "BLOB_URL": "redis",
            "HOST": "0.0.0.0",
            "PORT": PORT,
            "WORKER_METRICS_PORT": METRICS_PORT,
            "HEARTBEAT_S": 0.5,
            "LEASE_S": LEASE_S,
            "COMPILE_NETWORK": "false",
        }
        created = self._emmdit("people", "keys", "create", "ada", log="key.txt")
        wait_for(lambda: created.poll() is not None, PATIENCE_S, self.log)
        assert created.returncode == 0, self.log()
        key = (self._folder / "key.txt").read_text().split()[0]
        self.headers = {"Authorization": f"Bearer {key}"}
        for name in (*GATEWAYS, *WORKERS):
            self._emmdit(name, name.partition("-")[0], log=f"{name}.log")
        for name in GATEWAYS:
            wait_for(lambda: (answer := self.ask("GET", name, "/readyz")) and answer.is_success, PATIENCE_S, self.log)  # noqa: B023
        wait_for(lambda: self.sample("gateway-a", "num_workers", model="tiny") == len(WORKERS), PATIENCE_S, self.log)

    def _emmdit(self, host, *arguments, log):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
        own = {f"EMMDIT_{key}": str(value) for key, value in self._variables.items()}
        environment = {**kept, **own, "EMMDIT_DATA_DIR": str(self._folder / host), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "service.cli", *arguments]
        return self._lan.start(host, command, self._folder / log, env=environment)

    def _ask(self, method, url, timeout_s, more):
        headers = self.headers | more.pop("headers", {})
        try:
            return httpx.request(method, url, headers=headers, timeout=timeout_s, **more)
        except httpx.TransportError:
            return None


class Load:
    """People who always want another picture, each time from the next of these gateways."""

    def __init__(self, site, *gateways):
        self._site = site
        self._urls = [site.url(name) for name in gateways]
        self._is_over = threading.Event()
        self.failures = []
        self.pictures = []
        self.waits_s = []

    def __enter__(self):
        self._people = self._site.lan.people("people", NUM_CLIENTS)
        self._asking = [self._people.submit(self._ask, index) for index in range(NUM_CLIENTS)]
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._people.shutdown()
        for asking in self._asking:
            asking.result()

    def go_on(self, number=3 * NUM_CLIENTS):
        """Until that many more pictures were drawn."""
        wanted = len(self.pictures) + number
        wait_for(lambda: len(self.pictures) >= wanted or self.failures, PATIENCE_S, self._site.log)
        assert not self.failures, f"{self.failures[:3]}\n{self._site.log()}"

    def _ask(self, index):
        with httpx.Client(headers=self._site.headers | {"Accept": "image/png"}, timeout=PATIENCE_S) as client:
            for number in itertools.count():
                if self._is_over.is_set():
                    return
                body = {"prompt": "a picture", "seed": index * 10_000 + number, "num_inference_steps": 50}
                started_s = time.monotonic()
                try:
                    answer = client.post(f"{self._urls[number % len(self._urls)]}/v1/generate", json=body)
                    size = Image.open(io.BytesIO(answer.content)).size if answer.is_success else answer.text
                except httpx.TransportError as error:
                    size = repr(error)
                if size != (64, 64):
                    self.failures.append(size)
                    return
                self.waits_s.append(time.monotonic() - started_s)
                self.pictures.append(answer.headers["X-Job-ID"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def test_a_worker_cut_off_in_mid_run_costs_its_clients_a_pause_and_nobody_a_picture(site):
    def redeliveries():
        return sum(site.sample(name, "redeliveries_total") for name in (*GATEWAYS, "worker-b"))

    with Load(site, *GATEWAYS) as load:
        load.go_on()
        wait_for(lambda: site.sample("worker-a", "worker_active_images") > 0, PATIENCE_S, site.log)
        before = redeliveries()
        site.lan.pull("worker-a")
        try:
            wait_for(lambda: redeliveries() > before, PATIENCE_S, site.log)
            load.go_on()
            wait_for(lambda: site.sample("gateway-b", "num_workers", model="tiny") == 1, PATIENCE_S, site.log)
            load.go_on()
        finally:
            site.lan.plug("worker-a")
        wait_for(lambda: site.sample("gateway-a", "num_workers", model="tiny") == 2, PATIENCE_S, site.log)
        steps = site.sample("worker-a", "denoise_steps_total")
        load.go_on()
        wait_for(lambda: site.sample("worker-a", "denoise_steps_total") > steps, PATIENCE_S, site.log)
    assert load.failures == []
    assert max(load.waits_s) < 60, "a lease, and a place in the queue"
    assert len(set(load.pictures)) == len(load.pictures)
    for job in load.pictures:
        found = site.ask("GET", "gateway-a", f"/v1/jobs/{job}").json()
        assert (found["state"], len(found["images"])) == ("done", 1)
    done = sum(site.sample(name, "requests_total", status="success") for name in GATEWAYS)
    assert done == len(load.pictures), "each of them ended once"


def test_what_a_gateway_accepted_before_it_was_cut_off_is_had_from_the_other(site):
    body = {"prompt": "a picture", "seed": 5}
    once = {"Idempotency-Key": "order-1"}
    accepted = site.ask("POST", "gateway-a", "/v1/generate", json=body, headers=once | {"Prefer": "respond-async"})
    assert accepted.status_code == 202
    job = accepted.json()["id"]
    waiting = {"json": body | {"n": 4, "num_inference_steps": 50}, "headers": {"Idempotency-Key": "order-2"}}
    site.lan.pull("gateway-a")
    try:
        assert site.ask("POST", "gateway-a", "/v1/generate", timeout_s=3.0, **waiting) is None

        def is_done():
            return site.ask("GET", "gateway-b", f"/v1/jobs/{job}").json()["state"] == "done"

        wait_for(is_done, PATIENCE_S, site.log)
        picture = site.ask("GET", "gateway-b", f"/v1/jobs/{job}/images/0").content
        again = site.ask("POST", "gateway-b", "/v1/generate", json=body, headers=once | {"Accept": "image/png"})
        assert again.headers["X-Job-ID"] == job
        assert again.content == picture
        assert site.ask("POST", "gateway-b", "/v1/generate", timeout_s=PATIENCE_S, **waiting).status_code == 200
    finally:
        site.lan.plug("gateway-a")
    wait_for(
        lambda: (answer := site.ask("GET", "gateway-a", f"/v1/jobs/{job}/images/0")) and answer.content == picture,
        PATIENCE_S,
        site.log,
    )
