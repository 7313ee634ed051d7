"""`emmdit`: every way to start a part of the service. Sole owner of logging, signals and exit codes.

Torch, the gateway and the settings are imported inside the commands, so that `emmdit --help` answers at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from model.catalog import resolve_bundles
from model.errors import BundleError
from service.cli.bench import bench_app
from service.cli.complete import complete_models
from service.cli.doctor import EPILOG as DOCTOR_EPILOG
from service.cli.doctor import doctor
from service.cli.evaluate import evaluate
from service.cli.generate import EPILOG as GENERATE_EPILOG
from service.cli.generate import generate
from service.cli.jobs import jobs_app
from service.cli.keys import keys_app
from service.cli.models import models_app
from service.cli.train import train_app
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from model.loading import LoadedEngines
    from service.settings import Settings

EXIT_CONFIGURATION = 78  # EX_CONFIG; the supervisor does not start such a child again

logger = logging.getLogger("emmdit")

EPILOG = """
[bold]Examples[/]

[dim]# a picture, with nothing running[/]
[cyan]emmdit generate "a photo of a red apple" -o apple.png[/]

[dim]# a service on http://127.0.0.1:8000[/]
[cyan]emmdit serve[/]

[dim]# what is wrong here?[/]
[cyan]emmdit doctor[/]

More: emmdit generate --help
"""

app = typer.Typer(
    name="emmdit",
    help="Image generation over HTTP with E-MMDiT (Nitro-E). Start with: emmdit serve",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.command(epilog=GENERATE_EPILOG)(generate)
app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command()(evaluate)

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Name of a known model, or the folder of a bundle. Several: repeat it, or separate by commas.",
        autocompletion=complete_models,
    ),
]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on.")]
PortOption = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (also for ROCm).")]
DataDirOption = Annotated[Path | None, typer.Option(help="Where queue and pictures are kept.")]
LogLevelOption = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]


@app.command()
def serve(
    model: ModelsOption = None,
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
    settings = _settings(models=model, host=host, port=port, device=device, data_dir=data_dir, log_level=log_level)
    _start_logging(settings, process="serve")
    from service.supervisor import Supervisor

    names = [bundle.card.name for bundle in resolve_bundles(settings.models, settings.models_dir)]
    supervisor = Supervisor(settings, names, typer.echo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    _heed_level_signals(settings, supervisor.signal_children)
    supervisor.run()


@app.command()
def gateway(
    model: ModelsOption = None,
    host: HostOption = None,
    port: PortOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """The HTTP side alone. Needs EMMDIT_REDIS_URL; any number may run around one Redis or Valkey."""
    settings = _settings(models=model, host=host, port=port, log_level=log_level)
    _start_logging(settings, process="gateway")
    from service.gateway.server import run_gateway

    run_gateway(settings)


@app.command()
def worker(
    model: ModelsOption = None,
    device: DeviceOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """One worker on one device, for one model or several. Needs EMMDIT_REDIS_URL."""
    settings = _settings(models=model, device=device, log_level=log_level)
    worker_id = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    _start_logging(settings, process="worker", worker=worker_id)
    url = settings.queue_url()
    if url is None:
        raise ConfigurationError("redis_url is not set; a worker on its own needs one (EMMDIT_REDIS_URL)")
    asyncio.run(_work(settings, url, _load(settings), worker_id))


def _load(settings: Settings) -> LoadedEngines:
    """The engines of all models. One line of the log tells what took how long, and what lies in memory."""
    phases_s = {}
    started_s = time.perf_counter()
    bundles = resolve_bundles(settings.models, settings.models_dir)
    phases_s["cards"] = time.perf_counter() - started_s
    import torch

    from model import loading
    from model.own_thread import in_own_thread

    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    phases_s["imports"] = time.perf_counter() - started_s - phases_s["cards"]
    try:
        exact_rows = settings.max_batch_rows if settings.exact else 0
        loaded = in_own_thread(
            lambda: loading.load_engines(bundles, settings.device, settings.dtype, exact_rows=exact_rows)
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in {**phases_s, **loaded.phases_s}.items())
    engine = next(iter(loaded.engines.values()))
    memory = "; ".join(f"{p.part} of {', '.join(p.models)} {p.num_bytes / 1e6:.1f} MB" for p in loaded.memory)
    total_s = time.perf_counter() - started_s
    logger.info("loaded on %s (%s) in %.1f s: %s; %s", engine.device, engine.dtype, total_s, phases, memory)
    return loaded


async def _work(settings: Settings, url: str, loaded: LoadedEngines, worker_id: str) -> None:
    from service.blob_stores import open_blobs
    from service.metrics import Metrics
    from service.queues import Queues
    from service.tracing import tracing_of
    from service.warming import warm_compiled_networks
    from service.worker import Worker

    metrics = Metrics()
    queues = Queues.connect(url, models=loaded.engines, limits=settings.queue_limits())
    tracing = tracing_of(settings, metrics, process="worker", instance=worker_id)
    blobs = open_blobs(settings)
    running = Worker(worker_id, settings, queues, blobs, loaded, metrics, tracing=tracing)
    probes = None
    if settings.worker_metrics_port:
        from service.probes import ProbeServer

        probes = ProbeServer(settings.host, settings.worker_metrics_port, metrics.registry, running.health)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.stop)
    engines = list(loaded.engines.values()) if settings.compile_network else []
    warming = asyncio.create_task(warm_compiled_networks(engines, settings.compiled_dir, running.gauges))
    try:
        await running.run()
    finally:
        warming.cancel()
        await asyncio.gather(warming, return_exceptions=True)
        if probes is not None:
            probes.close()
        await queues.close()
        await asyncio.to_thread(blobs.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _settings(**flags: object) -> Settings:
    """Flags that were given go before the environment. Imported late: `emmdit --help` needs none of it."""
    from service.settings import load_settings

    return load_settings(**{name: value for name, value in flags.items() if value != []})


def _start_logging(settings: Settings, **process: str) -> None:
    from service.logs import start_logging

    start_logging(settings.log_level, settings.log_format, process)
    _heed_level_signals(settings)


def _heed_level_signals(settings: Settings, pass_on: Callable[[int], None] = lambda _: None) -> None:
    """SIGUSR1: debug. SIGUSR2: the level of the settings."""
    from service.logs import switch_level

    def switch(number: int, _: FrameType | None) -> None:
        switch_level("debug" if number == signal.SIGUSR1 else settings.log_level)
        pass_on(number)

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, switch)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except (ConfigurationError, BundleError) as error:
        typer.echo(f"emmdit: {error}", err=True)
        sys.exit(EXIT_CONFIGURATION)
