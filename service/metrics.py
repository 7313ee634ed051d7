"""Every metric, on a registry that is passed in. Labels are closed sets: never a prompt, a job id or a raw path.

Who counts: a job's end is counted by the gateway that accepted it (`count_end`), pictures and batches by the worker,
redeliveries by whichever process reaped. Surprising: with PROMETHEUS_MULTIPROC_DIR set before this module is
imported, the numbers of all processes that share the folder come out of any one of them (service/metrics_page.py).
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from service.errors import NoWorker, QueueFull, ServerOverloaded
from service.jobs import Cancelled, JobState, JobStatus

__all__ = ["Metrics", "WorkerGauges"]

NAMESPACE = "emmdit"
REQUEST_BUCKETS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120)
STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
OCCUPANCY_BUCKETS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
BYTES_BUCKETS = tuple(2**power for power in range(10, 24))  # 1 KiB to 8 MiB

HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STATUS_OF_STATE = {
    JobState.DONE: "success",
    JobState.FAILED: "error",
    JobState.CANCELLED: "cancelled",
    JobState.EXPIRED: "expired",
}
REJECTED = "rejected"
# Refusals that are the service's fault and not the client's: alerts count them from the first one on.
OWN_REFUSALS = (QueueFull.code, ServerOverloaded.code, NoWorker.code)


class Metrics:
    """Counters and histograms of gateway and worker. Each attribute is the metric of that name, less its unit."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series and say nothing that build_info does not

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=NAMESPACE, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, namespace=NAMESPACE, registry=registry, buckets=buckets)

        # HTTP
        self.http_requests = counter(
            "http_requests_total", "HTTP responses by route template.", "method", "route", "code"
        )
        self.http_request_duration = histogram(
            "http_request_duration_seconds", "From the request's head to the response's end.", REQUEST_BUCKETS_S
        )

        self.http_connections = Gauge(
            "http_connections",
            "Connections that are open.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.http_connections_cut = counter(
            "http_connections_cut_total",
            "Connections ended from here: slow_head, slow_reader, made_room, refused, malformed.",
            "reason",
        )

        # Requests for pictures
        self.requests = counter(
            "requests_total",
            "Requests for pictures by outcome: success, error, cancelled, expired, rejected.",
            "model",
            "status",
        )
        self.request_duration = histogram(
            "request_duration_seconds", "From a job's acceptance to its end.", REQUEST_BUCKETS_S
        )
        self.queue_wait = histogram(
            "queue_wait_seconds", "From a job's acceptance to its start.", REQUEST_BUCKETS_S, "priority"
        )
        self.time_to_first_preview = histogram(
            "time_to_first_preview_seconds",
            "From a streamed request's arrival to its first preview's departure.",
            REQUEST_BUCKETS_S,
        )
        self.rejections = counter(
            "rejections_total", "Requests refused at the door: for pictures, and any without a valid key.", "reason"
        )
        self.redeliveries = counter("redeliveries_total", "Jobs put back into the queue because their worker was lost.")
        self.cancellations = counter(
            "cancellations_total", "Jobs cancelled, by where they were: queued or running.", "phase"
        )

        # Batches and stages
        self.batch_size = histogram("batch_size", "Rows per batch.", BATCH_BUCKETS, "stage")
        self.batch_occupancy = histogram(
            "batch_occupancy_ratio", "Rows under way over the worker's rows, per step.", OCCUPANCY_BUCKETS
        )
        self.out_of_memory = counter(
            "out_of_memory_total", "Batches that the device had no memory for and that were halved.", "stage"
        )
        self.stage_duration = histogram(
            "stage_duration_seconds",
            "Time per batch and stage: text_encode, denoise, preview, decode, png, store.",
            STAGE_BUCKETS_S,
            "stage",
        )
        self.denoise_step_duration = histogram(
            "denoise_step_duration_seconds",
            "Time of one denoising step of a whole batch.",
            STAGE_BUCKETS_S,
            "resolution",
            "batch",
        )
        self.denoise_steps = counter("denoise_steps_total", "Denoising steps done, counted per picture.")
        self.images = counter("images_total", "Pictures drawn and stored.", "model", "resolution")
        self.image_bytes = histogram("image_bytes", "Size of the PNGs.", BYTES_BUCKETS)
        self.store_refusals = counter(
            "store_refusals_total", "Finished pictures that their store refused: it is full, or away."
        )
        self.cache_events = counter("cache_events_total", "Cache look-ups: hit or miss.", "cache", "result")

        self.trace_spans_lost = counter(
            "trace_spans_lost_total", "Spans dropped because the collector did not take them or not soon enough."
        )

        self._build_info = Gauge(
            "build_info",
            "Always 1; the labels say what runs.",
            ("version", "python"),
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="max",
        )
        self._build_info.labels(software_version(), platform.python_version()).set(1)

    def count_http(self, method: str, route: str, code: int, duration_s: float, trace_id: str | None = None) -> None:
        """`route` is the template, "unmatched" where no route took the request.

        Durations keep one `trace_id` per bucket as their exemplar, of requests that somebody records.
        """
        self.http_requests.labels(method_label(method), route, str(code)).inc()
        self.http_request_duration.observe(duration_s, {"trace_id": trace_id} if trace_id else None)

    def declare_outcomes(self, models: Collection[str]) -> None:
        """Show what a gateway will count as 0 from the start: a rate cannot see a counter's first step otherwise."""
        for model in models:
            for status in (*STATUS_OF_STATE.values(), REJECTED):
                self.requests.labels(model, status)
        for reason in OWN_REFUSALS:
            self.rejections.labels(reason)

    def count_rejection(self, model: str, reason: str) -> None:
        """A request for pictures that never became a job. `reason` is an error code of ours."""
        self.rejections.labels(reason).inc()
        self.requests.labels(model, REJECTED).inc()

    def count_end(self, status: JobStatus, *, num_requests: int = 1) -> None:
        """A job's one terminal state. Called once per job, by the gateway that accepted it for so many requests."""
        self.requests.labels(status.job.model, STATUS_OF_STATE[status.state]).inc(num_requests)
        if status.finished_at is not None:
            self.request_duration.observe(max(0.0, status.finished_at - status.created_at))
        if status.started_at is not None:
            wait_s = max(0.0, status.started_at - status.created_at)
            self.queue_wait.labels(status.job.priority.name.lower()).observe(wait_s)
        if isinstance(status.result, Cancelled):
            self.cancellations.labels(status.result.phase).inc()

    def count_answer(self, model: str, state: JobState) -> None:
        """A request that was answered apart from a job's end: later, or before it."""
        self.requests.labels(model, STATUS_OF_STATE[state]).inc()

    def count_look_up(self, cache: str, *, is_hit: bool) -> None:
        """Whether something was there already."""
        self.cache_events.labels(cache, "hit" if is_hit else "miss").inc()

    def observe_step(self, resolution: str, num_pictures: int, num_rows: int, max_rows: int, duration_s: float) -> None:
        """One denoising step of `num_pictures` in `num_rows` of a forward's `max_rows`; `resolution` is "512x512"."""
        self.batch_size.labels("denoise").observe(num_rows)
        self.batch_occupancy.observe(num_rows / max_rows)
        self.stage_duration.labels("denoise").observe(duration_s)
        self.denoise_step_duration.labels(resolution, batch_label(num_rows)).observe(duration_s)
        self.denoise_steps.inc(num_pictures)


class WorkerGauges:
    """Gauges that only a worker has: a gateway that exported `worker_up 0` would raise false alarms.

    Where processes share one page (`emmdit serve`), `up` counts the workers alive and the heartbeat is the oldest one.
    The supervisor calls `prometheus_client.multiprocess.mark_process_dead(pid)` for a worker that died.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "worker_up",
            "1 while the worker has its model loaded and takes jobs.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.last_heartbeat = Gauge(
            "worker_last_heartbeat_timestamp_seconds",
            "When the worker last reached the queue, Unix time.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.device_memory = Gauge(
            "device_memory_bytes",
            "Memory of the device: total, reserved, allocated, peak.",
            ("kind",),
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.can_store = Gauge(
            "worker_can_store",
            "1 while the store takes the worker's pictures; 0: they wait, and it claims nothing.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.compiled_networks = Gauge(
            "worker_compiled_networks",
            "Compiled networks that the worker draws with, one for each model and size; 0: all as they are.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.failed_compilations = Gauge(
            "worker_failed_compilations",
            "Compilations that failed since the worker's start: it draws these models and sizes without, more slowly.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.active_images = Gauge(
            "worker_active_images",
            "Pictures that the worker has claimed and not yet stored, as of its last heartbeat.",
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.model_memory = Gauge(
            "model_memory_bytes",
            "Weights in memory: network, text_encoder, autoencoder; what models share is there once, under all names.",
            ("model", "part"),
            namespace=NAMESPACE,
            registry=registry,
            multiprocess_mode="livesum",
        )


def method_label(method: str) -> str:
    """An HTTP method as one of a closed set."""
    return method if method in HTTP_METHODS else "other"


def batch_label(num_rows: int) -> str:
    """The batch bucket that `num_rows` falls into: a closed set of label values."""
    return next((str(bound) for bound in BATCH_BUCKETS if num_rows <= bound), f"{BATCH_BUCKETS[-1]}+")


@cache
def software_version() -> str:
    """The installed package's version. Read from disk once: every picture names it."""
    try:
        return version("emmdit")
    except PackageNotFoundError:  # run from a source tree without installing
        return "unknown"
