"""Whose request is whose: three tenants with keys and a quota of pixels, so that charges are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.keys import TenantKeys
from service.queue_server import QueueServer
from service.tenants import Tenants

TENANTS = ("ada", "bob", "cho")
SETTINGS: Mapping[str, object] = {"require_keys": "always", "tenant_daily_megapixels": 1_000_000}


@dataclass(frozen=True, slots=True)
class Account:
    """What the service has put down against one tenant: pixels in all, and those of jobs that are not settled yet."""

    pixels: int
    reserved: Mapping[str, int]


def tenant_of(request: int) -> str:
    """Who sends the request of this number."""
    return TENANTS[request % len(TENANTS)]


async def create_keys(url: str) -> dict[str, str]:
    """A key for each tenant."""
    server = QueueServer.connect(url)
    try:
        return {tenant: (await Tenants(server).create(tenant)).text for tenant in TENANTS}
    finally:
        await server.close()


async def read_accounts(server: Any) -> dict[str, Account]:
    """All tenants' accounts, through a client of the server itself."""
    accounts = {}
    for tenant in TENANTS:
        pixels = await server.hget(TenantKeys.usage(tenant), "pixels")
        reserved = await server.hgetall(TenantKeys.reserved(tenant))
        # "model/job" -> "since day pixels increment"
        of_jobs = {member.rpartition("/")[2]: int(text.split()[2]) for member, text in reserved.items()}
        accounts[tenant] = Account(int(pixels or 0), of_jobs)
    return accounts
