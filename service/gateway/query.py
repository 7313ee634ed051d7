"""Query strings: the parameters that a route knows, each once; anything else is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import Request

from service.gateway.refusals import RequestRefused, shorten

INDEX_PATTERN = "[0-9]{1,3}"


def read_query(request: Request, known: Sequence[str]) -> dict[str, str]:
    """The parameters that were given. Raises RequestRefused (400) for an unknown or a repeated one."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            message = f"{shorten(name)} = {shorten(value)} is not a parameter of this request; allowed: "
            param = name if name.isidentifier() and len(name) <= 64 else None
            raise RequestRefused(400, "unknown_field", message + (", ".join(known) or "none"), param=param)
        if name in found:
            message = f"{name} is given twice, the second time as {shorten(value)}; allowed: every parameter once"
            raise RequestRefused(400, "duplicate_field", message, param=name)
        found[name] = value
    return found


def read_flags(request: Request, *names: str) -> dict[str, bool]:
    """`true` or `false` of each, true where it is not given. Raises RequestRefused (400)."""
    given = read_query(request, names)
    for name, value in given.items():
        if value not in ("true", "false"):
            message = f"{name}: {shorten(value)} is not allowed; allowed: true, false"
            raise RequestRefused(400, "invalid_value", message, param=name)
    return {name: given.get(name, "true") == "true" for name in names}


def read_index(request: Request) -> int:
    """Which picture of a job, 0 where it is not said. Raises RequestRefused (400)."""
    text = read_query(request, ("index",)).get("index", "0")
    if not re.fullmatch(INDEX_PATTERN, text):
        message = f"index: {shorten(text)} is not allowed; allowed: a picture's number, from 0"
        raise RequestRefused(400, "invalid_value", message, param="index")
    return int(text)
