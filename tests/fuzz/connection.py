"""A connection of the gateway without a socket: bytes in, the responses that they got out."""

import asyncio

import h11
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from uvicorn.server import ServerState

from service.errors import EmmditError
from service.gateway.body import read_json_object
from service.gateway.connections import Connections
from service.gateway.envelope import Envelope
from service.gateway.heads import MAX_HEAD_BYTES
from service.gateway.responses import error_response
from service.metrics import Metrics
from service.settings import Settings

MAX_TURNS = 50


class Transport:
    """What a connection needs of asyncio's."""

    def __init__(self):
        self.sent = b""
        self.is_closed = False

    def write(self, data):
        assert not (self.is_closed and data)
        self.sent += data

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    def get_extra_info(self, name, default=None):
        return self if name == "socket" else default

    def getsockname(self):
        return ("127.0.0.1", 8000)

    getpeername = getsockname

    def get_write_buffer_size(self):
        return 0

    def ignore(self, *_, **__):
        pass

    abort = close
    write_eof = set_write_buffer_limits = setsockopt = pause_reading = resume_reading = ignore
    family = None


async def _app(scope, receive, send):
    """Reads a body of JSON where there could be one, as the routes do."""
    request = Request(scope, receive)
    try:
        if request.method == "POST":
            response = JSONResponse(list(await read_json_object(request, max_bytes=1000, timeout_s=5)))
        else:
            response = JSONResponse([str(request.url), str(request.base_url), request.query_params.multi_items()])
    except EmmditError as error:
        response = error_response(error, request.state.request_id)
    await response(scope, receive, send)


_metrics = Metrics()
_connections = Connections(Settings(), _metrics)
_config = uvicorn.Config(
    Envelope(_app, _metrics),
    log_config=None,
    lifespan="off",
    ws="none",
    server_header=False,
    http=_connections.protocol(),
    h11_max_incomplete_event_size=MAX_HEAD_BYTES,
)
_runner = asyncio.Runner()


def serve(data, piece_bytes):
    """[(status, headers, body)] for the bytes of one connection. Raises what escaped from handling them."""
    return _runner.run(_serve(data, piece_bytes))


async def _serve(data, piece_bytes):
    if not _config.loaded:
        _config.load()
    transport, state = Transport(), ServerState()
    connection = _config.http_protocol_class(
        config=_config, server_state=state, app_state={}, _loop=asyncio.get_running_loop()
    )
    connection.connection_made(transport)
    for start in range(0, len(data), piece_bytes):
        if transport.is_closed:
            break
        connection.data_received(data[start : start + piece_bytes])
        await asyncio.sleep(0)
    for _ in range(MAX_TURNS):
        if not state.tasks or transport.is_closed:
            break
        await asyncio.sleep(0)
    transport.is_closed = True
    connection.connection_lost(None)
    await asyncio.wait_for(asyncio.gather(*state.tasks), 5)
    return _responses(transport.sent)


def _responses(sent):
    client = h11.Connection(h11.CLIENT)
    client.receive_data(sent)
    found = []
    while client.trailing_data[0]:
        client.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
        client.send(h11.EndOfMessage())
        response, content = None, b""
        while type(event := client.next_event()) is not h11.EndOfMessage:
            if event in (h11.NEED_DATA, h11.PAUSED) or type(event) is h11.ConnectionClosed:
                return found  # cut off in the middle of it
            if type(event) is h11.Response:
                response = event
            elif type(event) is h11.Data:
                content += event.data
        assert response is not None
        found.append((response.status_code, dict(response.headers), content))
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    return found
