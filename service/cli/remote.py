"""What the commands that talk to a service share: where it is, who asks, and how a command ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from service.errors import EmmditError

if TYPE_CHECKING:
    from service.client import Client

URL_VARIABLE = "EMMDIT_URL"
KEY_VARIABLE = "EMMDIT_API_KEY"
LOCAL_URL = "http://127.0.0.1:8000"


class Exit(IntEnum):
    """How a command ended; scripts may rely on these."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


UrlOption = Annotated[str, typer.Option(envvar=URL_VARIABLE, metavar="URL", help="Address of the service.")]
PatienceOption = Annotated[
    float,
    typer.Option(
        "--patience", min=0, metavar="SECONDS", help="How long to try again while the service is busy or away."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts, instead of text for people.")]


def api_key() -> str | None:
    """The caller's key. Only from the environment: a flag would show it to everybody who can list processes."""
    return os.environ.get(KEY_VARIABLE) or None


def exit_of(error: EmmditError) -> Exit:
    """Whether it is worth trying again later."""
    from service.client.errors import ApiError, ServerUnreachable

    is_away = isinstance(error, ServerUnreachable) or (isinstance(error, ApiError) and error.should_retry)
    return Exit.UNREACHABLE if is_away else Exit.FAILED


def refuse(message: str) -> NoReturn:
    """End the command because of what was asked of it."""
    typer.echo(f"emmdit: {message}", err=True)
    raise typer.Exit(Exit.USAGE)


@contextmanager
def remote(url: str, patience_s: float) -> Iterator[Client]:
    """A client for one command; what it raises becomes a line and an exit code."""
    from service.client import Client

    try:
        client = Client(url, api_key=api_key(), patience_s=patience_s)
    except ValueError as error:
        refuse(str(error))
    try:
        with client:
            yield client
    except ValueError as error:  # an id that is none
        refuse(str(error))
    except EmmditError as error:
        typer.echo(f"emmdit: {error.message} ({error.code})", err=True)
        raise typer.Exit(exit_of(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None
