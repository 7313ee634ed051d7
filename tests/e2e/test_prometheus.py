"""A real Prometheus scrapes two gateways and two workers, and tells exactly what a load of known size did."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
import yaml

from tests.e2e.harness import wait_for
from tests.monitoring.files import PROMETHEUS, dashboards, panel_queries, rules
from tests.support.metric_page import unexpected_labels
from tests.support.prometheus import free_port, running_prometheus
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (Debian: prometheus) is not installed"),
]

MODEL = "tiny"
START_TIMEOUT_S = 300  # four processes at once, on a machine that may have other work
SETTLE_TIMEOUT_S = 90
NUM_DONE, NUM_CANCELLED, NUM_WRONG = 12, 4, 5
FOR_S = 6  # what alerts wait in this test, in place of minutes
LEAST_SERIES = {
    "Requests by outcome": 5,
    "Waiting and running": 2,
    "HTTP responses": 3,
    "What runs": 1,
    "Oldest waiting": 1,
    "Waiting, and room for them": 2,
    "Disk for pictures": 2,
    "Gateways that reach the queue": 2,
    "Pictures under way": 2,
    "Last heartbeat": 2,
    "Weights in memory": 6,
}


class Process:
    """One part of the service as a process of its own, as `emmdit gateway` or `emmdit worker`."""

    def __init__(self, stack, kind, bundle, folder, redis_url, port):
        self.address = f"127.0.0.1:{port}"
        variables = {
            "MODELS": bundle.folder,
            "DATA_DIR": folder / "data",
            "REDIS_URL": redis_url,
            "COMPILE_NETWORK": False,
            "LEASE_S": 3,
            "HEARTBEAT_S": 0.5,
            "RETRY_DELAY_S": 0.1,
            "PORT" if kind == "gateway" else "WORKER_METRICS_PORT": port,
        }
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EMMDIT_")}
        environment |= {f"EMMDIT_{name}": str(value) for name, value in variables.items()}
        self._log = folder / f"{kind}-{port}.log"
        output = stack.enter_context(self._log.open("wb"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", kind], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        stack.callback(self.kill)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def page(self):
        """Its metrics, "" while it does not answer."""
        assert self.process.poll() is None, self.log()
        try:
            return httpx.get(f"http://{self.address}/metrics", timeout=5).text
        except httpx.TransportError:
            return ""

    def log(self):
        return self._log.read_text("utf-8")[-3000:]


class Fleet:
    """Two gateways, two workers, one queue server, one Prometheus."""

    def __init__(self, stack, folder, redis_url):
        bundle = write_tiny_bundle(folder / "bundle", name=MODEL, max_steps=1000)
        parts = [
            (kind, Process(stack, kind, bundle, folder, redis_url, free_port())) for kind in ("gateway", "worker") * 2
        ]
        self.gateways = [process for kind, process in parts if kind == "gateway"]
        self.workers = [process for kind, process in parts if kind == "worker"]
        for process in (*self.workers, *self.gateways):
            wait_for(process.page, START_TIMEOUT_S, process.log)
        scrapes = {
            "emmdit-gateway": [process.address for process in self.gateways],
            "emmdit-worker": [process.address for process in self.workers],
        }
        shortened = folder / "alerts.yml"
        groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yml").read_text("utf-8"))
        for group in groups["groups"]:
            for rule in group["rules"]:
                rule["for"] = f"{FOR_S}s"
        shortened.write_text(yaml.safe_dump(groups), "utf-8")
        self.prometheus = stack.enter_context(
            running_prometheus("prometheus", folder, scrapes, [PROMETHEUS / "rules" / "recording.yml", shortened])
        )
        self.until("count(up == 1)", len(parts))  # what happens before the first scrape is in no rate

    def until(self, query, value):
        """Poll until a query gives this value, or these samples: the next scrape may still be on its way."""
        ask = self.prometheus.vector if isinstance(value, dict) else self.prometheus.value
        wait_for(lambda: ask(query) == value, SETTLE_TIMEOUT_S, lambda: f"{query}: {self.prometheus.vector(query)}")


@pytest.fixture(scope="module")
def fleet(embedded_server, tmp_path_factory):
    with ExitStack() as stack:
        yield Fleet(stack, tmp_path_factory.mktemp("fleet"), embedded_server.url)


@pytest.fixture(scope="module")
def loaded(fleet):
    """The fleet after so many pictures, cancellations and wrong requests, half of each at either gateway."""
    addresses = [process.address for process in fleet.gateways]

    def send(kind, index):
        url = f"http://{addresses[index % 2]}/v1"
        body = {"prompt": f"picture {kind} {index}", "model": MODEL}
        if kind == "done":
            return httpx.post(f"{url}/generate", json=body, headers={"Accept": "image/png"}, timeout=120).status_code
        if kind == "wrong":
            return httpx.post(f"{url}/generate", json=body | {"n": 0}, timeout=120).status_code
        job = httpx.post(
            f"{url}/generate",
            json=body | {"n": 8, "num_inference_steps": 1000},
            headers={"Prefer": "respond-async"},
            timeout=120,
        )
        assert job.status_code == 202, job.text
        return httpx.delete(f"{url}/jobs/{job.json()['id']}", timeout=120).status_code

    with ThreadPoolExecutor(4) as pool:
        for kind, number, expected in (
            ("cancelled", NUM_CANCELLED, 202),
            ("done", NUM_DONE, 200),
            ("wrong", NUM_WRONG, 400),
        ):
            assert set(pool.map(send, [kind] * number, range(number))) == {expected}, kind
    fleet.until('sum(emmdit_requests_total{status="cancelled"})', NUM_CANCELLED)
    fleet.until('sum(emmdit_requests_total{status="success"})', NUM_DONE)
    return fleet


def test_everybody_is_scraped_without_a_complaint_and_every_rule_is_evaluated(loaded):
    prometheus = loaded.prometheus
    everybody_up = [("emmdit-gateway", "up", "")] * 2 + [("emmdit-worker", "up", "")] * 2
    wait_for(lambda: sorted(prometheus.targets()) == everybody_up, SETTLE_TIMEOUT_S, lambda: str(prometheus.targets()))
    wait_for(lambda: not prometheus.unhealthy_rules(), SETTLE_TIMEOUT_S, lambda: str(prometheus.unhealthy_rules()))
    names = {rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}
    assert names == {*rules("record"), *rules("alert")}


def test_prometheus_tells_what_the_load_did(loaded):
    outcomes = {"success": NUM_DONE, "cancelled": NUM_CANCELLED, "rejected": NUM_WRONG, "error": 0, "expired": 0}
    loaded.until(
        "sum by (status) (emmdit_requests_total)",
        {(("status", status),): number for status, number in outcomes.items()},
    )
    answers = {"200": NUM_DONE, "202": NUM_CANCELLED, "400": NUM_WRONG}
    loaded.until(
        'sum by (code) (emmdit_http_requests_total{route="/v1/generate"})',
        {(("code", code),): number for code, number in answers.items()},
    )
    loaded.until('sum(emmdit_rejections_total{reason="invalid_value"})', NUM_WRONG)
    loaded.until("sum(emmdit_cancellations_total)", NUM_CANCELLED)
    loaded.until("sum(emmdit_images_total) - sum(emmdit_image_bytes_count)", 0)
    loaded.until(f"sum(emmdit_images_total) >= bool {NUM_DONE}", 1)
    loaded.until(f"sum(emmdit_queue_wait_seconds_count) >= bool {NUM_DONE}", 1)


def test_what_both_gateways_tell_counts_once(loaded):
    loaded.until("emmdit:workers:max", 2)
    loaded.until("emmdit:waiting:max", 0)
    loaded.until("emmdit:running:max", 0)
    loaded.until("emmdit:queue_capacity:max", 256)
    loaded.until("count(emmdit_num_workers)", 2)
    loaded.until("min(emmdit_queue_up)", 1)


def test_recorded_figures_are_there_and_no_alert_fires(loaded):
    prometheus = loaded.prometheus
    wait_for(lambda: (prometheus.value("emmdit:request_duration_seconds:p95_5m") or 0) > 0, SETTLE_TIMEOUT_S)
    loaded.until("emmdit:error_ratio:rate5m", 0)
    loaded.until("emmdit:refusal_ratio:rate5m", 0)
    # How full this machine's disk is, is not our business.
    assert prometheus.vector('ALERTS{alertstate="firing", alertname!~"EmmditDisk.*"}') == {}


def test_every_panel_of_every_dashboard_can_be_drawn(loaded):
    queries = [query for dashboard in dashboards().values() for query in panel_queries(dashboard)]

    def too_few():
        num_series = Counter()
        for title, query in queries:
            num_series[title] += len(loaded.prometheus.vector(query))
        return {title: num_series[title] for title, least in LEAST_SERIES.items() if num_series[title] < least}

    # A rate needs two scrapes of a series.
    wait_for(lambda: not too_few(), SETTLE_TIMEOUT_S, lambda: str(too_few()))


def test_no_label_on_any_page_is_outside_of_its_closed_set(loaded):
    for process in (*loaded.gateways, *loaded.workers):
        assert not unexpected_labels(process.page(), [MODEL], ["64x64"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_has_nothing_against_the_pages(loaded):
    for process in (loaded.gateways[0], loaded.workers[0]):
        done = subprocess.run(["promtool", "check", "metrics"], input=process.page().encode(), capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_when_the_workers_die_the_alert_waits_and_then_fires(loaded):
    for worker in loaded.workers:
        worker.kill()
    prometheus, seen = loaded.prometheus, set()

    def is_firing():
        seen.update(prometheus.alert_states("EmmditNoWorker"))
        return "firing" in seen

    wait_for(is_firing, SETTLE_TIMEOUT_S, lambda: str(prometheus.get("alerts")))
    wait_for(lambda: prometheus.alert_states("EmmditWorkerDown") == ["firing"] * 2, SETTLE_TIMEOUT_S)
    assert prometheus.alert_states("EmmditNoGateway") == []
    loaded.until('count(ALERTS{alertname="EmmditNoWorker", alertstate="firing"})', 1)
    assert httpx.get(f"http://{loaded.gateways[0].address}/readyz", timeout=10).status_code == 503
