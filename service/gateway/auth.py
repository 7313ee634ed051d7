"""Who is asking. For now everybody is "anonymous", and so nobody beyond this machine may ask unless told otherwise."""

from __future__ import annotations

import ipaddress

from fastapi import Request

from service.errors import ConfigurationError
from service.settings import Settings

ANONYMOUS = "anonymous"


async def owner_of(request: Request) -> str:
    """The tenant that a request's jobs belong to; others cannot see them.

    A coroutine although it waits for nothing: the framework runs plain functions in a thread, at each request.
    """
    return ANONYMOUS


def refuse_open_binding(settings: Settings) -> None:
    """Raises ConfigurationError where the service would serve strangers without keys."""
    if settings.allow_remote_without_keys or is_loopback(settings.host):
        return
    raise ConfigurationError(
        f"host: {settings.host!r} can be reached from other machines and there are no keys; "
        "listen on 127.0.0.1, or say allow_remote_without_keys (EMMDIT_ALLOW_REMOTE_WITHOUT_KEYS=true)"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect. A name other than localhost could mean anything, so it is not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
