"""Who takes part in the next forward. Pure policy: no I/O, no clock, no torch, the same answer to the same question.

`choose` is asked anew before every forward, since a picture can pause between any two steps at no cost. The rules in
their order, and what each one promises: docs/scheduling.md. Surprising: what parties are owed (`Shares`) is forgotten
as soon as nobody is left wanting, so the state stays small whoever comes and goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Generic, TypeVar

Group = tuple[str, int, int]
"""(variant, width_px, height_px): what pictures must have in common to share a forward."""

StepTime = Callable[[Group, int], float]
"""Seconds that a forward of this group with so many rows takes; positive, and no less for more rows."""

MAX_ABSENT_TAGS = 256
RECENT_SERVICES = 8
OVERDUE, URGENT, ORDINARY = range(3)
Party = TypeVar("Party", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One unfinished picture that could take part in the next forward. `index` is the caller's handle for it.

    `num_rows` are rows of the forward: 2 with guidance, else 1. `deadline_s` is when its last step must be done (the
    caller takes decoding off) on the clock of `now_s`. `admitted_at` is the number of the last forward before it
    joined, `last_step_at` that of the forward it last took part in, or `admitted_at`. `cost_per_step` is what its
    tenant is charged for a step: megapixels x num_rows.
    """

    index: int
    group: Group
    num_rows: int
    steps_left: int
    priority: int
    owner: str
    deadline_s: float
    admitted_at: int
    last_step_at: int
    cost_per_step: float

    @property
    def work_left(self) -> float:
        """What its remaining steps will be charged."""
        return self.steps_left * self.cost_per_step


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers behind the rules. Raises ValueError for one that makes no sense.

    `max_wait_forwards`: a picture that missed so many forwards goes first. `deadline_margin`: a deadline counts once
    the time left is below (1 + margin) times what the remaining steps take in full forwards. `max_borrowed_steps`:
    how many steps beyond its fair share deadlines may give to a tenant, or forwards to a group. `min_split_saving`:
    pictures are left out only where that saves this share of the forward's time.
    """

    max_wait_forwards: int = 32
    deadline_margin: float = 0.5
    max_borrowed_steps: int = 64
    min_split_saving: float = 0.05

    def __post_init__(self) -> None:
        if self.max_wait_forwards < 1:
            raise ValueError(f"max_wait_forwards must be >= 1, got {self.max_wait_forwards}")
        if min(self.deadline_margin, self.max_borrowed_steps, self.min_split_saving) < 0:
            raise ValueError(f"margins must be >= 0, got {self}")


@dataclass(frozen=True, slots=True)
class Shares(Generic[Party]):
    """Start-time fair queueing between parties, as service/scripts/submit.lua has it between tenants' jobs.

    A party's tag is where its next service starts, in virtual time; the clock is the earliest such start among those
    who want more than they get: who was left out now or a few services ago (`left_out`: for how many more that
    counts). A party without a tag starts at the clock: who was idle, or had all that it asked for, is owed nothing.
    """

    clock: float = 0.0
    tags: Mapping[Party, float] = field(default_factory=dict)
    left_out: Mapping[Party, int] = field(default_factory=dict)

    def start(self, party: Party) -> float:
        """Virtual time at which the party's next service starts."""
        return self.tags.get(party, self.clock)

    def lead(self, party: Party) -> float:
        """How far it is ahead of the one most behind."""
        return self.start(party) - self.clock

    def after(
        self, charges: Mapping[Party, float], left_out: Collection[Party], present: Collection[Party]
    ) -> Shares[Party]:
        """Once these were charged for a service, those were left out, and these are about. If all have all: square."""
        wanting = {
            party: num_left - 1 for party, num_left in self.left_out.items() if num_left > 1 and party in present
        }
        wanting |= dict.fromkeys(left_out, RECENT_SERVICES)
        if not wanting:
            return Shares()
        tags = dict(self.tags) | {party: self.start(party) + charge for party, charge in charges.items()}
        clock = min(tags.get(party, self.clock) for party in wanting)
        ahead = {party: tag for party, tag in tags.items() if tag > clock}
        absent = sorted((party for party in ahead if party not in present), key=lambda party: -ahead[party])
        for party in absent[MAX_ABSENT_TAGS:]:
            del ahead[party]
        return Shares(clock, ahead, wanting)


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """What `choose` remembers: by class the groups' device time, by class and group the tenants' charges."""

    groups: Mapping[int, Shares[Group]] = field(default_factory=dict)
    tenants: Mapping[tuple[int, Group], Shares[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """The next forward: the candidates' indices, most urgent first, their rows together, and the state to hand in next.

    Empty where there are no candidates.
    """

    indices: tuple[int, ...]
    num_rows: int
    state: SchedulerState


def choose(
    candidates: Sequence[Candidate],
    state: SchedulerState,
    *,
    now_s: float,
    forward: int,
    max_rows: int,
    step_s: StepTime,
    policy: Policy = Policy(),
) -> Choice:
    """Which pictures of one group take part in forward number `forward`, of at most `max_rows` rows.

    Forwards count up by one. Raises ValueError for a candidate that has more rows than a forward takes.
    """
    for candidate in candidates:
        if candidate.num_rows > max_rows:
            raise ValueError(f"a picture of {candidate.num_rows} rows never fits into a forward of {max_rows}")
    if not candidates:
        return Choice((), 0, SchedulerState())
    question = _Question(candidates, _forget_absent(state, candidates), now_s, forward, max_rows, cache(step_s), policy)
    leader = question.leader()
    ranked = question.ranked([candidate for candidate in candidates if candidate.group == leader.group])
    taken = question.worth_taking(_fill(ranked, max_rows))
    num_rows = sum(candidate.num_rows for candidate in taken)
    return Choice(tuple(candidate.index for candidate in taken), num_rows, question.charged(leader, taken, num_rows))


@dataclass(frozen=True)
class _Question:
    """One call of `choose`: its arguments, and the rules as methods."""

    candidates: Sequence[Candidate]
    state: SchedulerState
    now_s: float
    forward: int
    max_rows: int
    step_s: StepTime
    policy: Policy

    def leader(self) -> Candidate:
        """The most urgent picture: its group gets the forward, on its class's account."""
        overdue = [candidate for candidate in self.candidates if self.is_overdue(candidate)]
        if overdue:
            return min(overdue, key=lambda c: (c.last_step_at, c.priority, c.admitted_at, c.index))
        priority = min(candidate.priority for candidate in self.candidates)
        contenders = [candidate for candidate in self.candidates if candidate.priority == priority]
        shares, weights = self.group_shares(priority), self.group_weights(priority)

        def may_borrow(group: Group) -> bool:
            return shares.lead(group) * weights[group] <= self.policy.max_borrowed_steps * self.step_s(
                group, self.max_rows
            )

        urgent = [candidate for candidate in contenders if self.is_urgent(candidate) and may_borrow(candidate.group)]
        if urgent:
            return min(urgent, key=lambda c: (c.deadline_s, c.admitted_at, c.index))
        return min(contenders, key=lambda c: (shares.start(c.group), c.last_step_at, c.work_left, c.index))

    def ranked(self, members: Sequence[Candidate]) -> list[Candidate]:
        """One group's candidates, the ones to take first in front."""
        marked = [
            (
                OVERDUE if self.is_overdue(c) else URGENT if self.is_urgent(c) else ORDINARY,
                c.work_left,
                c.admitted_at,
                c,
            )
            for c in members
        ]
        # A tenant's pictures follow each other in virtual time: each starts where the one before it ends.
        marked.sort(key=lambda entry: (*entry[:3], entry[3].index))
        next_start: dict[tuple[int, str], float] = {}
        ranks: list[tuple[tuple[float, ...], int, Candidate]] = []
        for place, (mark, _, _, candidate) in enumerate(marked):
            tenant = (candidate.priority, candidate.owner)
            if tenant not in next_start:
                next_start[tenant] = self.tenant_shares(candidate).start(candidate.owner)
            start = next_start[tenant]
            next_start[tenant] += candidate.cost_per_step
            rank: tuple[float, ...]
            if mark == OVERDUE:
                rank = (OVERDUE, candidate.last_step_at, candidate.priority, candidate.admitted_at, candidate.index)
            else:
                rank = (URGENT, candidate.priority, mark, candidate.deadline_s if mark == URGENT else start)
            ranks.append((rank, place, candidate))
        return [candidate for _, _, candidate in sorted(ranks)]

    def worth_taking(self, taken: Sequence[Candidate]) -> Sequence[Candidate]:
        """Less the last ones, where they are cheaper in a forward of their own than as the ones that fill a bucket."""
        group, num_needed = taken[0].group, 1
        while num_needed < len(taken) and (self.is_overdue(taken[num_needed]) or self.is_urgent(taken[num_needed])):
            num_needed += 1
        num_rows = num_first = sum(candidate.num_rows for candidate in taken)
        whole_s = self.step_s(group, num_rows)
        best, best_s = len(taken), whole_s * (1 - self.policy.min_split_saving)
        if self.step_s(group, (num_rows + 1) // 2) + self.step_s(group, 1) >= best_s:
            return taken  # the larger part has at least half of the rows, so no split can be cheaper than this
        for num_taken in range(len(taken) - 1, num_needed - 1, -1):
            num_first -= taken[num_taken].num_rows
            split_s = self.step_s(group, num_first) + self.step_s(group, num_rows - num_first)
            if split_s < best_s:
                best, best_s = num_taken, split_s
        return taken[:best]

    def is_overdue(self, candidate: Candidate) -> bool:
        """Whether it has missed so many forwards that it goes first, whatever its class."""
        return self.forward - candidate.last_step_at > self.policy.max_wait_forwards

    def is_urgent(self, candidate: Candidate) -> bool:
        """Whether it just makes its deadline if it is favoured, and its tenant may still be."""
        time_left_s = candidate.deadline_s - self.now_s
        full_s = candidate.steps_left * self.step_s(candidate.group, self.max_rows)
        if time_left_s >= full_s * (1 + self.policy.deadline_margin):
            return False
        if time_left_s < candidate.steps_left * self.step_s(candidate.group, candidate.num_rows):
            return False  # too late even without company
        lead = self.tenant_shares(candidate).lead(candidate.owner)
        return lead <= self.policy.max_borrowed_steps * candidate.cost_per_step

    def charged(self, leader: Candidate, taken: Sequence[Candidate], num_rows: int) -> SchedulerState:
        """The state once these have taken their step."""
        group, priority = leader.group, leader.priority
        weights = self.group_weights(priority)
        charge = {group: self.step_s(group, num_rows) / weights[group]}
        groups = dict(self.state.groups) | {priority: self.group_shares(priority).after(charge, weights, weights)}

        charges: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for candidate in taken:
            charges[candidate.priority][candidate.owner] += candidate.cost_per_step
        indices = {candidate.index for candidate in taken}
        members = [candidate for candidate in self.candidates if candidate.group == group]
        tenants = dict(self.state.tenants)
        for of_class in {candidate.priority for candidate in members}:
            present = {candidate.owner for candidate in members if candidate.priority == of_class}
            left_out = {c.owner for c in members if c.priority == of_class and c.index not in indices}
            account = (of_class, group)
            tenants[account] = tenants.get(account, Shares()).after(charges[of_class], left_out, present)
        return SchedulerState(groups, tenants)

    def group_shares(self, priority: int) -> Shares[Group]:
        """What this class's groups have had of the device."""
        return self.state.groups.get(priority, Shares())

    def tenant_shares(self, candidate: Candidate) -> Shares[str]:
        """What the tenants of its class and group have had."""
        return self.state.tenants.get((candidate.priority, candidate.group), Shares())

    def group_weights(self, priority: int) -> dict[Group, float]:
        """Share of the device due to each group of a class: a vote for each tenant, split over its pictures."""
        num_pictures: dict[str, int] = defaultdict(int)
        members = [candidate for candidate in self.candidates if candidate.priority == priority]
        for candidate in members:
            num_pictures[candidate.owner] += 1
        weights: dict[Group, float] = defaultdict(float)
        for candidate in members:
            weights[candidate.group] += 1 / num_pictures[candidate.owner]
        return dict(weights)


def _fill(ranked: Sequence[Candidate], max_rows: int) -> list[Candidate]:
    """In order, passing over those that do not fit any more."""
    taken: list[Candidate] = []
    num_free = max_rows
    for candidate in ranked:
        if candidate.num_rows <= num_free:
            taken.append(candidate)
            num_free -= candidate.num_rows
    return taken


def _forget_absent(state: SchedulerState, candidates: Sequence[Candidate]) -> SchedulerState:
    """Without the classes and groups of which there is no picture any more: nobody there is owed anything."""
    present = {(candidate.priority, candidate.group) for candidate in candidates}
    classes = {priority for priority, _ in present}
    return SchedulerState(
        {priority: shares for priority, shares in state.groups.items() if priority in classes},
        {account: shares for account, shares in state.tenants.items() if account in present},
    )
