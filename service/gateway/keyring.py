"""Which keys this gateway has seen hold, and which not: what spares most requests a look into Redis.

An answer counts for KNOWN_S: so long a revoked key may go on, at most. Surprising: while Redis is away a key that held
goes on for GRACE_S, since those who stream and look at jobs should outlive a restart; a key that was never seen waits.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from service.api_keys import ApiKey
from service.errors import ServerOverloaded
from service.queue_server import CALL_BUDGET_S, all_within
from service.quotas import Quotas
from service.tenants import ANONYMOUS, KnownKey, Tenants

KNOWN_S = 5.0
GRACE_S = 60.0
LOOK_AGAIN_S = 1.0  # after Redis did not answer
KEY_BUDGET_S = CALL_BUDGET_S / 4  # of the time that a request may take to be let in or refused
MAX_ENTRIES = 4096  # of either kind: so that those who guess push out nobody who knows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and how much they may."""

    tenant: str
    quotas: Quotas


@dataclass(slots=True)
class _Held:
    """A key that held at `checked_s`. `ends_s` is when it expires; `fresh_until_s` when to look again."""

    caller: Caller
    checked_s: float
    ends_s: float
    fresh_until_s: float


@dataclass(slots=True)
class Keyring:
    """One gateway's. `default_quotas` are those of tenants that have none of their own.

    Where no key `is_needed`, who sends none is `anonymous`.
    """

    tenants: Tenants
    default_quotas: Quotas
    is_needed: bool = False
    now_s: Callable[[], float] = time.monotonic
    anonymous: Caller = field(init=False)
    _held: dict[str, _Held] = field(default_factory=dict)
    _refused: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.anonymous = Caller(ANONYMOUS, self.default_quotas)

    async def caller_with(self, key: ApiKey) -> Caller | None:
        """Who has this key; None where nobody has. Raises ServerOverloaded where that cannot be found out now.

        An unknown id and a wrong secret take the same steps: neither is remembered by its id.
        """
        name = f"{key.id}.{key.digest}"
        held = self._held.get(name)
        now_s = self.now_s()
        if held is not None and now_s < held.fresh_until_s:
            return held.caller
        if now_s < self._refused.get(name, 0.0):
            return None
        try:
            with all_within(KEY_BUDGET_S):
                known = await self.tenants.find(key.id)
        except ServerOverloaded:
            now_s = self.now_s()
            if held is None or now_s >= min(held.checked_s + GRACE_S, held.ends_s):
                raise
            held.fresh_until_s = min(now_s + LOOK_AGAIN_S, held.ends_s)
            return held.caller
        return await self._judge(name, key, known)

    async def _judge(self, name: str, key: ApiKey, known: KnownKey) -> Caller | None:
        now_s = self.now_s()
        self._held.pop(name, None)
        is_right = hmac.compare_digest(known.record.digest, key.digest)
        if not is_right or known.left_s <= 0:
            _put(self._refused, name, now_s + KNOWN_S)
            return None
        caller = Caller(known.record.tenant, self.default_quotas.with_changes(known.quotas))
        ends_s = now_s + known.left_s
        _put(self._held, name, _Held(caller, now_s, ends_s, min(now_s + KNOWN_S, ends_s)))
        if known.last_used_day != known.today:
            with suppress(ServerOverloaded):
                await self.tenants.note_use(known)
        return caller


def _put(entries: dict[str, T], name: str, entry: T) -> None:
    """The oldest makes room."""
    entries.pop(name, None)
    if len(entries) >= MAX_ENTRIES:
        del entries[next(iter(entries))]
    entries[name] = entry
