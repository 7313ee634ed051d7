"""The page at /metrics: what a process has counted and, from a gateway, what it looks up at every scrape.

Looked up are facts that all processes share: each gateway tells the same, so a query takes their maximum, never their
sum. OpenMetrics where the scraper asks for it, which alone has room for exemplars; else Prometheus' older text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition
from prometheus_client.registry import Collector

from service.metrics import NAMESPACE
from service.queue_types import QueueStats

__all__ = ["ModelFacts", "SharedFacts", "render_page"]

OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model's queue, and the measured speeds of its live workers in megapixel-steps per second (0: unknown)."""

    stats: QueueStats
    rates: Sequence[float]

    @property
    def backlog_s(self) -> float | None:
        """How long its workers will need for what waits; None where nobody knows."""
        if not self.stats.waiting_cost:
            return 0.0
        rate = sum(self.rates)
        return self.stats.waiting_cost / rate if rate > 0 else None


@dataclass(frozen=True, slots=True)
class SharedFacts:
    """What a gateway looked up. `models` is empty while the queue's server does not answer (`is_queue_up`).

    `memory_ratio` is the share in use of that server's memory limit, None where unknown; `disk_bytes` has the total and
    the free bytes of the disk that pictures lie on, or of data_dir's where they lie on none.
    """

    is_queue_up: bool
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    memory_ratio: float | None = None
    disk_bytes: Mapping[str, int] = field(default_factory=dict)


def render_page(registry: CollectorRegistry, facts: SharedFacts | None = None, accept: str = "") -> tuple[bytes, str]:
    """The page and its content type, for this Accept header. A worker has no `facts`: it only counts.

    With PROMETHEUS_MULTIPROC_DIR set, the numbers of all processes that share the folder come out of any one of them.
    """
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    page = _Page(registry, facts)
    if OPENMETRICS in accept:
        page_bytes: bytes = exposition.generate_latest(page)  # type: ignore[no-untyped-call]
        return page_bytes, exposition.CONTENT_TYPE_LATEST
    return generate_latest(page), CONTENT_TYPE_PLAIN_0_0_4


class _Page(Collector):
    """All families of one page."""

    def __init__(self, registry: CollectorRegistry, facts: SharedFacts | None) -> None:
        self._registry = registry
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()
        if self._facts is not None:
            yield from (family for family in _families(self._facts) if family.samples)


def _families(facts: SharedFacts) -> Iterator[Metric]:
    models = facts.models.items()
    stats = {model: own.stats for model, own in models}
    yield _gauge("queue_up", "1 while the queue's server answers this gateway.", "", {"": float(facts.is_queue_up)})
    yield _gauge(
        "queue_memory_ratio",
        "Memory of the queue's server in use over its limit; 0: it has none. Above 0.8 jobs are refused.",
        "",
        {"": facts.memory_ratio},
    )
    yield _gauge(
        "num_requests_waiting",
        "Jobs in a model's queue, retries included.",
        "model",
        {model: own.num_waiting for model, own in stats.items()},
    )
    yield _gauge(
        "num_requests_running",
        "Jobs that a worker holds.",
        "model",
        {model: own.num_running for model, own in stats.items()},
    )
    yield _gauge(
        "queue_capacity",
        "Jobs that may wait for a model before requests are refused.",
        "model",
        {model: own.capacity for model, own in stats.items()},
    )
    yield _gauge(
        "queue_oldest_age_seconds",
        "Age of the job that has waited longest.",
        "model",
        {model: own.oldest_age_s for model, own in stats.items()},
    )
    yield _gauge(
        "num_dead_letters",
        "Jobs that failed for good and are kept for a look.",
        "model",
        {model: own.num_dead_letters for model, own in stats.items()},
    )
    yield _gauge(
        "queue_backlog_seconds",
        "How long the live workers need for what waits, by their measured speed; missing while that is unknown.",
        "model",
        {model: own.backlog_s for model, own in models},
    )
    yield _gauge(
        "num_workers",
        "Workers with a live heartbeat that serve a model.",
        "model",
        {model: len(own.rates) for model, own in models},
    )
    yield _gauge(
        "data_disk_bytes",
        "The disk for pictures, or that of data_dir where they lie elsewhere: total, free.",
        "kind",
        facts.disk_bytes,
    )


def _gauge(name: str, text: str, label: str, values: Mapping[str, float | None]) -> Metric:
    """One family, by one label or (label "") by none. A value that nobody knows is left out."""
    family = GaugeMetricFamily(f"{NAMESPACE}_{name}", text, labels=(label,) if label else ())
    for label_value, value in values.items():
        if value is not None:
            family.add_metric((label_value,) if label else (), value)
    return family
