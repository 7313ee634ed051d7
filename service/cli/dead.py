"""`emmdit jobs dead`, `requeue`, `drop`: jobs that failed for good, for whoever looks after a service.

Unlike the other `emmdit jobs` commands these talk to Redis and see everybody's jobs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.remote import Exit, JsonOption, refuse
from service.errors import ConfigurationError, EmmditError, JobNotFound, ServerOverloaded

if TYPE_CHECKING:
    from service.dead_letters import DeadLetter
    from service.queue import JobQueue
    from service.queues import Queues

PANEL = "For operators: these talk to Redis, and see everybody's jobs"
Outcome = TypeVar("Outcome")

IdArgument = Annotated[str | None, typer.Argument(metavar="[ID]", help="A job's id.")]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", help="Only jobs of this model. Default: those of EMMDIT_MODELS.")
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Of the running emmdit serve, where EMMDIT_REDIS_URL is not set.")
]


def dead(
    job_id: IdArgument = None,
    model: ModelOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many of each model.")] = 100,
    has_prompts: Annotated[bool, typer.Option("--prompts", help="Show prompts, and not only their length.")] = False,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Jobs that failed for good, the newest first; with an ID everything about that one."""

    async def find(queues: Queues) -> list[tuple[str, DeadLetter]]:
        if job_id is not None:
            found, letter = await _find(queues, job_id)
            return [(found, letter)]
        pages = await asyncio.gather(*(queue.dead.newest(limit) for queue in queues.values()))
        return [(name, letter) for name, page in zip(queues, pages, strict=True) for letter in page]

    letters = sorted(_run(find, model, data_dir), key=lambda found: found[1].failed_at, reverse=True)
    if is_json:
        for name, letter in letters:
            typer.echo(json.dumps(_fields(name, letter, has_prompts)))
    elif job_id is not None:
        for name, value in _fields(*letters[0], has_prompts).items():
            if value is not None:
                typer.echo(f"{name:15} {value}")
    elif not letters:
        typer.echo("no dead letters")
    else:
        _print_table(letters, has_prompts)


def requeue(
    job_id: IdArgument = None,
    has_all: Annotated[bool, typer.Option("--all", help="All of them, the oldest first.")] = False,
    model: ModelOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Put jobs that failed for good back into the queue: the same id and seed, their whole time and all attempts.

    Each runs alone. Those that draw the same failure again come back here.
    """
    _each(job_id, has_all, model, data_dir, lambda queue, letter: queue.dead.requeue(letter.id), "requeued")


def drop(
    job_id: IdArgument = None,
    has_all: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    model: ModelOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Forget jobs that failed for good, prompts and all, before their time."""
    _each(job_id, has_all, model, data_dir, lambda queue, letter: queue.dead.drop(letter.id), "dropped")


def _each(
    job_id: str | None,
    has_all: bool,
    models: Sequence[str] | None,
    data_dir: Path | None,
    act: Callable[[JobQueue, DeadLetter], Awaitable[None]],
    word: str,
) -> None:
    if (job_id is None) != has_all:
        refuse("give either an ID or --all")

    async def work(queues: Queues) -> None:
        if job_id is not None:
            name, letter = await _find(queues, job_id)
            await act(queues[name], letter)
            typer.echo(f"{letter.id}  {word}")
            return
        for queue in queues.values():
            for letter in reversed(await queue.dead.newest(queue.limits.max_dead_letters)):
                try:
                    await act(queue, letter)
                except JobNotFound:
                    continue  # somebody else was quicker
                typer.echo(f"{letter.id}  {word}")

    _run(work, models, data_dir)


def _run(
    work: Callable[[Queues], Coroutine[Any, Any, Outcome]], models: Sequence[str] | None, data_dir: Path | None
) -> Outcome:
    """What `work` makes of the queues of the operator's Redis; what it raises becomes a line and an exit code."""
    from model.catalog import find_cards
    from service.cli.operator_redis import operator_redis_url
    from service.queues import Queues
    from service.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    names = models or [card.name for card in find_cards(settings.models, settings.models_dir)]

    async def connected() -> Outcome:
        queues = Queues.connect(operator_redis_url(settings), models=names, limits=settings.queue_limits())
        try:
            return await work(queues)
        finally:
            await queues.close()

    try:
        return asyncio.run(connected())
    except ConfigurationError:
        raise
    except EmmditError as error:
        typer.echo(f"emmdit: {error.message} ({error.code})", err=True)
        raise typer.Exit(Exit.UNREACHABLE if isinstance(error, ServerOverloaded) else Exit.FAILED) from None


async def _find(queues: Queues, job_id: str) -> tuple[str, DeadLetter]:
    for name, queue in queues.items():
        try:
            return name, await queue.dead.find(job_id)
        except JobNotFound:
            continue
    raise JobNotFound(f"there is no dead letter {job_id[:64]!r}")


def _fields(model: str, letter: DeadLetter, has_prompts: bool) -> dict[str, object]:
    params = letter.job.params if letter.job else None
    return {
        "id": letter.id,
        "model": model,
        "owner": letter.owner,
        "attempts": letter.attempts,
        "error_code": letter.failure.code,
        "error": letter.failure.message,
        "accepted_at": _written(letter.accepted_at),
        "failed_at": _written(letter.failed_at),
        "num_images": letter.job.num_images if letter.job else None,
        "size": f"{params.width}x{params.height}" if params else None,
        "num_steps": params.num_inference_steps if params else None,
        "seed": params.seed if params else None,
        "prompt_chars": len(params.prompt) if params else None,
        "prompt": params.prompt if params and has_prompts else None,
        "negative_prompt": params.negative_prompt if params and has_prompts else None,
    }


def _print_table(letters: Sequence[tuple[str, DeadLetter]], has_prompts: bool) -> None:
    last = "PROMPT" if has_prompts else "PROMPT CHARS"
    typer.echo(f"{'ID':32}  {'OWNER':16}  {'MODEL':16}  {'TRIES':>5}  {'AGE':>7}  {'ERROR':18}  {last}")
    for model, letter in letters:
        prompt = letter.job.params.prompt if letter.job else ""
        shown = " ".join(prompt.split()) if has_prompts else len(prompt)
        age = f"{max(0.0, time.time() - letter.failed_at) / 60:.0f} min"
        typer.echo(
            f"{letter.id:32}  {letter.owner:16}  {model:16}  {letter.attempts:>5}  {age:>7}  "
            f"{letter.failure.code:18}  {shown}"
        )


def _written(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
