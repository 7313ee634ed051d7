"""`emmdit generate`: prompts in, picture files out; by a service that is there, or by one started for this command."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import BundleError
from service.cli.complete import complete_models
from service.cli.remote import URL_VARIABLE, Exit, JsonOption, PatienceOption, api_key, refuse
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from service.cli.draw import Display, Tally
    from service.cli.orders import Order
    from service.cli.terminal_pictures import Preview
    from service.client.types import Options

STDIO = "-"
DRAWING, OUTPUT, RUNNING = "What is drawn", "Where it goes", "Who draws"

EPILOG = """
[bold]Examples[/]

[dim]# one picture, by a service that is started for it[/]
[cyan]emmdit generate "a photo of a red apple" -o apple.png[/]

[dim]# four, with the seeds 7 to 10[/]
[cyan]emmdit generate "two blue cats" -n 4 --seed 7 -o "cats-{index}.png"[/]

[dim]# one for every line of a file, by a service that runs[/]
[cyan]emmdit generate --from prompts.txt -o pictures/ --url http://127.0.0.1:8000[/]

[dim]# handed to another program[/]
[cyan]emmdit generate "a green car" -o - | convert - car.gif[/]

[dim]# for scripts[/]
[cyan]shuf -n 9 prompts.txt | emmdit generate - --json | jq -r .file[/]

[bold]Exit codes:[/] 0 all drawn; 1 some failed; 2 bad usage;
3 the service could not be reached or stayed busy past --patience;
130 interrupted: Ctrl-C cancels on the service what is under way.

EMMDIT_API_KEY holds your key, where the service wants one.
"""


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="What to draw; - reads a prompt a line from stdin."),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="A prompt a line; - is stdin.", allow_dash=True)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name of a model.", autocompletion=complete_models, rich_help_panel=DRAWING),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT, one of the model's sizes.", rich_help_panel=DRAWING)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", rich_help_panel=DRAWING)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt; 1 or less: none.", rich_help_panel=DRAWING)
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What to keep out.", rich_help_panel=DRAWING)] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, help="Of each prompt's first picture; not given: random.", rich_help_panel=DRAWING
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Pictures per prompt.", rich_help_panel=DRAWING)] = 1,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="File, folder, or name with {index}, {seed}, {slug}; - is stdout. Default: {slug}-{seed}.png",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="png, jpeg or webp; not given: by the file's ending.", rich_help_panel=OUTPUT),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=0, max=100, help="Of jpeg and webp.", rich_help_panel=OUTPUT)
    ] = None,
    is_forced: Annotated[
        bool, typer.Option("--force", help="Replace files that exist.", rich_help_panel=OUTPUT)
    ] = False,
    preview: Annotated[
        str,
        typer.Option(help="Pictures in the terminal: auto, kitty, iterm, blocks or none.", rich_help_panel=OUTPUT),
    ] = "auto",
    is_json: JsonOption = False,
    is_quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell only of failures.", rich_help_panel=OUTPUT)
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            envvar=URL_VARIABLE,
            help="Address of a running service; not given: one is started for this command.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of a service that is started: auto, cpu, cuda, cuda:N.", rich_help_panel=RUNNING)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.", rich_help_panel=RUNNING)] = 8,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.", rich_help_panel=RUNNING)] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Deadline of a prompt.", rich_help_panel=RUNNING),
    ] = None,
    patience_s: PatienceOption = 60.0,
) -> None:
    """Draw pictures of prompts into files. Starts what it needs, unless --url names a running service."""
    from service.cli.orders import FORMAT_OF_SUFFIX, choose_format, existing_files, full_template, plan
    from service.cli.terminal_pictures import Preview

    texts = _prompts(prompts or [], prompts_file)
    is_piped = out == STDIO
    if is_piped and (is_json or sys.stdout.isatty() or len(texts) * n > 1):
        refuse("-o - hands one picture to another program: not several, not together with --json, not to a terminal")
    if device is not None and url is not None:
        refuse("--device is for a service that this command starts; the one at --url has chosen its own")
    if preview not in list(Preview):
        refuse(f"--preview: {preview!r} is not allowed; allowed: {', '.join(Preview)}")
    try:
        format_name = choose_format(None if is_piped else out, format_name)
        template = None if is_piped else full_template(out, format_name)
        if template is not None and Path(template).suffix.lower() not in FORMAT_OF_SUFFIX:
            raise ValueError(f"--out: {template!r} does not end in {', '.join(FORMAT_OF_SUFFIX)}")
        options = _options(
            negative_prompt=negative,
            model=model if url is not None else None,  # one that is started has no other
            size=size,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=seed,
            n=n if n > 1 else None,
            priority=priority,
            timeout_s=timeout_s,
            output_format=format_name if format_name != "png" else None,
            output_compression=quality,
        )
        orders = plan(texts, options, template, random.SystemRandom().randrange)
    except ValueError as error:
        refuse(str(error))
    if not is_forced and (existing := existing_files(orders)):
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        refuse(f"{existing[0]}{more} exists; --force replaces")
    try:
        with ExitStack() as stack:
            if url is None:
                url = stack.enter_context(_started(model, device, is_quiet=is_quiet))
            shown = stack.enter_context(_shown(orders, Preview(preview), is_json=is_json, is_quiet=is_quiet))
            tally = asyncio.run(_draw(url, orders, shown, concurrency, patience_s, is_forced=is_forced))
    except (ConfigurationError, BundleError, ValueError) as error:
        refuse(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("emmdit: interrupted; what was under way is cancelled", err=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
    raise typer.Exit(tally.exit)


def _prompts(texts: Sequence[str], file: Path | None) -> list[str]:
    from service.cli.orders import read_prompts

    found: list[str] = []
    names = [str(file)] if file is not None else []
    for text in texts:
        if text == STDIO:
            names.append(STDIO)
        elif text.strip():
            found.append(text)
        else:
            refuse("a prompt is empty")
    for name in names:
        try:
            content = sys.stdin.read() if name == STDIO else Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            refuse(f"cannot read {name}: {error}")
        found += read_prompts(content.splitlines())
    if not found:
        refuse('nothing to draw: give a prompt, --from FILE, or - for stdin; for example emmdit generate "a red apple"')
    return found


def _options(**values: object) -> Options:
    """What was asked for, without what was not. The server checks the values: it knows the model."""
    options: Options = {}
    options.update({name: value for name, value in values.items() if value is not None})  # type: ignore[typeddict-item]
    return options


@contextmanager
def _started(model: str | None, device: str | None, *, is_quiet: bool) -> Iterator[str]:
    """A service of our own, and a word on what takes so long."""
    from service.cli.local import local_service

    with ExitStack() as stack:
        with ExitStack() as saying:
            if not is_quiet:
                saying.enter_context(_console(is_forced=False).status("starting a service for this command"))
            url = stack.enter_context(local_service(model, device))
        yield url


@contextmanager
def _shown(orders: Sequence[Order], wanted: Preview, *, is_json: bool, is_quiet: bool) -> Iterator[Display]:
    """Who tells of it, for people and for scripts."""
    from service.cli.display import Bars, JsonLines, Lines, Several
    from service.cli.terminal_pictures import Preview, choose_preview

    is_terminal = sys.stderr.isatty()
    preview = choose_preview(wanted, os.environ, is_terminal=is_terminal)
    console = _console(is_forced=preview is not Preview.NONE)
    num_pictures = sum(order.num_pictures for order in orders)
    displays: list[Display] = [JsonLines()] if is_json else []
    has_bars = is_terminal and not is_quiet and not (is_json and sys.stdout.isatty())
    if has_bars:
        with Bars(console, num_pictures, preview) as bars:
            yield Several([*displays, bars])
        return
    if not is_json:
        displays.append(Lines(console, num_pictures, preview, is_quiet=is_quiet))
    yield Several(displays)


def _console(*, is_forced: bool) -> Console:
    """For people. `is_forced`: pictures were asked for, also where this is no terminal."""
    from rich.console import Console

    return Console(stderr=True, force_terminal=True if is_forced else None)


async def _draw(
    url: str,
    orders: Sequence[Order],
    display: Display,
    max_at_once: int,
    patience_s: float,
    *,
    is_forced: bool,
) -> Tally:
    from service.cli.draw import Studio
    from service.client import AsyncClient

    current = asyncio.current_task()
    assert current is not None
    # Ctrl-C does this by itself; whoever ends us otherwise should not leave jobs behind either.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    async with AsyncClient(url, api_key=api_key(), patience_s=patience_s) as client:
        studio = Studio(client, display, is_forced=is_forced)
        return await studio.draw_all(orders, max_at_once)
