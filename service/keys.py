"""Every Redis key, those of one model in the order in which the scripts name them (service/scripts/prelude.lua).

All keys of a model carry one hash tag, so that on a Cluster they share a slot and every script stays atomic.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# What belongs to no model has hash tags of its own.
LINK_SECRET = "emmdit:{service}:link_secret"  # what signs links to pictures


class TenantKeys:
    """Names of the keys that say who may ask, and how much: of the whole service, with a hash tag of their own.

    No model's name has a colon in it, so that none can have this tag.
    """

    _prefix = "emmdit:{:tenants}:"
    api_keys = _prefix + "api_keys"  # hash: a key's id -> its record, as JSON
    last_used = _prefix + "last_used"  # hash: a key's id -> the day of its last use, counted from 1970
    quotas = _prefix + "quotas"  # hash: tenant -> its own quotas, as JSON

    @classmethod
    def keys_of(cls, tenant: str) -> str:
        """The sorted set of one tenant's keys, by the time until which they hold."""
        return f"{cls._prefix}keys:{tenant}"

    @classmethod
    def usage(cls, tenant: str) -> str:
        """The hash of what one tenant has used up."""
        return f"{cls._prefix}usage:{tenant}"

    @classmethod
    def reserved(cls, tenant: str) -> str:
        """The hash of what one tenant's unfinished jobs were charged."""
        return f"{cls._prefix}reserved:{tenant}"


_SHARED = (
    "queue",  # zset: jobs that may run now, by priority class and the tenant's virtual time
    "waiting",  # zset: every accepted job that does not run, by the time it was accepted: the bounded depth
    "delayed",  # zset: the waiting jobs in a retry's delay, by the time it ends
    "running",  # zset: jobs on a worker, by the time they started
    "leases",  # zset: the same jobs, by the time until which their worker may stay silent
    "deadlines",  # zset: every job that has not ended, by its deadline
    "inboxes",  # hash: job -> name of the inbox that is told of its end
    "finish_tags",  # zset: tenants of a priority class that have been charged, by where their next job starts
    "tenant_jobs",  # zset: waiting jobs never handed out, in the order of each tenant's start tags
    "totals",  # hash: waiting_cost, and virtual_time of each priority class
    "wake",  # list: for workers that wait, each arrival: the job and its inbox
    "alone",  # hash: worker -> the retried job that it runs and that nothing may join
    "workers",  # zset: workers, by the time of their last heartbeat
    "worker_records",  # hash: worker -> what it says of itself, as JSON
    "dead",  # zset: jobs that failed for good, by when: the last ones, for whoever looks after the service
    "dead_letters",  # hash: the same jobs -> their fields as they were then, as a JSON list
)


class QueueKeys:
    """Names of one model's keys. Raises ValueError for a model name that could break out of the hash tag."""

    def __init__(self, model: str) -> None:
        if not _MODEL_NAME.fullmatch(model):
            raise ValueError(f"a model's queue name has letters, digits, '.', '_' and '-' only, got {model!r}")
        self._prefix = f"emmdit:{{{model}}}:"
        # As bytes: they go with every script, and the client would encode them every time.
        self.shared = tuple((self._prefix + name).encode() for name in _SHARED)
        self.queue = self._prefix + "queue"
        self.waiting = self._prefix + "waiting"
        self.delayed = self._prefix + "delayed"
        self.running = self._prefix + "running"
        self.inboxes = self._prefix + "inboxes"
        self.totals = self._prefix + "totals"
        self.wake = self._prefix + "wake"
        self.workers = self._prefix + "workers"
        self.worker_records = self._prefix + "worker_records"
        self.dead = self._prefix + "dead"
        self.dead_letters = self._prefix + "dead_letters"
        self.news = self._prefix + "news"  # a channel: ids of watched jobs that have something to show

    def job(self, job_id: str) -> str:
        """The hash of one job."""
        return f"{self._prefix}job:{job_id}"

    def events(self, job_id: str) -> str:
        """The stream of what one job has to show while it runs."""
        return f"{self._prefix}events:{job_id}"

    def inbox(self, name: str) -> str:
        """The stream in which one gateway learns that jobs have ended."""
        return f"{self._prefix}inbox:{name}"

    def owner_jobs(self, owner: str) -> str:
        """The sorted set of one tenant's jobs, by the time they were accepted."""
        return f"{self._prefix}owner_jobs:{owner}"

    def idempotency(self, digest: str) -> str:
        """The hash that remembers which job was accepted under a client's own key."""
        return f"{self._prefix}idempotency:{digest}"

    def declare(self, listing: Sequence[str]) -> tuple[list[str], list[str]]:
        """From {id, inbox, ...}: the keys a script declares for these jobs, and its arguments {id, inbox key, ...}.

        A job without an inbox ("") has the inbox key "".
        """
        ids = listing[::2]
        inbox_keys = [self.inbox(name) if name else "" for name in listing[1::2]]
        keys = [*(self.job(job_id) for job_id in ids), *sorted(set(inbox_keys) - {""})]
        return keys, [value for pair in zip(ids, inbox_keys, strict=True) for value in pair]
