"""`emmdit bench`: what a running service takes. The engine and other servers are measured by benchmarks/."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.cli.remote import api_key

bench_app = typer.Typer(help="Measure a running service.", no_args_is_help=True)


@bench_app.callback()
def _group() -> None:
    """Keeps `serve` a word of its own: a group of one command would otherwise become that command."""


@bench_app.command()
def serve(
    url: Annotated[str, typer.Option(help="Address of the service.")] = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option(min=1e-6, help="Requests a second, at random times (Poisson).")] = 1.0,
    num_requests: Annotated[int, typer.Option(min=1, help="Requests in all.")] = 100,
    trace: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Times and settings, instead of --rate.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A prompt a line. Default: the model's examples.")
    ] = None,
    mix: Annotated[
        list[str] | None, typer.Option(help="STEPS:GUIDANCE:SIZE=WEIGHT, repeatable; empty parts: the model's own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of times, mix and pictures.")] = 0,
    objective_s: Annotated[float, typer.Option(min=0, help="Latency that counts as good.")] = 10.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Give a request up so long after it was due.")] = 600.0,
    previews: Annotated[bool, typer.Option("--previews", help="Ask for events and time the first preview.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures and every request as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the latencies as a PNG.")] = None,
) -> None:
    """Send requests at times that do not depend on the answers; print latency, goodput, errors, batch sizes.

    Times count from when a request was due, not from when it could be sent. EMMDIT_API_KEY holds the key, where the
    service wants one.
    """
    from service.bench.plan import Way, parse_way, plan_requests, poisson_times, read_trace
    from service.bench.plot import write_plot
    from service.bench.report import describe
    from service.bench.run import measure, served_model
    from service.metrics import software_version

    url, source = url.rstrip("/"), random.Random(seed)
    with _blaming("--mix"):
        ways = [parse_way(text) for text in mix or []] or [Way()]
    with _blaming("--url"):
        model = served_model(url, api_key())
    lines = prompts.read_text("utf-8").splitlines() if prompts else model.example_prompts
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise typer.BadParameter("the file, or the model's list of examples, is empty", param_hint="--prompts")
    if trace is None:
        planned = plan_requests(poisson_times(rate, num_requests, source), texts, ways, source)
    else:
        with _blaming("--trace"):
            planned = read_trace(trace.read_text("utf-8"), texts, source)

    run = asyncio.run(
        measure(
            url,
            planned,
            objective_s=objective_s,
            timeout_s=timeout_s,
            wants_previews=previews,
            api_key=api_key(),
        )
    )
    report = run.report
    if previews and not run.has_previews:
        typer.echo("this server offers no previews; their time is left out")
    typer.echo(describe(report))
    if out is not None:
        values = {
            "kind": "serve",
            "client": f"emmdit {software_version()}",
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "url": url,
            "model": f"{model.name} {model.version}",
            "load": {"rate_per_s": None if trace else rate, "trace": trace and trace.name, "mix": mix, "seed": seed},
            "report": asdict(report),
            "requests": [asdict(outcome) for outcome in run.outcomes],
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    if plot is not None:
        try:
            write_plot(run.outcomes, plot, f"seconds, {report.offered_per_s:.3g} requests/s")
        except ValueError as error:
            typer.echo(str(error), err=True)
    if report.num_pictures == 0:
        raise typer.Exit(1)


@contextmanager
def _blaming(option: str) -> Iterator[None]:
    """A ValueError becomes the command line's own complaint about `option`."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
