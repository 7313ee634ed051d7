"""Whether I1 to I7 held: the clients' record against the server's journal, its last state, and every picture.

Pure: evidence in, violations out, so that the checks can themselves be tried with evidence that was tampered with.
RELIABILITY promises: I1 one end for every accepted job; I2 charged once; I3 done means readable; I4 one terminal
event; I5 attempts bounded; I6 queued if and only if in the queue, running if and only if leased; I7 nobody gets
another's picture. "reply" is what no client may be told, "hang" what none may wait for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.journal import ENDS, Journal
from tests.chaos.look import KnownJob, Snapshot
from tests.chaos.pixels import SIDE_PX
from tests.chaos.record import Record
from tests.chaos.tenants import Account, tenant_of

PIXELS = SIDE_PX * SIDE_PX


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and the sentence that says how."""

    invariant: str
    sentence: str


@dataclass(slots=True)
class Evidence:
    """`pictures` are the pixels that each (job, index) of a done job had when it was read at the end, or the error;
    `expected` those that (request number, index) must have. `request_of_seed` says whose a job is."""

    record: Record
    jobs: Mapping[str, KnownJob]
    journal: Journal
    snapshots: Sequence[Snapshot]
    pictures: Mapping[tuple[str, int], str]
    expected: Mapping[tuple[int, int], str]
    request_of_seed: Callable[[int], int]
    max_attempts: int
    is_quiet: bool = True  # the last snapshot was taken when nothing was left to do
    keyed: Mapping[int, str] = field(default_factory=dict)  # request number -> its Idempotency-Key
    accounts: Mapping[str, Account] = field(default_factory=dict)  # by tenant; a job has PIXELS for each picture


def check(evidence: Evidence) -> list[Violation]:
    """Every violation there is, in the order of the invariants."""
    return [Violation(name, sentence) for name, look in _CHECKS.items() for sentence in look(evidence)]


def _one_end(evidence: Evidence) -> Iterator[str]:
    accepted = {line["job"] for line in evidence.record.of("accepted")} | set(evidence.journal.accepted)
    told: defaultdict[str, set[str]] = defaultdict(set)
    for line in evidence.record.of("ended"):
        told[line["job"]].add(line["state"])
    for line in evidence.record.of("gone"):
        yield f"job {line['job']} was accepted and then answered with {line['status']}"
    for job in sorted(accepted):
        ends = evidence.journal.ends.get(job, [])
        known = evidence.jobs.get(job)
        if known is None:
            yield f"job {job} was accepted and is not known any more"
        elif known.state not in ENDS:
            yield f"job {job} is {known.state} when nothing is left to do"
        elif len(ends) != 1:
            yield f"job {job} ended {len(ends)} times: {ends}"
        elif told[job] - {known.state}:
            yield f"job {job} is {known.state} and clients were told {sorted(told[job])}"
    for job in sorted(set(told) - accepted):
        yield f"job {job} ended and was never accepted"


def _charged_once(evidence: Evidence) -> Iterator[str]:
    journal = evidence.journal
    for job in sorted(journal.accepted):
        charged, given_back, claims = journal.charged[job], journal.given_back[job], journal.claims[job]
        if charged != 1:
            yield f"job {job} was charged {charged} times"
        if given_back > int(claims == 0):
            yield f"job {job} was handed out {claims} times and got its charge back {given_back} times"
    for tenant, account in sorted(evidence.accounts.items()):
        own = {job: known for job, known in evidence.jobs.items() if known.owner == tenant}
        drawn = sum(known.num_images * PIXELS for known in own.values() if known.state == "done")
        # What is reserved for a job that came to nothing is given back when its tenant needs it.
        to_give_back = sum(
            pixels for job, pixels in account.reserved.items() if job not in own or own[job].state != "done"
        )
        if account.pixels - to_give_back != drawn:
            yield f"{tenant} is charged {account.pixels - to_give_back} pixels for {drawn} that were drawn"
    per_request: Counter[int] = Counter(evidence.request_of_seed(known.seed) for known in evidence.jobs.values())
    sent = Counter(line["request"] for line in evidence.record.of("sent"))
    for request, num_jobs in sorted(per_request.items()):
        allowed = 1 if evidence.keyed.get(request) else sent[request]
        if num_jobs > allowed:
            yield f"request {request} was sent {sent[request]} times and is {num_jobs} jobs; allowed: {allowed}"


def _readable(evidence: Evidence) -> Iterator[str]:
    for job, known in sorted(evidence.jobs.items()):
        if known.state != "done":
            continue
        request = evidence.request_of_seed(known.seed)
        for index in range(known.num_images):
            found = evidence.pictures.get((job, index), "nothing")
            if found != evidence.expected.get((request, index)):
                yield f"job {job} is done and its picture {index} is {found[:80]}"


def _told_once(evidence: Evidence) -> Iterator[str]:
    journal = evidence.journal
    for job in sorted(set(journal.told) | set(journal.ends)):
        if journal.told[job] != len(journal.ends[job]):
            yield f"job {job} ended {len(journal.ends[job])} times and {journal.told[job]} events say so"
        elif journal.told[job] > 1:
            yield f"the end of job {job} was told {journal.told[job]} times"
    by_events = Counter((line["request"], line["job"]) for line in evidence.record.of("ended") if line["by"] == "event")
    for (request, job), count in sorted(by_events.items()):
        if count > 1:
            yield f"request {request} was sent the end of job {job} {count} times"
    for line in evidence.record.of("told_twice"):
        yield f"an event stream of job {line['job']} repeated its {line['event']}"


def _attempts(evidence: Evidence) -> Iterator[str]:
    journal, limit = evidence.journal, evidence.max_attempts
    for job in sorted(set(journal.claims) | set(evidence.jobs)):
        failures, counted = journal.failures[job], journal.claims[job] - journal.releases[job]
        known = evidence.jobs.get(job)
        if max(failures, counted, known.failures if known else 0) > limit:
            yield f"job {job} was tried {counted} times and failed {failures} times; allowed: {limit}"


def _in_one_place(evidence: Evidence) -> Iterator[str]:
    for number, moment in enumerate(evidence.snapshots):
        sets = moment.sets
        queued = {job for job, state in moment.states.items() if state == "queued"}
        running = {job for job, state in moment.states.items() if state == "running"}
        for name, found, wanted in (
            ("in the queue or delayed", sets["queue"] | sets["delayed"], queued),
            ("waiting", sets["waiting"], queued),
            ("running", sets["running"], running),
            ("leased", sets["leases"], running),
            ("under a deadline", sets["deadlines"], queued | running),
        ):
            for job in sorted(found ^ wanted):
                yield f"look {number}: job {job} is {moment.states.get(job)} and {'' if job in found else 'not '}{name}"
        for job in sorted(sets["queue"] & sets["delayed"]):
            yield f"look {number}: job {job} is in the queue and delayed"
    if evidence.is_quiet and evidence.snapshots and evidence.snapshots[-1].states:
        yield f"in the end these are left: {dict(evidence.snapshots[-1].states)}"


def _own_pictures(evidence: Evidence) -> Iterator[str]:
    for line in evidence.record.of("picture"):
        known = evidence.jobs.get(line["job"])
        if line["pixels"] != evidence.expected.get((line["request"], line["index"])):
            yield f"request {line['request']} got another picture {line['index']}, of job {line['job']}"
        elif known is not None and evidence.request_of_seed(known.seed) != line["request"]:
            yield f"request {line['request']} got its picture of job {line['job']}, which is another's"
        elif known is not None and evidence.accounts and known.owner != tenant_of(line["request"]):
            yield f"job {known.id} of {tenant_of(line['request'])} is {known.owner}'s"
    for line in evidence.record.of("intruded"):
        yield line["why"]
    owners: dict[str, tuple[int, int]] = {}
    for place, pixels in sorted(evidence.expected.items()):
        if owners.setdefault(pixels, place) != place:
            yield f"request {place[0]} and request {owners[pixels][0]} have the same picture"
    asked = {line["request"] for line in evidence.record.of("sent")}
    for job, known in sorted(evidence.jobs.items()):
        if evidence.request_of_seed(known.seed) not in asked:
            yield f"job {job} is nobody's"


def _replies(evidence: Evidence) -> Iterator[str]:
    for line in evidence.record.of("wrong"):
        yield line["why"]


def _hangs(evidence: Evidence) -> Iterator[str]:
    for line in evidence.record.of("hung"):
        yield f"request {line['request']} had no answer after {line['after_s']} s"


_CHECKS: Mapping[str, Callable[[Evidence], Iterator[str]]] = {
    "I1": _one_end,
    "I2": _charged_once,
    "I3": _readable,
    "I4": _told_once,
    "I5": _attempts,
    "I6": _in_one_place,
    "I7": _own_pictures,
    "reply": _replies,
    "hang": _hangs,
}
