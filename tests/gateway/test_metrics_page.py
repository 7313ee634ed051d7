"""/metrics: names, labels and numbers as documented, and nothing in a label that a client could choose."""

import os
import shutil
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.jobs import Failed
from service.metrics import Metrics, WorkerGauges, batch_label
from service.queue_types import QueueStats
from tests.gateway.harness import wait_until

LABELS = {
    "emmdit_http_requests": {"method", "route", "code"},
    "emmdit_http_request_duration_seconds": {"le"},
    "emmdit_http_connections": set(),
    "emmdit_http_connections_cut": {"reason"},
    "emmdit_requests": {"model", "status"},
    "emmdit_request_duration_seconds": {"le"},
    "emmdit_time_to_first_preview_seconds": {"le"},
    "emmdit_queue_wait_seconds": {"priority", "le"},
    "emmdit_num_requests_waiting": {"model"},
    "emmdit_num_requests_running": {"model"},
    "emmdit_queue_capacity": {"model"},
    "emmdit_queue_oldest_age_seconds": {"model"},
    "emmdit_num_dead_letters": {"model"},
    "emmdit_batch_size": {"stage", "le"},
    "emmdit_batch_occupancy_ratio": {"le"},
    "emmdit_stage_duration_seconds": {"stage", "le"},
    "emmdit_denoise_step_duration_seconds": {"resolution", "batch", "le"},
    "emmdit_denoise_steps": set(),
    "emmdit_images": {"model", "resolution"},
    "emmdit_image_bytes": {"le"},
    "emmdit_rejections": {"reason"},
    "emmdit_redeliveries": set(),
    "emmdit_cancellations": {"phase"},
    "emmdit_store_refusals": set(),
    "emmdit_cache_events": {"cache", "result"},
    "emmdit_worker_up": set(),
    "emmdit_worker_last_heartbeat_timestamp_seconds": set(),
    "emmdit_device_memory_bytes": {"kind"},
    "emmdit_worker_can_store": set(),
    "emmdit_worker_compiled_networks": set(),
    "emmdit_model_memory_bytes": {"model", "part"},
    "emmdit_build_info": {"version", "python"},
}
REQUEST_BUCKETS = [
    "0.025",
    "0.05",
    "0.1",
    "0.15",
    "0.2",
    "0.3",
    "0.5",
    "0.75",
    "1.0",
    "1.5",
    "2.5",
    "5.0",
    "10.0",
    "30.0",
    "60.0",
    "120.0",
    "+Inf",
]
STAGE_BUCKETS = ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.25", "0.5", "1.0", "5.0", "+Inf"]
BUCKETS = {
    "emmdit_http_request_duration_seconds": REQUEST_BUCKETS,
    "emmdit_request_duration_seconds": REQUEST_BUCKETS,
    "emmdit_time_to_first_preview_seconds": REQUEST_BUCKETS,
    "emmdit_queue_wait_seconds": REQUEST_BUCKETS,
    "emmdit_stage_duration_seconds": STAGE_BUCKETS,
    "emmdit_denoise_step_duration_seconds": STAGE_BUCKETS,
    "emmdit_batch_size": ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "+Inf"],
}


def families(text):
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found), "a family is there twice"
    return {family.name: family for family in found}


def fill(metrics):
    """Touch every family once."""
    metrics.http_connections_cut.labels("slow_head").inc()
    metrics.observe_step("512x512", 3, 5, 8, 0.02)
    metrics.batch_size.labels("decode").observe(2)
    metrics.stage_duration.labels("png").observe(0.01)
    metrics.images.labels("demo", "512x512").inc()
    metrics.image_bytes.observe(300_000)
    metrics.cache_events.labels("prompt", "hit").inc()
    metrics.redeliveries.inc()
    metrics.cancellations.labels("queued").inc()
    metrics.queue_wait.labels("normal").observe(0.1)
    metrics.count_http("GET", "/livez", 200, 0.001)
    metrics.count_rejection("demo", "invalid_value")
    gauges = WorkerGauges(metrics.registry)
    gauges.up.set(1)
    gauges.last_heartbeat.set(1_700_000_000)
    gauges.device_memory.labels("total").set(2**30)
    gauges.model_memory.labels("demo+demo-dist", "text_encoder").set(2**20)


def test_families_labels_and_buckets_are_the_documented_ones():
    metrics = Metrics()
    fill(metrics)
    found = families(metrics.render({"demo": QueueStats(5, 2, 1.5, 256, 1)}).decode())
    assert set(found) == set(LABELS)
    for name, family in found.items():
        assert family.documentation
        assert set().union(*(sample.labels for sample in family.samples)) == LABELS[name], name
    for name, buckets in BUCKETS.items():
        edges = [sample.labels["le"] for sample in found[name].samples if sample.name.endswith("_bucket")]
        assert list(dict.fromkeys(edges)) == buckets, name
    assert found["emmdit_num_requests_waiting"].samples[0].value == 5
    assert found["emmdit_queue_oldest_age_seconds"].samples[0].value == 1.5


def test_a_gateway_says_nothing_about_workers_it_is_not():
    assert "worker_up" not in Metrics().render().decode()


def test_batch_labels_are_a_closed_set():
    assert [batch_label(rows) for rows in (1, 2, 3, 8, 9, 64, 65)] == ["1", "2", "4", "8", "16", "64", "64+"]


def test_the_page_counts_what_happened(start_gateway):
    with start_gateway() as gateway:
        model = gateway.model
        gateway.generate()
        gateway.wait_for_state(gateway.submit(priority="low"), "done")
        gateway.generate(n=0)
        gateway.generate(model="other")
        gateway.worker.failure = Failed("broken", "no")
        gateway.generate()
        gateway.worker.failure, gateway.worker.is_claiming = None, False
        gateway.generate(timeout_s=0.1)
        gateway.client.delete(f"/v1/jobs/{gateway.submit()}")
        gateway.submit()
        gateway.client.get("/v1/jobs/a-secret-id")
        gateway.client.get("/somewhere/else?token=secret")
        gateway.client.request("BREW", "/livez")

        wait_until(lambda: gateway.value("requests_total", model=model, status="cancelled") == 1)
        for status, count in {"success": 2, "error": 1, "expired": 1, "rejected": 1}.items():
            assert gateway.value("requests_total", model=model, status=status) == count, status
        assert gateway.value("requests_total", model="unknown", status="rejected") == 1
        assert gateway.value("rejections_total", reason="invalid_value") == 1
        assert gateway.value("rejections_total", reason="model_not_found") == 1
        assert gateway.value("cancellations_total", phase="queued") == 1
        assert gateway.value("queue_wait_seconds_count", priority="low") == 1
        assert gateway.value("queue_wait_seconds_count", priority="normal") == 2

        response = gateway.client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        found = families(response.text)
        assert found["emmdit_num_requests_waiting"].samples[0].value == 1
        assert found["emmdit_num_requests_running"].samples[0].value == 0
        assert found["emmdit_queue_capacity"].samples[0].value == 256
        http = {
            (s.labels["method"], s.labels["route"], s.labels["code"]) for s in found["emmdit_http_requests"].samples
        }
        assert ("GET", "/v1/jobs/{job_id}", "404") in http
        assert ("GET", "unmatched", "404") in http
        assert ("other", "/livez", "405") in http
        assert ("POST", "/v1/generate", "202") in http
        assert "secret" not in response.text


WRITER = """
import os, sys
from service.metrics import Metrics, WorkerGauges
metrics = Metrics()
metrics.images.labels("demo", "512x512").inc(2)
metrics.batch_size.labels("denoise").observe(4)
gauges = WorkerGauges(metrics.registry)
gauges.up.set(1)
gauges.last_heartbeat.set(float(sys.argv[1]))
gauges.device_memory.labels("total").set(10)
os.kill(os.getpid(), 9)
"""
READER = """
import sys
from service.metrics import Metrics
from service.queue_types import QueueStats
sys.stdout.write(Metrics().render({"demo": QueueStats(1, 0, 0.0, 8)}).decode())
"""


def test_processes_that_share_a_folder_share_a_page(tmp_path):
    """Two workers write (and are killed); a gateway that draws nothing reads."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for beat in ("200", "100"):
        subprocess.run([sys.executable, "-c", WRITER, beat], env=environment, check=False)
    page = subprocess.run([sys.executable, "-c", READER], env=environment, check=True, capture_output=True, text=True)
    found = families(page.stdout)
    assert found["emmdit_images"].samples[0].value == 4
    assert found["emmdit_worker_up"].samples[0].value == 2
    assert found["emmdit_worker_last_heartbeat_timestamp_seconds"].samples[0].value == 100
    assert found["emmdit_device_memory_bytes"].samples[0].value == 20
    assert found["emmdit_queue_capacity"].samples[0].value == 8
    assert found["emmdit_build_info"].samples[0].value == 1
    for name, family in found.items():
        assert set().union(*(sample.labels for sample in family.samples)) <= LABELS[name], name


@pytest.mark.system
def test_promtool_has_nothing_to_say(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    metrics = Metrics()
    fill(metrics)
    page = metrics.render({"demo": QueueStats(5, 2, 1.5, 256, 1)})
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
