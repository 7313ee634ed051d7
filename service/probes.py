"""What orchestrators and Prometheus ask a worker that runs apart: a small HTTP server in a thread of its own.

Surprising: the thread answers even where the worker's event loop hangs, which is what /livez is there to notice. The
port opens once the models are loaded, so that a refused connection is the answer "not started yet".
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

REQUEST_TIMEOUT_S = 5.0  # a prober that sends nothing must not keep its thread


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """Why a worker should be started again, and why it takes no jobs just now; None each where nothing is wrong.

    An unreachable queue is never a reason to start again: a new process would not reach it either.
    """

    stuck: str | None = None
    idle: str | None = None


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds and say nothing."""

    def address_string(self) -> str:
        """The address as it is: the base class would ask a name server."""
        return str(self.client_address[0])


class ProbeServer:
    """Serves /livez, /readyz, /startupz and /metrics until closed. `health` is called from its threads."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: Callable[[], WorkerHealth]) -> None:
        self._health = health
        self._metrics: WSGIApplication = make_wsgi_app(registry)
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server_class = type("_FamilyServer", (_Server,), {"address_family": family})
        self._server: WSGIServer = server_class(address[:2], _Handler)
        self._server.set_app(self._answer)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)
        health = self._health()
        wrong = {"/livez": health.stuck, "/readyz": health.stuck or health.idle, "/startupz": None}
        if path not in wrong:
            return _reply(start_response, "404 Not Found", _error("not_found", f"only {', '.join(wrong)}, /metrics"))
        if reason := wrong[path]:
            return _reply(start_response, "503 Service Unavailable", _error("not_ready", reason))
        return _reply(start_response, "200 OK", {"status": "ok"})


def _error(code: str, message: str) -> dict[str, object]:
    """The service's one error shape."""
    kind = "invalid_request_error" if code == "not_found" else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _reply(start_response: StartResponse, status: str, body: dict[str, object]) -> Iterable[bytes]:
    data = json.dumps(body).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
