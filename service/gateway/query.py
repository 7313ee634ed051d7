"""Reading a query string as strictly as a body: what is not known, or comes twice, is refused by name."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import Request

from service.gateway.refusals import RequestRefused, shorten


def read_query(request: Request, allowed: Collection[str]) -> dict[str, str]:
    """The parameters that are given. Raises RequestRefused (400)."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        param = name if name.isidentifier() and len(name) <= 64 else None
        if name not in allowed:
            message = f"{shorten(name)} = {shorten(value)} is not a parameter here; allowed: {', '.join(allowed)}"
            raise RequestRefused(400, "unknown_field", message, param=param)
        if name in found:
            message = f"{name} is given twice, the second time as {shorten(value)}; allowed: every parameter once"
            raise RequestRefused(400, "duplicate_field", message, param=param)
        found[name] = value
    return found
