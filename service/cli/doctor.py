"""`emmdit doctor`: what is wrong here, and how to mend it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from service.cli.remote import Exit, JsonOption

EPILOG = """
[bold]Examples[/]

[dim]# before the first start[/]
[cyan]emmdit doctor[/]

[dim]# why does that worker not start?[/]
[cyan]EMMDIT_REDIS_URL=rediss://queue.example:6380 EMMDIT_DEVICE=cuda emmdit doctor[/]

[dim]# what is wrong, for scripts[/]
[cyan]emmdit doctor --json | jq -r '.findings[] | select(.level == "FAIL") | .remedy'[/]

[bold]Exit codes:[/] 0 nothing fails (there may be warnings), 1 something does.
"""
COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def doctor(
    url: Annotated[str | None, typer.Option(help="A running service to ask as well.")] = None,
    is_json: JsonOption = False,
) -> None:
    """Look at settings, port, disk, queue, torch, devices and weights: what is wrong, and how to mend it.

    Reads the same EMMDIT_* variables as emmdit serve. Leaves nothing behind and shows no secrets.
    """
    from service.cli.checks import Level, examine

    findings = []
    for finding in examine(url):
        findings.append(finding)
        if is_json:
            continue
        typer.secho(f"{finding.level:4}", fg=COLOURS[finding.level], nl=False)
        typer.echo(f"  {finding.name:16} {finding.found}")
        for line in filter(None, map(str.strip, finding.remedy.splitlines())):
            typer.echo(f"{'':22} -> {line}")
    is_sound = all(finding.level is not Level.FAIL for finding in findings)
    if is_json:
        values = {"is_sound": is_sound, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(values, ensure_ascii=False, indent=1))
    raise typer.Exit(Exit.DONE if is_sound else Exit.FAILED)
