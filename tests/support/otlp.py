"""An OTLP receiver on loopback: takes traces over HTTP as a collector does, and decodes them with OpenTelemetry's own
definition of the protocol."""

import gzip
import threading
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class ReceivedSpan:
    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_at_ns: int
    ended_at_ns: int
    attributes: dict
    error: str

    @property
    def duration_s(self):
        return (self.ended_at_ns - self.began_at_ns) / 1e9


@dataclass
class Receiver:
    """`status` is what it answers. `spans` are those it took; `bodies` is all that came, as it came."""

    url: str
    status: int = 200
    spans: list = field(default_factory=list)
    bodies: list = field(default_factory=list)
    num_requests: int = 0

    def of_trace(self, trace_id):
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def take(self, path, body):
        self.num_requests += 1
        if self.status != 200 or path != "/v1/traces":
            return
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_received(resource["service.name"], span) for span in scope.spans]


def _received(service, span):
    return ReceivedSpan(
        service=service,
        name=span.name,
        kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began_at_ns=span.start_time_unix_nano,
        ended_at_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else "",
    )


def _values(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def receiving():
    """A receiver on a free port, up until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding")
            if encoding == "gzip":
                body = gzip.decompress(body)
            elif encoding == "deflate":
                body = zlib.decompress(body)
            receiver.take(self.path, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(receiver.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="otlp")
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
