"""The checks, tried with evidence in which everything is well, and with the same evidence tampered with."""

from collections import Counter, defaultdict
from copy import deepcopy
from dataclasses import replace

import pytest

from tests.chaos.checker import PIXELS, Evidence, check
from tests.chaos.journal import Journal
from tests.chaos.look import SETS, KnownJob, Snapshot
from tests.chaos.record import Record
from tests.chaos.tenants import Account, tenant_of
from tests.chaos.wanted import SEEDS_PER_REQUEST, number_of_seed

# request -> (job, its end)
JOBS = {0: ("a", "done"), 1: ("b", "cancelled"), 2: ("c", "failed"), 3: ("d", "done")}


def snapshot(queued=(), running=(), delayed=()):
    sets = {
        "queue": queued,
        "delayed": delayed,
        "waiting": [*queued, *delayed],
        "running": running,
        "leases": running,
        "deadlines": [*queued, *delayed, *running],
    }
    states = {**dict.fromkeys([*queued, *delayed], "queued"), **dict.fromkeys(running, "running")}
    return Snapshot({name: frozenset(sets[name]) for name in SETS}, states)


@pytest.fixture
def evidence():
    record = Record()
    for request, (job, state) in JOBS.items():
        record.add("sent", request=request, kind="async", n=1, timeout_s=60, key="k" if request == 0 else None)
        record.add("accepted", request=request, job=job)
        record.add("ended", request=request, job=job, state=state, by="event" if request == 0 else "poll", code=None)
        if state == "done":
            record.add("picture", request=request, job=job, index=0, pixels=f"pixels-{request}")
    ids = [job for job, _ in JOBS.values()]
    journal = Journal(
        accepted=Counter(ids),
        ends=defaultdict(list, {job: [state] for job, state in JOBS.values()}),
        told=Counter(ids),
        claims=Counter({"a": 1, "c": 4, "d": 2}),
        releases=Counter({"c": 1}),
        failures=Counter({"c": 3, "d": 1}),
        charged=Counter(ids),
        given_back=Counter({"b": 1}),
    )
    return Evidence(
        record=record,
        jobs={
            job: KnownJob(job, state, 1, journal.failures[job], request * SEEDS_PER_REQUEST, 1, tenant_of(request))
            for request, (job, state) in JOBS.items()
        },
        journal=journal,
        snapshots=[snapshot(["a", "b"], ["c"], ["d"]), snapshot()],
        pictures={("a", 0): "pixels-0", ("d", 0): "pixels-3"},
        expected={(0, 0): "pixels-0", (3, 0): "pixels-3"},
        request_of_seed=number_of_seed,
        max_attempts=3,
        keyed={0: "k"},
        accounts={
            "ada": Account(2 * PIXELS, {}),
            "bob": Account(PIXELS, {"b": PIXELS}),  # whose gateway died before it could give the charge back
            "cho": Account(0, {}),
        },
    )


def test_nothing_is_held_against_a_service_that_did_all_it_promised(evidence):
    assert check(evidence) == []


def change_job(evidence, job, **changes):
    evidence.jobs = {**evidence.jobs, job: replace(evidence.jobs[job], **changes)}


def move(evidence, number, name, job, *, is_in):
    """Put a job into, or take it out of, one set of one look at the server."""
    moment = evidence.snapshots[number]
    sets = {**moment.sets, name: moment.sets[name] | {job} if is_in else moment.sets[name] - {job}}
    evidence.snapshots = [
        *evidence.snapshots[:number],
        Snapshot(sets, moment.states),
        *evidence.snapshots[number + 1 :],
    ]


def lose(evidence):
    evidence.jobs = {job: known for job, known in evidence.jobs.items() if job != "d"}


def line(evidence, what, request):
    return next(line for line in evidence.record.of(what) if line["request"] == request)


TAMPERED = {
    "I1 a job never ends": lambda e: change_job(e, "d", state="running"),
    "I1 a job is lost": lose,
    "I1 a job ends twice": lambda e: e.journal.ends["d"].append("failed"),
    "I1 a client is told another end": lambda e: line(e, "ended", 3).update(state="expired"),
    "I1 a client is told that an accepted job does not exist": lambda e: e.record.add("gone", job="a", status=404),
    "I1 an end of a job that was never accepted": lambda e: e.record.add(
        "ended", request=9, job="z", state="done", by="poll", code=None
    ),
    "I2 charged twice": lambda e: e.journal.charged.update(["a"]),
    "I2 never charged": lambda e: e.journal.charged.pop("a"),
    "I2 a job that ran gets its charge back": lambda e: e.journal.given_back.update(["d"]),
    "I2 one key is two jobs": lambda e: e.jobs.update({"a2": replace(e.jobs["a"], id="a2", state="cancelled")}),
    "I2 an account has more than was drawn": lambda e: e.accounts.update({"cho": Account(PIXELS, {})}),
    "I2 an account has less than was drawn": lambda e: e.accounts.update({"ada": Account(PIXELS, {})}),
    "I3 a picture is gone before its time": lambda e: e.pictures.pop(("a", 0)),
    "I3 a stored picture is another": lambda e: e.pictures.update({("a", 0): "pixels-3"}),
    "I4 no event of an end": lambda e: e.journal.told.pop("b"),
    "I4 two events of an end": lambda e: e.journal.told.update(["b"]),
    "I4 a stream tells the end twice": lambda e: e.record.add(
        "ended", request=0, job="a", state="done", by="event", code=None
    ),
    "I4 a stream goes on after its end": lambda e: e.record.add("told_twice", request=0, job="a", event="job"),
    "I5 one attempt too many": lambda e: e.journal.claims.update(["c"]),
    "I5 one failure too many": lambda e: change_job(e, "c", failures=4),
    "I6 queued and not in the queue": lambda e: move(e, 0, "queue", "a", is_in=False),
    "I6 running and not leased": lambda e: move(e, 0, "leases", "c", is_in=False),
    "I6 leased and not running": lambda e: move(e, 0, "leases", "b", is_in=True),
    "I6 in the queue and ended": lambda e: move(e, 1, "queue", "a", is_in=True),
    "I6 in the queue and delayed": lambda e: move(e, 0, "queue", "d", is_in=True),
    "I6 without a deadline": lambda e: move(e, 0, "deadlines", "c", is_in=False),
    "I6 something is left in the end": lambda e: e.snapshots.append(snapshot(["a"])),
    "I7 another's picture": lambda e: line(e, "picture", 0).update(pixels="pixels-3"),
    "I7 the right pixels of another's job": lambda e: line(e, "picture", 0).update(job="d"),
    "I7 two requests have one picture": lambda e: e.expected.update({(3, 0): "pixels-0"}),
    "I7 a job of another owner": lambda e: change_job(e, "a", owner="bob"),
    "I7 another tenant gets at a job": lambda e: e.record.add("intruded", request=0, job="a", why="200 for bob"),
    "I7 a job that nobody asked for": lambda e: change_job(e, "b", seed=99 * SEEDS_PER_REQUEST),
    "reply an answer that must not be": lambda e: e.record.add("wrong", why="500 internal_error"),
    "hang a client without an answer": lambda e: e.record.add("hung", request=1, after_s=180.0),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_every_broken_promise_is_found_and_named(evidence, tamper, request):
    tampered = deepcopy(evidence)
    tamper(tampered)
    assert request.node.callspec.id.split()[0] in {violation.invariant for violation in check(tampered)}
