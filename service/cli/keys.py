"""`emmdit keys`: who may ask a service, and how much."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.cli.remote import Exit, JsonOption, refuse
from service.errors import ConfigurationError, EmmditError

if TYPE_CHECKING:
    from service.settings import Settings
    from service.tenants import KnownKey, Tenants

T = TypeVar("T")
UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LONGEST_S = 100 * 365 * 86400
EPILOG = """
[bold]Examples[/]

[dim]# a key for ada, shown this once[/]
[cyan]emmdit keys create ada --label laptop --expires-in 90d[/]

[dim]# change over: a second key, then away with the first[/]
[cyan]emmdit keys create ada && emmdit keys revoke 3f9c2a7be01d4c55[/]

[dim]# ada may draw ten megapixels a day[/]
[cyan]emmdit keys quota ada --daily-megapixels 10[/]

They are kept in the Redis of EMMDIT_REDIS_URL, without it in that of emmdit serve
(running or not).

[bold]Exit codes:[/] 0 done; 1 no such key, or too many; 2 bad usage;
3 Redis could not be reached; 78 it cannot work like this.
"""

keys_app = typer.Typer(help="API keys and quotas: create, list, revoke.", no_args_is_help=True, epilog=EPILOG)

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Whose: the owner of jobs and quotas.")]
DataDirOption = Annotated[Path | None, typer.Option(help="Where emmdit serve keeps its queue.")]
MaxJobsOption = Annotated[int | None, typer.Option("--max-jobs", help="Unfinished jobs; 0: no limit.")]
MaxQueuedOption = Annotated[int | None, typer.Option("--max-queued-jobs", help="Waiting jobs; 0: no limit.")]
RateOption = Annotated[float | None, typer.Option("--rate-per-min", help="Megapixel-steps a minute; 0: no limit.")]
BurstOption = Annotated[float | None, typer.Option("--burst", help="Megapixel-steps at once; 0: a minute's.")]
DailyOption = Annotated[
    float | None, typer.Option("--daily-megapixels", help="Megapixels of pictures a day; 0: no limit.")
]


@keys_app.command()
def create(
    tenant: TenantArgument,
    label: Annotated[str, typer.Option(help="What the key is for.")] = "",
    expires_in: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it holds: 30m, 12h, 90d, 52w. Default: until revoked.")
    ] = None,
    max_jobs: MaxJobsOption = None,
    max_queued_jobs: MaxQueuedOption = None,
    rate_per_min: RateOption = None,
    burst: BurstOption = None,
    daily_megapixels: DailyOption = None,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """A new key, written to stdout this once. A tenant has two at most; quotas given here are its own from now on."""
    expires_in_s = None if expires_in is None else _seconds(expires_in)
    changes = _changes(max_jobs, max_queued_jobs, rate_per_min, burst, daily_megapixels)

    async def act(tenants: Tenants, settings: Settings) -> Any:  # noqa: ANN401  (an ApiKey, which is imported late)
        quotas = await _changed(tenants, settings, tenant, changes)
        key = await tenants.create(tenant, label=label, expires_in_s=expires_in_s)
        if changes:
            await tenants.set_quotas(tenant, quotas)
        return key

    key = _run(act, data_dir)
    if is_json:
        typer.echo(json.dumps({"id": key.id, "tenant": tenant, "key": key.text}))
    else:
        typer.echo(key.text)
        typer.echo(f"the key of {tenant}; keep it, it is not shown again (its id is {key.id})", err=True)


@keys_app.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """All keys, without their secrets."""

    async def act(tenants: Tenants, _: Settings) -> list[KnownKey]:
        return [one for one in await tenants.all_keys() if tenant in (None, one.record.tenant)]

    keys = _run(act, data_dir)
    if is_json:
        for one in keys:
            typer.echo(json.dumps(_fields(one), ensure_ascii=False))
    elif not keys:
        typer.echo("no keys")
    else:
        form = "{:16}  {:16}  {:16}  {:10}  {:16}  {:10}  {}"
        typer.echo(form.format("ID", "TENANT", "LABEL", "CREATED", "HOLDS UNTIL", "LAST USED", "QUOTAS"))
        for one in keys:
            fields = _fields(one)
            until = "revoked" if fields["expires_at"] is None else fields["expires_at"][:16]
            quotas = " ".join(f"{name}={value:g}" for name, value in fields["quotas"].items()) or "as all"
            line = form.format(
                one.id,
                one.record.tenant,
                one.record.label or "-",
                fields["created_at"][:10],
                until if one.left_s > 0 else "over",
                fields["last_used_on"] or "never",
                quotas,
            )
            typer.echo(line)


@keys_app.command()
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of keys, as `emmdit keys list` shows them.")],
    data_dir: DataDirOption = None,
) -> None:
    """Let keys hold no more. Gateways follow within five seconds."""
    from service.api_keys import id_in, without_keys

    known = {given: id_in(given) for given in ids}
    for given, key_id in known.items():
        if key_id is None:
            refuse(f"ID: {without_keys(given)!r} is not allowed; allowed: 16 hexadecimal digits")

    async def act(tenants: Tenants, _: Settings) -> list[str]:
        missing = []
        for key_id in filter(None, known.values()):
            record = await tenants.revoke(key_id)
            if record is None:
                missing.append(key_id)
            else:
                typer.echo(f"{key_id}  revoked, a key of {record.tenant}")
        return missing

    missing = _run(act, data_dir)
    for key_id in missing:
        typer.echo(f"emmdit: there is no key {key_id}", err=True)
    if missing:
        raise typer.Exit(Exit.FAILED)


@keys_app.command()
def quota(
    tenant: TenantArgument,
    max_jobs: MaxJobsOption = None,
    max_queued_jobs: MaxQueuedOption = None,
    rate_per_min: RateOption = None,
    burst: BurstOption = None,
    daily_megapixels: DailyOption = None,
    is_reset: Annotated[bool, typer.Option("--reset", help="Back to those of the settings.")] = False,
    is_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """A tenant's quotas: change those that are given, show all. What it has not of its own comes from the settings."""
    changes = _changes(max_jobs, max_queued_jobs, rate_per_min, burst, daily_megapixels)
    if is_reset and changes:
        refuse("--reset: not together with a quota")

    async def act(tenants: Tenants, settings: Settings) -> Mapping[str, float]:
        own = {} if is_reset else await _changed(tenants, settings, tenant, changes)
        if changes or is_reset:
            await tenants.set_quotas(tenant, own)
        return own

    from service.quotas import QUOTA_NAMES
    from service.settings import load_settings

    own = _run(act, data_dir)
    effective = load_settings().tenant_quotas().with_changes(own)
    if is_json:
        typer.echo(json.dumps({name: getattr(effective, name) for name in QUOTA_NAMES}))
        return
    for name in QUOTA_NAMES:
        value = getattr(effective, name)
        source = "its own" if name in own else "of the settings"
        typer.echo(f"{name:17} {f'{value:g}' if value else 'no limit':>10}  {source}")


async def _changed(
    tenants: Tenants, settings: Settings, tenant: str, changes: Mapping[str, float]
) -> Mapping[str, float]:
    """The tenant's own quotas with these changes. Raises ValueError where they make no sense together."""
    own = {**await tenants.quotas_of(tenant), **changes}
    settings.tenant_quotas().with_changes(own)
    return own


def _changes(
    max_jobs: int | None,
    max_queued_jobs: int | None,
    rate_per_min: float | None,
    burst: float | None,
    daily_megapixels: float | None,
) -> dict[str, float]:
    given = {
        "max_jobs": max_jobs,
        "max_queued_jobs": max_queued_jobs,
        "rate_per_min": rate_per_min,
        "burst": burst,
        "daily_megapixels": daily_megapixels,
    }
    return {name: value for name, value in given.items() if value is not None}


def _fields(known: KnownKey) -> dict[str, Any]:
    record, day = known.record, known.last_used_day
    return {
        "id": known.id,
        "tenant": record.tenant,
        "label": record.label,
        "created_at": _time(record.created_ms),
        "expires_at": None if record.expires_ms is None else _time(record.expires_ms),
        "is_active": known.left_s > 0,
        "last_used_on": None
        if day is None
        else (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat(),
        "quotas": dict(known.quotas),
    }


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat()


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= LONGEST_S:
        refuse(f"--expires-in: {text!r} is not allowed; allowed: a number and m, h, d or w, up to a hundred years")
    return seconds


def _run(act: Callable[[Tenants, Settings], Awaitable[T]], data_dir: Path | None) -> T:
    """Do it on the server that holds the keys; what goes wrong becomes a line and an exit code."""
    from service.errors import ServerOverloaded
    from service.settings import load_settings
    from service.tenants import Tenants

    settings = load_settings(data_dir=data_dir)

    async def on_server(url: str) -> T:
        tenants = Tenants.connect(url)
        try:
            return await act(tenants, settings)
        finally:
            await tenants.close()

    try:
        with _server_url(settings) as url:
            return asyncio.run(on_server(url))
    except ConfigurationError:
        raise
    except (EmmditError, ValueError) as error:
        typer.echo(f"emmdit: {error}", err=True)
        is_usage = isinstance(error, ValueError) or error.code == "invalid_value"
        is_away = isinstance(error, ServerOverloaded)
        raise typer.Exit(Exit.USAGE if is_usage else Exit.UNREACHABLE if is_away else Exit.FAILED) from None


@contextmanager
def _server_url(settings: Settings) -> Iterator[str]:
    """The Redis of the settings; else that of a running `emmdit serve`; else the same, started for this command."""
    from service.embedded import SERVER_FOLDER, EmbeddedServer, running_url

    folder = settings.data_dir / SERVER_FOLDER
    if (url := settings.queue_url() or running_url(folder)) is not None:
        yield url
        return
    with EmbeddedServer(folder, max_memory_bytes=settings.embedded_max_memory_bytes) as server:
        yield server.url
