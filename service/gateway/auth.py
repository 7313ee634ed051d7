"""Who is asking: the tenant of an API key, or "anonymous" where none is needed.

Surprising: a key counts wherever one is given, needed or not. Where none is needed, what is no key of this service's
form is passed over: OpenAI's clients always send something.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from fastapi import Request

from service.api_keys import parse_key
from service.errors import ConfigurationError
from service.gateway.context import gateway_of
from service.gateway.keyring import Caller, Keyring
from service.gateway.refusals import RequestRefused
from service.settings import Settings

CHALLENGE = 'Bearer realm="emmdit"'
KEY_HEADER = "X-API-Key"
HOW = f"send it as Authorization: Bearer KEY or as {KEY_HEADER}: KEY"


async def owner_of(request: Request) -> str:
    """The tenant that a request's jobs belong to; others cannot see them. Raises RequestRefused (401).

    A coroutine although it seldom waits: the framework runs plain functions in a thread, at each request.
    """
    gateway = gateway_of(request)
    try:
        caller = await _caller(gateway.keyring, _given(request.scope["headers"]))
    except RequestRefused as error:
        gateway.metrics.rejections.labels(error.code).inc()
        raise
    request.state.caller = caller
    return caller.tenant


async def _caller(keyring: Keyring, given: Sequence[str]) -> Caller:
    keys = {key for text in given if (key := parse_key(text)) is not None}
    if not keys:
        if not keyring.is_needed:
            return keyring.anonymous
        if not given:
            raise RequestRefused(
                401, "missing_api_key", f"an API key is needed here: {HOW}", headers={"WWW-Authenticate": CHALLENGE}
            )
    caller = await keyring.caller_with(keys.pop()) if len(keys) == 1 else None
    if caller is None:
        raise RequestRefused(
            401,
            "invalid_api_key",
            "the API key is not valid, or holds no more",
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
        )
    return caller


def caller_of(request: Request) -> Caller:
    """Who `owner_of` has found to ask."""
    caller: Caller = request.state.caller
    return caller


def needs_keys(settings: Settings) -> bool:
    """Whether who has no key is refused."""
    if settings.require_keys == "auto":
        return not (settings.allow_remote_without_keys or is_loopback(settings.host))
    return settings.require_keys == "always"


def refuse_open_binding(settings: Settings) -> None:
    """Raises ConfigurationError where the service would serve strangers without keys."""
    if settings.allow_remote_without_keys or is_loopback(settings.host) or needs_keys(settings):
        return
    raise ConfigurationError(
        f"host: {settings.host!r} can be reached from other machines, and require_keys = never; listen on 127.0.0.1, "
        "or let keys be needed (EMMDIT_REQUIRE_KEYS=auto), or say allow_remote_without_keys "
        "(EMMDIT_ALLOW_REMOTE_WITHOUT_KEYS=true)"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect. A name other than localhost could mean anything, so it is not."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _given(headers: Iterable[tuple[bytes, bytes]]) -> Sequence[str]:
    """What is sent where keys are sent. Not the query: addresses end up in logs and histories."""
    found = []
    for name, value in headers:  # lower case, as ASGI has them
        if name == b"x-api-key":
            found.append(value.decode("latin-1").strip())
        elif name == b"authorization":
            scheme, _, credentials = value.decode("latin-1").strip().partition(" ")
            if scheme.lower() == "bearer":
                found.append(credentials.strip())
    return found
