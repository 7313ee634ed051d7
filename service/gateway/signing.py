"""Links to pictures that work without a key until they expire.

The signature covers everything that the link says, so no picture, format or time can be had but the one it was made
for. Whoever has the link has the picture: that is what it is for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from fastapi import Request

from service.gateway.context import Gateway
from service.gateway.formats import Encoding
from service.gateway.refusals import RequestRefused

SIGNED_FIELDS = ("format", "compression", "expires")


async def signed_url(request: Request, gateway: Gateway, path: str, encoding: Encoding) -> str:
    """The absolute address of the picture at `path`, good for `url_ttl_s` from now."""
    settings = gateway.settings
    fields = {"format": encoding.format.value}
    if encoding.quality is not None:
        fields["compression"] = str(encoding.quality)
    fields["expires"] = str(int(time.time() + (settings.url_ttl_s or settings.result_ttl_s)))
    fields["signature"] = _signature(await _secret(gateway), path, fields)
    base_url = settings.public_url or str(request.base_url)
    return f"{base_url.rstrip('/')}{path}?{urlencode(fields)}"


async def check_signature(gateway: Gateway, path: str, fields: Mapping[str, str]) -> None:
    """Return if the link with this query was made here and still holds. Raises RequestRefused (403)."""
    expected = _signature(await _secret(gateway), path, fields)
    # Bytes: comparing text that is not ASCII raises.
    if not hmac.compare_digest(expected.encode(), fields.get("signature", "").encode()):
        raise RequestRefused(403, "link_invalid", "the signature does not fit this link; use the link as it was given")
    if int(fields["expires"]) < time.time():
        raise RequestRefused(403, "link_expired", "the link has expired; whoever owns the job can still fetch it")


def _signature(secret: str, path: str, fields: Mapping[str, str]) -> str:
    said = json.dumps([path, *(fields.get(name) for name in SIGNED_FIELDS)])  # unambiguous, whatever stands in them
    return hmac.new(secret.encode(), said.encode(), hashlib.sha256).hexdigest()


async def _secret(gateway: Gateway) -> str:
    given = gateway.settings.url_secret
    return await gateway.queues.link_secret() if given is None else given.get_secret_value()
