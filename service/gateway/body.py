"""Reading a JSON body that a stranger sent: bounded in bytes and in time before anything looks at it.

Surprising: NaN and Infinity pass here, although JSON has no such numbers, so that the check of the field itself can
refuse them by name.
"""

from __future__ import annotations

import asyncio
import json
from email.message import Message
from functools import lru_cache
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.gateway.refusals import RequestRefused, shorten


async def read_json_object(request: Request, *, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """The body as a dict. Raises RequestRefused: 415, 413, 408 or 400."""
    _check_headers(request, max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _read(request, max_bytes)
    except TimeoutError:
        raise RequestRefused(
            408, "request_timeout", f"the body did not arrive within {timeout_s:g} s", headers={"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise RequestRefused(400, "incomplete_body", "the connection was closed in the middle of the body") from None
    return parse_json_object(raw)


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """Strictly UTF-8, one object, every field once. Raises RequestRefused (400)."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestRefused(
            400, "invalid_encoding", f"the body is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}"
        ) from None
    try:
        value = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except json.JSONDecodeError as error:
        raise RequestRefused(
            400, "invalid_json", f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise RequestRefused(400, "invalid_json", "the body is not acceptable JSON: nested too deeply") from None
    except ValueError:  # Python refuses to read integers of more than 4300 digits
        raise RequestRefused(400, "invalid_json", "the body holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise RequestRefused(400, "invalid_json", f"the body is {_kind(value)}; allowed: one JSON object")
    return value


def _check_headers(request: Request, max_bytes: int) -> None:
    content_type = request.headers.get("content-type")
    if content_type is None or not _is_json(content_type):
        shown = "no Content-Type" if content_type is None else f"Content-Type {shorten(content_type)}"
        raise RequestRefused(
            415, "unsupported_media_type", f"{shown} cannot be read; allowed: Content-Type: application/json, in UTF-8"
        )
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if encoding.lower() != "identity":
        raise RequestRefused(
            415, "unsupported_media_type", f"Content-Encoding {shorten(encoding)} cannot be read; allowed: identity"
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > max_bytes:
        raise _too_large(max_bytes, f"{length[:20]} bytes announced")


@lru_cache(maxsize=16)  # parsing takes as long as the rest of the body's checks, and all clients send the same few
def _is_json(content_type: str) -> bool:
    """Whether it says JSON, in UTF-8."""
    message = Message()
    message["content-type"] = content_type
    is_utf8 = message.get_content_charset("utf-8") in ("utf-8", "utf8", "us-ascii")
    return is_utf8 and message.get_content_type() == "application/json"


async def _read(request: Request, max_bytes: int) -> bytes:
    chunks = bytearray()
    async for chunk in request.stream():
        if len(chunks) + len(chunk) > max_bytes:
            raise _too_large(max_bytes, "more came")
        chunks += chunk
    return bytes(chunks)


def _too_large(max_bytes: int, seen: str) -> RequestRefused:
    return RequestRefused(413, "body_too_large", f"the body is too large: {seen}; allowed: {max_bytes} bytes")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestRefused(
                400,
                "duplicate_field",
                f"{shorten(name)} is given twice, the second time as {shorten(value)}; allowed: every field once",
                param=name if name.isidentifier() else None,
            )
        found[name] = value
    return found


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
