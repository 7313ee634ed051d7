"""Who may ask: the API keys of all tenants in Redis, and the quotas that some have of their own.

Service-wide, beside the models' queues (TenantKeys). Records are JSON; of a secret there is only its SHA-256. Times
are the server's.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from service.api_keys import TENANT_PATTERN, ApiKey, new_key
from service.errors import InvalidValue, TooManyKeys
from service.keys import TenantKeys
from service.queue_server import CALL_BUDGET_S, QueueServer, translated
from service.quotas import SECONDS_PER_DAY
from service.records import from_fields, to_fields, to_json

ANONYMOUS = "anonymous"  # who asks without a key, where none is needed
MAX_KEYS = 2  # the old one and the new one, while a tenant changes over
MAX_LABEL_CHARS = 64


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key as it is stored. Times in milliseconds since 1970; `expires_ms` None: it holds until it is revoked."""

    tenant: str
    digest: str
    created_ms: int
    expires_ms: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key's record, and what else is known of it. `quotas` are the tenant's own; `days` count from 1970, UTC."""

    id: str
    record: KeyRecord
    now_ms: int
    last_used_day: int | None
    quotas: Mapping[str, float]

    @property
    def left_s(self) -> float:
        """How long it still holds."""
        expires_ms = self.record.expires_ms
        return float("inf") if expires_ms is None else (expires_ms - self.now_ms) / 1000

    @property
    def today(self) -> int:
        """The server's day."""
        return self.now_ms // (SECONDS_PER_DAY * 1000)


class Tenants:
    """All tenants' keys and quotas. Every method raises ServerOverloaded while the server cannot be asked."""

    def __init__(self, server: QueueServer) -> None:
        self._root = server
        self._server = server.serving(TenantKeys.api_keys)
        self._commands = self._server.commands
        self._stand_in = KeyRecord("-", ApiKey("", secrets.token_urlsafe()).digest, created_ms=0)

    @classmethod
    def connect(cls, url: str) -> Self:
        """Those on the server at `url`. Raises ConfigurationError for a URL that cannot be used."""
        return cls(QueueServer.connect(url))

    async def create(self, tenant: str, *, label: str = "", expires_in_s: float | None = None) -> ApiKey:
        """A new key, whose secret nobody can read again. Raises InvalidValue, or TooManyKeys where two are active."""
        check_tenant(tenant)
        if len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise InvalidValue("label", label, f"allowed: up to {MAX_LABEL_CHARS} printable characters")
        key = new_key()
        async with translated(CALL_BUDGET_S):
            now_ms = await self._now_ms()
            expires_ms = None if expires_in_s is None else now_ms + round(expires_in_s * 1000)
            record = KeyRecord(tenant, key.digest, now_ms, expires_ms, label)
            in_the_way = await self._server.run(
                "create_key",
                (TenantKeys.api_keys, TenantKeys.last_used, TenantKeys.keys_of(tenant)),
                key.id,
                to_json(to_fields(record)),
                "+inf" if expires_ms is None else expires_ms,
                MAX_KEYS,
            )
        if in_the_way:
            raise TooManyKeys(
                f"{tenant} has {len(in_the_way)} active keys, and {MAX_KEYS} are allowed: revoke one first"
            )
        return key

    async def find(self, key_id: str) -> KnownKey:
        """The key of this id; for an unknown one, after the same work, a stand-in that no secret fits."""
        keys = (TenantKeys.api_keys, TenantKeys.last_used, TenantKeys.quotas)
        async with translated(CALL_BUDGET_S):
            stand_in = to_json(to_fields(self._stand_in))
            now_ms, text, day, quotas = await self._server.run("find_key", keys, key_id, stand_in)
        return _known(key_id, text, now_ms, day, quotas)

    async def note_use(self, known: KnownKey) -> None:
        """This key was used today. Days and no times: who asks when is nobody's business."""
        async with translated(CALL_BUDGET_S):
            await self._commands.hset(TenantKeys.last_used, known.id, known.today)

    async def all_keys(self) -> list[KnownKey]:
        """Every key, those that hold no more included until their tenant gets a new one; by tenant, then by age."""
        async with translated(CALL_BUDGET_S):
            now_ms = await self._now_ms()
            async with self._commands.pipeline(transaction=False) as pipe:
                pipe.hgetall(TenantKeys.api_keys)
                pipe.hgetall(TenantKeys.last_used)
                pipe.hgetall(TenantKeys.quotas)
                texts, days, quotas = await pipe.execute()
        known = []
        for key_id, text in texts.items():
            tenant = _record(text).tenant
            known.append(_known(key_id, text, now_ms, days.get(key_id, ""), quotas.get(tenant, "")))
        return sorted(known, key=lambda one: (one.record.tenant, one.record.created_ms, one.id))

    async def revoke(self, key_id: str) -> KeyRecord | None:
        """Let a key hold no more; gateways that know it follow within seconds. None where there is no such key."""
        async with translated(CALL_BUDGET_S):
            text = await self._commands.hget(TenantKeys.api_keys, key_id)
            if text is None:
                return None
            record = _record(text)
            async with self._commands.pipeline(transaction=False) as pipe:
                pipe.hdel(TenantKeys.api_keys, key_id)
                pipe.hdel(TenantKeys.last_used, key_id)
                pipe.zrem(TenantKeys.keys_of(record.tenant), key_id)
                await pipe.execute()
        return record

    async def quotas_of(self, tenant: str) -> Mapping[str, float]:
        """The quotas that the tenant has of its own, by name."""
        async with translated(CALL_BUDGET_S):
            return _quotas(await self._commands.hget(TenantKeys.quotas, tenant) or "")

    async def set_quotas(self, tenant: str, quotas: Mapping[str, float]) -> None:
        """Give the tenant these quotas of its own, and no others."""
        check_tenant(tenant)
        async with translated(CALL_BUDGET_S):
            if quotas:
                await self._commands.hset(TenantKeys.quotas, tenant, to_json(quotas))
            else:
                await self._commands.hdel(TenantKeys.quotas, tenant)

    async def close(self) -> None:
        """Close every connection. Only for who has made them."""
        await self._root.close()

    async def _now_ms(self) -> int:
        seconds, microseconds = await self._commands.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def check_tenant(tenant: str) -> None:
    """Raises InvalidValue for what cannot be a tenant's name: it becomes part of keys and of lines for people."""
    if not re.fullmatch(TENANT_PATTERN, tenant) or tenant == ANONYMOUS:
        allowed = f"allowed: 1 to 64 letters, digits, '.', '_' and '-', and not {ANONYMOUS!r}"
        raise InvalidValue("tenant", tenant, allowed)


def _known(key_id: str, text: str, now_ms: int, day: str, quotas: str) -> KnownKey:
    return KnownKey(key_id, _record(text), now_ms, int(day) if day else None, _quotas(quotas))


def _record(text: str) -> KeyRecord:
    return from_fields(KeyRecord, json.loads(text))


def _quotas(text: str) -> Mapping[str, float]:
    values: dict[str, float] = json.loads(text) if text else {}
    return values
