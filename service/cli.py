"""`emmdit`: every way to start a part of the service. Sole owner of logging, signals and exit codes.

Imports of torch and of the gateway happen inside the commands, so that `emmdit --help` answers at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.bundle import Bundle
from model.catalog import resolve_bundle
from model.errors import BundleError
from service.cli_bench import bench_app
from service.cli_evaluate import evaluate
from service.cli_models import models_app
from service.cli_train import train_app
from service.errors import ConfigurationError
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from model.engine import Engine
    from service.metrics import Metrics
    from service.queue import JobQueue

EXIT_CONFIGURATION = 78  # EX_CONFIG; the supervisor does not start such a child again

logger = logging.getLogger("emmdit")

app = typer.Typer(
    name="emmdit",
    help="Image generation over HTTP with E-MMDiT (Nitro-E). Start with: emmdit serve",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.command()(evaluate)

ModelOption = Annotated[str | None, typer.Option(help="Name of a known model, or the folder of a bundle.")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (also for ROCm).")]
DataDirOption = Annotated[Path | None, typer.Option(help="Where queue and pictures are kept.")]
LogLevelOption = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]


@app.command()
def serve(
    model: ModelOption = None,
    host: HostOption = None,
    port: PortOption = None,
    device: DeviceOption = None,
    data_dir: DataDirOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Everything on this machine: an embedded queue server (unless EMMDIT_REDIS_URL is set), a gateway, workers.

    Every other setting is an EMMDIT_* variable: see docs/settings.md. Ctrl-C drains; twice ends at once.
    """
    # A terminal is for people: only trouble is shown there unless they ask for more.
    log_level = log_level or os.environ.get("EMMDIT_LOG_LEVEL", "warning")
    settings = _settings(model=model, host=host, port=port, device=device, data_dir=data_dir, log_level=log_level)
    from service.supervisor import Supervisor

    name = resolve_bundle(settings.model, settings.models_dir).card.name
    supervisor = Supervisor(settings, name, typer.echo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()


@app.command()
def gateway(
    model: ModelOption = None,
    host: HostOption = None,
    port: PortOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """The HTTP side alone. Needs EMMDIT_REDIS_URL; any number may run around one Redis or Valkey."""
    settings = _settings(model=model, host=host, port=port, log_level=log_level)
    from service.gateway.server import run_gateway

    run_gateway(settings)


@app.command()
def worker(
    model: ModelOption = None,
    device: DeviceOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """One worker with one model on one device. Needs EMMDIT_REDIS_URL."""
    settings = _settings(model=model, device=device, log_level=log_level)
    if settings.redis_url is None:
        raise ConfigurationError("redis_url is not set; a worker on its own needs one (EMMDIT_REDIS_URL)")
    bundle = resolve_bundle(settings.model, settings.models_dir)
    engine = _load_engine(settings, bundle)
    from service.metrics import Metrics
    from service.queue import JobQueue

    metrics = Metrics()
    if settings.worker_metrics_port:
        from prometheus_client import start_http_server

        start_http_server(settings.worker_metrics_port, addr=settings.host, registry=metrics.registry)
    url = settings.redis_url.get_secret_value()
    queue = JobQueue.connect(url, model=engine.card.name, limits=settings.queue_limits())
    asyncio.run(_work(settings, queue, engine, metrics))


def _load_engine(settings: Settings, bundle: Bundle) -> Engine:
    import torch

    from model.engine import Engine

    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    try:
        exact_rows = settings.max_batch_rows if settings.exact else 0
        engine = Engine.load(bundle, settings.device, settings.dtype, exact_rows=exact_rows)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    # A CPU has nothing to warm up, and a picture of the published size takes it half a minute.
    warm_up_s = engine.warm_up() if engine.device.type != "cpu" else 0.0
    logger.info("%s on %s (%s), warmed up in %.1f s", engine.card.name, engine.device, engine.dtype, warm_up_s)
    return engine


async def _work(settings: Settings, queue: JobQueue, engine: Engine, metrics: Metrics) -> None:
    from service.blobs import BLOBS_FOLDER, DirectoryBlobs
    from service.warming import warm_compiled_networks
    from service.worker import Worker

    worker_id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    blobs = DirectoryBlobs(settings.data_dir / BLOBS_FOLDER)
    running = Worker(worker_id, settings, queue, blobs, engine, metrics)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.stop)
    engines = [engine] if settings.compile_network else []
    warming = asyncio.create_task(
        warm_compiled_networks(engines, settings.compiled_dir, running.gauges.compiled_networks)
    )
    try:
        await running.run()
    finally:
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        await queue.close()


def _settings(**flags: object) -> Settings:
    settings = load_settings(**flags)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return settings


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (ConfigurationError, BundleError) as error:
        typer.echo(f"emmdit: {error}", err=True)
        sys.exit(EXIT_CONFIGURATION)


if __name__ == "__main__":
    main()
