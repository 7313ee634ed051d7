"""/metrics: names, labels and numbers as documented, and nothing in a label that a client could choose."""

import os
import shutil
import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from service.jobs import Failed
from service.metrics import Metrics, batch_label
from service.metrics_page import ModelFacts, SharedFacts, render_page
from service.queue_types import QueueStats
from tests.gateway.harness import wait_until
from tests.support.metric_page import families, filled, page_text, unexpected_labels

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
    "emmdit_queue_backlog_seconds": {"model"},
    "emmdit_num_workers": {"model"},
    "emmdit_queue_up": set(),
    "emmdit_queue_memory_ratio": set(),
    "emmdit_data_disk_bytes": {"kind"},
    "emmdit_batch_size": {"stage", "le"},
    "emmdit_batch_occupancy_ratio": {"le"},
    "emmdit_out_of_memory": {"stage"},
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
    "emmdit_trace_spans_lost": set(),
    "emmdit_worker_up": set(),
    "emmdit_worker_last_heartbeat_timestamp_seconds": set(),
    "emmdit_device_memory_bytes": {"kind"},
    "emmdit_worker_can_store": set(),
    "emmdit_worker_compiled_networks": set(),
    "emmdit_worker_failed_compilations": set(),
    "emmdit_worker_active_images": set(),
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


def test_families_labels_and_buckets_are_the_documented_ones():
    found = families(page_text(filled()))
    assert set(found) == set(LABELS)
    for name, family in found.items():
        assert family.documentation
        assert set().union(*(sample.labels for sample in family.samples)) == LABELS[name], name
    for name, buckets in BUCKETS.items():
        edges = [sample.labels["le"] for sample in found[name].samples if sample.name.endswith("_bucket")]
        assert list(dict.fromkeys(edges)) == buckets, name
    assert found["emmdit_num_requests_waiting"].samples[0].value == 5
    assert found["emmdit_queue_oldest_age_seconds"].samples[0].value == 1.5
    assert found["emmdit_queue_backlog_seconds"].samples[0].value == 2.0
    assert found["emmdit_num_workers"].samples[0].value == 2


def test_a_backlog_that_nobody_can_work_off_is_left_out_and_an_empty_one_is_nought():
    waiting = QueueStats(5, 0, 1.5, 256, waiting_cost=30.0)
    facts = SharedFacts(
        is_queue_up=True,
        models={"new": ModelFacts(waiting, [0.0]), "idle": ModelFacts(QueueStats(0, 0, 0.0, 256), [])},
    )
    found = families(page_text(Metrics(), facts))
    backlogs = {s.labels["model"]: s.value for s in found["emmdit_queue_backlog_seconds"].samples}
    assert backlogs == {"idle": 0.0}
    assert {s.labels["model"]: s.value for s in found["emmdit_num_workers"].samples} == {"new": 1, "idle": 0}
    assert "emmdit_queue_memory_ratio" not in found


def test_a_gateway_that_has_lost_the_queue_says_so_and_nothing_else_about_it():
    found = families(page_text(Metrics(), SharedFacts(is_queue_up=False, disk_bytes={"total": 2, "free": 1})))
    assert found["emmdit_queue_up"].samples[0].value == 0
    assert "emmdit_num_requests_waiting" not in found
    assert "emmdit_num_workers" not in found
    assert len(found["emmdit_data_disk_bytes"].samples) == 2


def test_outcomes_that_alerts_watch_are_there_before_the_first_of_them():
    metrics = Metrics()
    metrics.declare_outcomes(["demo"])
    found = families(page_text(metrics))
    statuses = {s.labels["status"]: s.value for s in found["emmdit_requests"].samples}
    assert statuses == dict.fromkeys(("success", "error", "cancelled", "expired", "rejected"), 0)
    reasons = {s.labels["reason"] for s in found["emmdit_rejections"].samples}
    assert reasons == {"rate_limit_exceeded", "server_is_overloaded", "no_worker"}


@pytest.mark.parametrize("trace_id", ["4bf92f3577b34da6a3ce929d0e0e4736", None])
def test_openmetrics_keeps_a_trace_for_a_slow_request_where_there_is_one(trace_id):
    metrics = filled(trace_id)
    page, content_type = render_page(metrics.registry, accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = {family.name: family for family in openmetrics_families(page.decode())}
    kept = [
        sample.exemplar.labels for sample in found["emmdit_http_request_duration_seconds"].samples if sample.exemplar
    ]
    assert kept == ([{"trace_id": trace_id}] if trace_id else [])
    assert b"trace_id" not in render_page(metrics.registry)[0]


def test_a_gateway_says_nothing_about_workers_it_is_not():
    assert "worker_up" not in page_text(Metrics(), None)


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
        openmetrics = gateway.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert openmetrics.text.endswith("# EOF\n")
        found = families(response.text)
        assert found["emmdit_queue_up"].samples[0].value == 1
        assert found["emmdit_num_workers"].samples[0].value == 1
        assert {s.labels["kind"] for s in found["emmdit_data_disk_bytes"].samples} == {"total", "free"}
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


def test_nothing_that_a_client_wrote_gets_into_a_label(start_gateway):
    mark = "Kx7secretKx7"
    with start_gateway() as gateway:
        client = gateway.client
        headers = {"Idempotency-Key": mark, "X-Request-ID": mark, "User-Agent": mark, "X-API-Key": mark}
        gateway.generate(prompt=f"a red apple {mark}", seed=1, headers=headers)
        gateway.generate(prompt=f"a red apple {mark}", seed=2, priority="high")
        for wrong in ("model", "size", "priority", "output_format", "seed", mark):
            assert gateway.generate(**{wrong: mark}).status_code in (400, 404), wrong
        job_id = gateway.submit(priority="low")
        gateway.wait_for_state(job_id, "done")
        for path in (f"/{mark}", f"/v1/jobs/{mark}", f"/v1/jobs/{job_id}/images/{mark}", f"/metrics?{mark}={mark}"):
            client.get(path, headers=headers)
        client.get(f"/v1/jobs/{job_id}/images/0?expires=1&signature={mark}")
        client.request(mark, "/livez")
        client.post("/v1/images/generations", json={"prompt": mark, "model": mark, "user": mark})
        client.post("/v1/generate", content=mark, headers={"Content-Type": mark})
        client.delete(f"/v1/jobs/{mark}")
        wait_until(lambda: gateway.value("requests_total", model=gateway.model, status="success") >= 3)

        page = client.get("/metrics").text
        assert mark not in page
        assert job_id not in page
        assert not unexpected_labels(page, [gateway.model], ["64x64", "32x48"])


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
from service.metrics_page import ModelFacts, SharedFacts, render_page
from service.queue_types import QueueStats
facts = SharedFacts(True, {"demo": ModelFacts(QueueStats(1, 0, 0.0, 8), [])})
sys.stdout.write(render_page(Metrics().registry, facts)[0].decode())
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
    page = page_text(filled()).encode()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
