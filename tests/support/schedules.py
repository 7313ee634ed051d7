"""Pictures as the scheduler sees them, a worker that takes the steps it chooses, and step times."""

from collections import Counter
from dataclasses import replace

from service.scheduler import Candidate, Policy, SchedulerState, choose

SMALL, LARGE = ("base", 512, 512), ("base", 1024, 1024)
OTHER = ("few-steps", 512, 512)
PATIENT = Policy(max_wait_forwards=10**9)
FAR_S = 1e9


def affine_s(group, num_rows):
    """Seconds of a forward: a fixed part, and rows by their pixels."""
    return 0.5 + 0.1 * num_rows * group[1] * group[2] / 512**2


def picture(index, **changes):
    values = {
        "index": index,
        "group": SMALL,
        "num_rows": 1,
        "steps_left": 20,
        "priority": 1,
        "owner": "a",
        "deadline_s": FAR_S,
        "admitted_at": 0,
        "last_step_at": 0,
        "cost_per_step": 1.0,
    }
    return Candidate(**(values | changes))


def ask(candidates, state=None, *, now_s=0.0, forward=1, max_rows=8, step_s=affine_s, policy=PATIENT):
    return choose(
        candidates,
        state or SchedulerState(),
        now_s=now_s,
        forward=forward,
        max_rows=max_rows,
        step_s=step_s,
        policy=policy,
    )


class Worker:
    """Holds pictures and takes the steps that the policy chooses, as the worker does."""

    def __init__(self, max_rows=8, policy=PATIENT, step_s=affine_s):
        self.max_rows, self.policy, self.step_s = max_rows, policy, step_s
        self.state = SchedulerState()
        self.held = {}
        self.num_forwards = 0
        self.now_s = 0.0
        self.finished = []
        self.charged = Counter()
        self.device_s = Counter()

    def join(self, *pictures):
        for one in pictures:
            self.held[one.index] = replace(one, admitted_at=self.num_forwards, last_step_at=self.num_forwards)

    def step(self):
        choice = ask(
            list(self.held.values()),
            self.state,
            now_s=self.now_s,
            forward=self.num_forwards + 1,
            max_rows=self.max_rows,
            step_s=self.step_s,
            policy=self.policy,
        )
        self.state = choice.state
        self.num_forwards += 1
        group = self.held[choice.indices[0]].group
        duration_s = self.step_s(group, choice.num_rows)
        self.now_s += duration_s
        self.device_s[group] += duration_s
        for index in choice.indices:
            one = self.held[index]
            self.charged[one.owner] += one.cost_per_step
            self.held[index] = replace(one, steps_left=one.steps_left - 1, last_step_at=self.num_forwards)
            if one.steps_left == 1:
                del self.held[index]
                self.finished.append(index)
        return choice
