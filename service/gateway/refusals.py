"""Refusals that exist only in HTTP: everything else is in service/errors.py."""

from __future__ import annotations

from collections.abc import Mapping

from service.api_keys import without_keys
from service.errors import EmmditError


class RequestRefused(EmmditError):
    """A request that is wrong before any field of it could be. `status` is 4xx, `code` is stable and public."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def shorten(value: object, max_chars: int = 80) -> str:
    """A client's own value as it may stand in a message: printable, short, and without the secret of an API key."""
    shown = without_keys(repr(value))
    return shown if len(shown) <= max_chars else f"{shown[: max_chars - 20]}... ({len(shown)} characters)"
