"""Spans on their way to an OpenTelemetry collector. Sole importer of opentelemetry, and only where tracing is on.

Nothing here waits for the collector but one thread: spans that it has no room for, or that the collector does not
take, are dropped and counted. Surprising: the SDK's own batch processor is not used, since it neither counts what it
drops nor ends within a given time.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from service.errors import ConfigurationError
from service.metrics import Metrics, software_version
from service.settings import Settings
from service.trace_context import SAMPLED, TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as SdkSpan

logger = logging.getLogger(__name__)

MAX_WAITING_SPANS = 4096
MAX_BATCH_SPANS = 256
BATCH_DELAY_S = 1.0
EXPORT_TIMEOUT_S = 5.0  # one batch's, with all its retries
CLOSE_TIMEOUT_S = 2.0
LAST_WORDS_S = 0.5  # to count what could not be sent

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["SERVER", "CONSUMER", "INTERNAL"]


def tracing_of(settings: Settings, metrics: Metrics, *, process: str, instance: str) -> Tracing | None:
    """None where the settings name no collector. Raises ConfigurationError where the extra is not installed."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"otlp_endpoint is set, and {error.name} is not installed: pip install 'emmdit[tracing]'"
        ) from None
    exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
    outbox = Outbox(exporter, lambda number: metrics.trace_spans_lost.inc(number))
    name = f"emmdit-{process}"
    resource = {"service.name": name, "service.instance.id": instance, "service.version": software_version()}
    return Tracing(outbox, resource, settings.trace_sample_ratio, min(CLOSE_TIMEOUT_S, settings.drain_timeout_s))


class Tracing:
    """Starts spans and sends them. Whether a trace is recorded its first span decides; the others follow."""

    def __init__(self, outbox: Outbox, resource: Attributes, sample_ratio: float, close_timeout_s: float) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        class Forwarding(SpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                outbox.put(span)

        provider = TracerProvider(
            ParentBasedTraceIdRatio(sample_ratio), Resource.create(dict(resource)), shutdown_on_exit=False
        )
        provider.add_span_processor(Forwarding())
        self._tracer = provider.get_tracer("emmdit", software_version())
        self._outbox = outbox
        self._close_timeout_s = close_timeout_s

    def start(
        self,
        name: str,
        parent: TraceContext | None,
        *,
        kind: Kind = "INTERNAL",
        began_at_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """A span below `parent`, in another process or this one, or the first of a trace. Times are of time.time_ns."""
        from opentelemetry import trace
        from opentelemetry.context import Context

        above = Context()
        if parent is not None:
            flags = trace.TraceFlags(SAMPLED if parent.is_sampled else 0)
            context = trace.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags)
            above = trace.set_span_in_context(trace.NonRecordingSpan(context), above)
        span = self._tracer.start_span(name, above, trace.SpanKind[kind], attributes, start_time=began_at_ns)
        return Span(self, span)

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than it may. Blocks."""
        self._outbox.close(self._close_timeout_s)


class Span:
    """One span under way. Without `is_recorded` nothing about it is kept, and it has its ids all the same."""

    def __init__(self, tracing: Tracing, span: SdkSpan) -> None:
        self._tracing = tracing
        self._span = span
        own = span.get_span_context()
        self.context = TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", bool(own.trace_flags.sampled))

    @property
    def is_recorded(self) -> bool:
        """Whether it will be sent."""
        return self.context.is_sampled

    def rename(self, name: str) -> None:
        """Say by what name it is to be found."""
        self._span.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add to what is known of it."""
        self._span.set_attributes(attributes)

    def add_child(self, name: str, began_at_ns: int, ended_at_ns: int, attributes: Attributes, error: str) -> None:
        """A span below this one that is over already."""
        child = self._tracing.start(name, self.context, began_at_ns=began_at_ns, attributes=attributes)
        child.end(error, ended_at_ns)

    def end(self, error: str = "", ended_at_ns: int | None = None) -> None:
        """`error` is a code or a class, empty where all went well: messages may hold what is not ours to tell."""
        if error:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(ended_at_ns)


class Outbox:
    """Ended spans that wait to be sent, a bounded number of them, and the thread that sends them.

    `on_lost` is told how many were dropped, from any thread.
    """

    def __init__(self, exporter: SpanExporter, on_lost: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._on_lost = on_lost
        self._waiting: queue.Queue[ReadableSpan] = queue.Queue(MAX_WAITING_SPANS)
        self._is_closing = threading.Event()
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> None:
        """Never waits."""
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            self._on_lost(1)

    def close(self, timeout_s: float) -> None:
        """Send what waits; what is not sent by then is dropped."""
        self._is_closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # ends a retry under way, and takes nothing more
        self._thread.join(LAST_WORDS_S)
        if self._thread.is_alive():
            self._on_lost(self._waiting.qsize())

    def _run(self) -> None:
        while True:
            is_closing = self._is_closing.wait(BATCH_DELAY_S)
            while batch := self._take():
                self._send(batch)
            if is_closing:
                return

    def _take(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        while len(batch) < MAX_BATCH_SPANS:
            try:
                batch.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return batch

    def _send(self, batch: list[ReadableSpan]) -> None:
        result: Any = None
        try:
            result = self._exporter.export(batch)
        except Exception:  # the edge of this thread: tracing harms nobody
            logger.exception("sending spans failed")
        is_failing = result is None or result.name != "SUCCESS"
        if is_failing:
            self._on_lost(len(batch))
        if is_failing and not self._is_failing:
            logger.warning("the collector does not take spans; they are dropped until it does")
        elif self._is_failing and not is_failing:
            logger.warning("the collector takes spans again")
        self._is_failing = is_failing


def now_ns() -> int:
    """The clock of all spans."""
    return time.time_ns()
