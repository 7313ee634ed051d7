"""A worker in simulated time: one trace of requests, served step by step or batch by batch, with the same durations.

Deterministic from the seed. Both ways claim from the same fair queue (priority classes, tenants' virtual time as in
service/scripts/submit.lua), so what differs is only what happens after the claim.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from service.cost_model import CostModel
from service.estimates import Line
from service.scheduler import Candidate, Group, Policy, SchedulerState, choose

BASE, FEW_STEPS = "base", "few-steps"
DEFAULT_POLICY = Policy()
PRESSED_SLOWDOWN = 10.0  # a twentieth of the requests gives up after so many times what it takes alone


@dataclass(frozen=True, slots=True)
class Request:
    """One picture wanted at `at_s`, for which its owner waits `timeout_s`."""

    at_s: float
    owner: str
    group: Group
    num_steps: int
    num_rows: int
    priority: int
    timeout_s: float
    is_pressed: bool = False  # its timeout is short

    @property
    def cost_per_step(self) -> float:
        return self.group[1] * self.group[2] / 1e6 * self.num_rows


@dataclass(frozen=True)
class Machine:
    """True durations, each drawn around its line: log-normal noise, and a forward in a thousand that takes ten times.

    `buckets`: the engine pads a forward's rows to the next of these sizes; empty where it does not pad.
    """

    steps: dict[int, Line]
    decodes: dict[int, Line]
    text: Line
    buckets: tuple[int, ...] = ()
    noise: float = 0.05
    stall_share: float = 0.001

    def step_s(self, group: Group, num_rows: int) -> float:
        return self.steps[group[1]](next((size for size in self.buckets if size >= num_rows), num_rows))

    def alone_s(self, request: Request) -> float:
        step_s = self.step_s(request.group, request.num_rows)
        return self.text(1) + request.num_steps * step_s + self.decodes[request.group[1]](1)

    def drawn(self, seconds: float, source: random.Random) -> float:
        stall = 10.0 if source.random() < self.stall_share else 1.0
        return seconds * source.lognormvariate(0.0, self.noise) * stall


@dataclass(slots=True)
class Picture:
    """A request under way or done. `service_s` is its share, by rows, of the forwards that it took part in."""

    request: Request
    steps_left: int
    admitted_at: int = 0
    last_step_at: int = 0
    service_s: float = 0.0
    done_at_s: float = 0.0


@dataclass(frozen=True)
class Run:
    """What a way of serving made of a trace."""

    pictures: list[Picture]
    num_forwards: int
    num_rows: int
    wall_s: float
    shares: dict[str, float]  # seconds of the device, while every tenant had work here


Server = Callable[["Clock"], None]


class Clock:
    """The machine's time, and the queue that fills up while it passes."""

    def __init__(self, machine: Machine, trace: Sequence[Request], seed: int) -> None:
        self.machine = machine
        self.now_s = 0.0
        self.done: list[Picture] = []
        self.num_forwards = 0
        self.num_rows = 0
        self.shares: dict[str, float] = defaultdict(float)
        self._arrivals = sorted(trace, key=lambda request: request.at_s)
        self._num_arrived = 0
        self._noise = random.Random(seed)
        self._queue: list[tuple[int, float, int, Request]] = []
        self._clocks: dict[int, float] = defaultdict(float)
        self._tags: dict[tuple[int, str], float] = {}
        self._unfinished: dict[str, int] = defaultdict(int)
        self._tenants = {request.owner for request in trace}

    @property
    def is_over(self) -> bool:
        return len(self.done) == len(self._arrivals)

    def queued(self) -> list[Request]:
        """Who waits, in the order of the queue."""
        self._let_arrive()
        return [entry[-1] for entry in sorted(self._queue)]

    def claim(self, wanted: Sequence[Request]) -> list[Picture]:
        """Begin these: their prompts are encoded together."""
        if not wanted:
            return []
        chosen = {id(request) for request in wanted}
        for priority, tag, _, request in self._queue:
            if id(request) in chosen:
                self._clocks[priority] = max(self._clocks[priority], tag)
        self._queue = [entry for entry in self._queue if id(entry[-1]) not in chosen]
        self.pass_time(self.machine.text(len(wanted)))
        return [Picture(request, request.num_steps, self.num_forwards, self.num_forwards) for request in wanted]

    def forward(self, batch: Sequence[Picture]) -> float:
        """One step for these; returns how long it took."""
        num_rows = sum(picture.request.num_rows for picture in batch)
        duration_s = self.pass_time(self.machine.step_s(batch[0].request.group, num_rows))
        self.num_forwards += 1
        self.num_rows += num_rows
        everyone_wants = all(self._unfinished[owner] for owner in self._tenants)
        for picture in batch:
            picture.steps_left -= 1
            picture.last_step_at = self.num_forwards
            picture.service_s += duration_s * picture.request.num_rows / num_rows
            if everyone_wants:
                self.shares[picture.request.owner] += duration_s * picture.request.num_rows / num_rows
        return duration_s

    def decode(self, pictures: Sequence[Picture]) -> None:
        """Finish these: one call a size."""
        by_size: dict[int, list[Picture]] = defaultdict(list)
        for picture in pictures:
            by_size[picture.request.group[1]].append(picture)
        for size, members in by_size.items():
            self.pass_time(self.machine.decodes[size](len(members)))
            for picture in members:
                picture.done_at_s = self.now_s
                self._unfinished[picture.request.owner] -= 1
                self.done.append(picture)

    def wait(self) -> None:
        """Idle until the next request."""
        self.now_s = max(self.now_s, self._arrivals[self._num_arrived].at_s)

    def pass_time(self, seconds: float) -> float:
        duration_s = self.machine.drawn(seconds, self._noise)
        self.now_s += duration_s
        return duration_s

    def _let_arrive(self) -> None:
        while self._num_arrived < len(self._arrivals) and self._arrivals[self._num_arrived].at_s <= self.now_s:
            request = self._arrivals[self._num_arrived]
            self._num_arrived += 1
            self._unfinished[request.owner] += 1
            tenant = (request.priority, request.owner)
            start = max(self._clocks[request.priority], self._tags.get(tenant, 0.0))
            # Jobs are charged without their second row: that is what the queue knows (GenerationParams.cost).
            self._tags[tenant] = start + request.cost_per_step / request.num_rows * request.num_steps
            heapq.heappush(self._queue, (request.priority, start, self._num_arrived, request))


def by_steps(max_rows: int, max_held: int, policy: Policy = DEFAULT_POLICY) -> Server:
    """Step-level batching: this project's worker, with up to `max_held` pictures under way."""

    def serve(clock: Clock) -> None:
        costs = CostModel(clock.machine.buckets)
        state = SchedulerState()
        held: list[Picture] = []
        while not clock.is_over:
            held += clock.claim(clock.queued()[: max_held - len(held)])
            if not held:
                clock.wait()
                continue
            choice = choose(
                [_candidate(index, picture, costs) for index, picture in enumerate(held)],
                state,
                now_s=clock.now_s,
                forward=clock.num_forwards + 1,
                max_rows=max_rows,
                step_s=costs.step_s,
                policy=policy,
            )
            state = choice.state
            batch = [held[index] for index in choice.indices]
            costs.observe_step(batch[0].request.group, choice.num_rows, clock.forward(batch))
            clock.decode([picture for picture in batch if not picture.steps_left])
            held = [picture for picture in held if picture.steps_left]

    return serve


def by_requests(max_rows: int, *, same_steps: bool) -> Server:
    """Request-level batching: what fits with the queue's head is taken together and nobody joins until the last ends.

    `same_steps`: only requests of as many steps share a batch, and get their pictures together (one call of a
    pipeline). Else any steps of one group do, each member leaves when it is done, and later forwards are smaller.
    """

    def serve(clock: Clock) -> None:
        while not clock.is_over:
            waiting = clock.queued()
            if not waiting:
                clock.wait()
                continue
            head, wanted, num_free = waiting[0], [], max_rows
            for request in waiting:
                fits = request.group == head.group and request.num_rows <= num_free
                if fits and (request.num_steps == head.num_steps or not same_steps):
                    wanted.append(request)
                    num_free -= request.num_rows
            batch = clock.claim(wanted)
            while batch:
                clock.forward(batch)
                finished = [picture for picture in batch if not picture.steps_left]
                clock.decode(finished)
                batch = [picture for picture in batch if picture.steps_left]

    return serve


def simulate(serve: Server, machine: Machine, trace: Sequence[Request], seed: int) -> Run:
    """Serve the trace to its end."""
    clock = Clock(machine, trace, seed)
    serve(clock)
    wall_s = clock.now_s - min(request.at_s for request in trace)
    return Run(clock.done, clock.num_forwards, clock.num_rows, wall_s, dict(clock.shares))


def make_trace(machine: Machine, num_requests: int, load: float, max_rows: int, seed: int) -> list[Request]:
    """Poisson arrivals of three tenants, one of which floods, at a share of what full forwards could bear.

    Of the requests "flood" sends 60% in bursts of 24 at once, "steady" 30% and "rare" 10% one by one.
    """
    source = random.Random(seed)
    unit: list[Request] = []
    for owner, share, burst in (("flood", 0.6, 24), ("steady", 0.3, 1), ("rare", 0.1, 1)):
        at_s = 0.0
        for number in range(round(num_requests * share)):
            if number % burst == 0:
                at_s += source.expovariate(share / burst)
            unit.append(_draw(at_s, owner, machine, source))
    work_s = sum(_full_s(request, machine, max_rows) for request in unit)
    stretch = work_s / load / max(request.at_s for request in unit)
    return [replace(request, at_s=request.at_s * stretch) for request in unit]


def _draw(at_s: float, owner: str, machine: Machine, source: random.Random) -> Request:
    num_steps = source.choices((4, 20, 50), weights=(50, 40, 10))[0]
    size = source.choices((512, 1024), weights=(85, 15))[0]
    is_guided = num_steps > 4 and source.random() < 0.75
    priority = source.choices((0, 1, 2), weights=(5, 80, 15))[0]
    group = (FEW_STEPS if num_steps == 4 and size == 512 else BASE, size, size)
    request = Request(at_s, owner, group, num_steps, 2 if is_guided else 1, priority, timeout_s=math.inf)
    if source.random() < 0.05:
        request = replace(request, timeout_s=PRESSED_SLOWDOWN * machine.alone_s(request), is_pressed=True)
    return request


def _full_s(request: Request, machine: Machine, max_rows: int) -> float:
    """Its share of the device where every forward is full."""
    step_s = machine.step_s(request.group, max_rows) * request.num_rows / max_rows
    return request.num_steps * step_s + machine.decodes[request.group[1]].per_item_s


def _candidate(index: int, picture: Picture, costs: CostModel) -> Candidate:
    request = picture.request
    return Candidate(
        index=index,
        group=request.group,
        num_rows=request.num_rows,
        steps_left=picture.steps_left,
        priority=request.priority,
        owner=request.owner,
        deadline_s=request.at_s + request.timeout_s,
        admitted_at=picture.admitted_at,
        last_step_at=picture.last_step_at,
        cost_per_step=request.cost_per_step,
    )
