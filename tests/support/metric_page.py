"""Every metric that the service registers, each touched once, and how to read a page of them."""

import re
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.gateway.app import ROUTERS
from service.gateway.connections import Cut
from service.gateway.openapi.faults import FAULTS
from service.metrics import BATCH_BUCKETS, HTTP_METHODS, STATUS_OF_STATE, Metrics, WorkerGauges, batch_label
from service.metrics_page import ModelFacts, SharedFacts, render_page
from service.queue_types import QueueStats

FACTS = SharedFacts(
    is_queue_up=True,
    models={"demo": ModelFacts(QueueStats(5, 2, 1.5, 256, 1, waiting_cost=30.0), [10.0, 5.0])},
    memory_ratio=0.25,
    disk_bytes={"total": 100, "free": 40},
)


@dataclass(frozen=True)
class Registered:
    """`kind` is counter, gauge or histogram; `name` is what queries say: with _total, without _bucket."""

    name: str
    kind: str
    labels: frozenset

    @property
    def series(self):
        """Names under which it can be queried."""
        return {f"{self.name}_{end}" for end in ("bucket", "sum", "count")} if self.kind == "histogram" else {self.name}


def filled(trace_id=None):
    """Metrics of a gateway and a worker, with every family touched once."""
    metrics = Metrics(CollectorRegistry())
    metrics.observe_step("512x512", 3, 5, 8, 0.02)
    metrics.batch_size.labels("decode").observe(2)
    metrics.stage_duration.labels("png").observe(0.01)
    metrics.images.labels("demo", "512x512").inc()
    metrics.image_bytes.observe(300_000)
    metrics.cache_events.labels("text", "hit").inc()
    metrics.redeliveries.inc()
    metrics.out_of_memory.labels("denoise").inc()
    metrics.cancellations.labels("queued").inc()
    metrics.queue_wait.labels("normal").observe(0.1)
    metrics.count_http("GET", "/livez", 200, 0.001, trace_id)
    metrics.count_rejection("demo", "invalid_value")
    metrics.http_connections_cut.labels("slow_head").inc()
    gauges = WorkerGauges(metrics.registry)
    gauges.up.set(1)
    gauges.last_heartbeat.set(1_700_000_000)
    gauges.device_memory.labels("total").set(2**30)
    gauges.model_memory.labels("demo+demo-dist", "text_encoder").set(2**20)
    return metrics


def page_text(metrics, facts=FACTS):
    return render_page(metrics.registry, facts)[0].decode()


def families(text):
    """Families of a page by name, as the parser calls them: a counter's without _total."""
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found), "a family is there twice"
    return {family.name: family for family in found}


def registered():
    """Every metric of gateway and worker, by name."""
    found = {}
    for family in families(page_text(filled())).values():
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = Registered(name, family.type, frozenset(labels))
    return found


def closed_sets(models, sizes):
    """What each label may say where these models are served in these sizes."""
    return {
        "method": HTTP_METHODS | {"other"},
        "route": {route.path for router in ROUTERS for route in router.routes} | {"unmatched"},
        "code": {str(code) for code in (*range(200, 206), *range(300, 309), *range(400, 430), 499, *range(500, 505))},
        "model": {*models, "unknown", "+".join(models)},
        "status": {*STATUS_OF_STATE.values(), "rejected"},
        "priority": {"low", "normal", "high"},
        "reason": {*(fault.code for fault in FAULTS), *Cut},
        "phase": {"queued", "running"},
        "stage": {"text_encode", "denoise", "preview", "decode", "png", "store"},
        "resolution": set(sizes),
        "batch": {batch_label(rows) for rows in (*BATCH_BUCKETS, BATCH_BUCKETS[-1] + 1)},
        "cache": {"text", "generation", "idempotency"},
        "result": {"hit", "miss"},
        "kind": {"total", "free", "reserved", "allocated", "peak"},
        "part": {"network", "text_encoder", "autoencoder"},
    }


def unexpected_labels(text, models, sizes):
    """Labels of a page whose values are outside of their closed sets, as (family, label, value)."""
    allowed = closed_sets(models, sizes)
    found = set()
    for family in families(text).values():
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label in ("le", "version", "python"):
                    is_fine = re.fullmatch(r"[\w.+-]{1,40}", value)
                else:
                    is_fine = value in allowed[label]
                if not is_fine:
                    found.add((family.name, label, value))
    return found
