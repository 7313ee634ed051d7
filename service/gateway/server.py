"""The gateway as a process: socket, server, signals, and a stop that costs no request.

On SIGTERM or SIGINT: not ready at once; after `drain_delay_s`, when load balancers have noticed, no new connections;
handlers that still wait get `drain_timeout_s`, then an answer that says where their job goes on. A second Ctrl-C is
an end without delay.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from model.catalog import find_cards
from model.config import ModelCard
from model.errors import BundleError
from service.blob_stores import open_blobs
from service.errors import ConfigurationError, ServerOverloaded
from service.gateway.app import create_app
from service.gateway.auth import refuse_open_binding
from service.gateway.connections import RESERVED_CONNECTIONS, Connections
from service.gateway.context import Gateway
from service.gateway.heads import MAX_HEAD_BYTES
from service.metrics import Metrics
from service.queues import Queues
from service.settings import Settings
from service.tracing import tracing_of

NUM_THREADS = 32  # they wait for the store of pictures more than they work
LAST_ANSWERS_S = 5  # what handlers get to send their answer once the waiting is over
BACKLOG = 2048
OTHER_FILES = 192  # Redis, pictures being read, libraries
KEEP_ALIVE_S = 75  # longer than clients and balancers keep theirs (5 to 60 s), or they would send into a closed one


def run_gateway(settings: Settings) -> None:
    """Serve until told to stop. Raises ConfigurationError where that cannot begin."""
    refuse_open_binding(settings)
    url = settings.queue_url()
    if url is None:
        raise ConfigurationError("redis_url is not set; a gateway on its own needs one (EMMDIT_REDIS_URL)")
    try:
        cards = find_cards(settings.models, settings.models_dir)
    except BundleError as error:
        raise ConfigurationError(str(error)) from error
    make_room_for_files(settings.max_connections)
    with bind(settings.host, settings.port) as listener:
        asyncio.run(_serve(settings, url, cards, listener))


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigurationError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"host: {host!r} is no address of this machine: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def make_room_for_files(max_connections: int) -> None:
    """Let this process have a file for every connection. Raises ConfigurationError where the system forbids it."""
    needed = max_connections + RESERVED_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"max_connections: {max_connections} needs {needed} open files and this process may have {hard}; "
            "raise that limit (ulimit -n) or take fewer"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class GatewayServer(uvicorn.Server):
    """uvicorn, stopping in steps. Takes the process's signals while it serves and raises none again afterwards."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,  # logging belongs to the command line
                access_log=False,  # the envelope writes one line per request, without paths
                server_header=False,
                http=Connections(settings, app.state.gateway.metrics).protocol(),  # h11, the same everywhere
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                lifespan="on",
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s) + LAST_ANSWERS_S,
            )
        )
        self._gateway: Gateway = app.state.gateway
        self._num_interrupts = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's hook. Called inside the running loop; a thread other than the main one gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)

    def stop(self) -> None:
        """Begin to stop. Asking again changes nothing."""
        if self._gateway.is_draining:
            return
        self._gateway.is_draining = True
        settings = self._gateway.settings
        loop = asyncio.get_running_loop()
        loop.call_later(settings.drain_delay_s, setattr, self, "should_exit", True)
        loop.call_later(settings.drain_delay_s + settings.drain_timeout_s, self._gateway.send_home)

    def _interrupt(self) -> None:
        """Ctrl-C. A terminal sends it to all processes and a supervisor adds SIGTERM: only a second one is haste."""
        self._num_interrupts += 1
        if self._num_interrupts > 1:
            self._gateway.send_home()
            self.should_exit = self.force_exit = True
        self.stop()


async def _serve(settings: Settings, url: str, cards: Sequence[ModelCard], listener: socket.socket) -> None:
    queues = Queues.connect(url, models=[card.name for card in cards], limits=settings.queue_limits())
    blobs = open_blobs(settings)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS, "gateway"))
    try:
        with suppress(ServerOverloaded):  # it may come later; a wrong password (ConfigurationError) never gets right
            await queues.ping()
        metrics = Metrics()
        tracing = tracing_of(settings, metrics, process="gateway", instance=f"{socket.gethostname()}-{os.getpid()}")
        try:
            app = create_app(settings, queues, blobs, metrics, cards, tracing=tracing)
            await GatewayServer(app, settings).serve(sockets=[listener])
        finally:
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
    finally:
        await queues.close()
        await asyncio.to_thread(blobs.close)
