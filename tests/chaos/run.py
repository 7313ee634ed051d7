"""One run: a stack, load from a seed, faults from the same seed, and in the end the checks.

Load and faults keep step with each other, so that the last fault comes with the last jobs. After every fault the
service is asked for a picture, and the time is taken until that is there and whatever the struck worker had under way
has moved on.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis.exceptions import RedisError

from tests.chaos.checker import Evidence, Violation, check
from tests.chaos.client import Clients
from tests.chaos.faults import UNDER_LOAD, Outcome, Scene
from tests.chaos.faults.fault import CROWDED_S
from tests.chaos.journal import read_journal
from tests.chaos.look import KnownJob, Snapshot, all_jobs, claimed_by, running_attempts, snapshot, still_run
from tests.chaos.names import NAMES
from tests.chaos.pixels import Reference, pixels_of_png
from tests.chaos.record import Record
from tests.chaos.stack import MAX_ATTEMPTS, MAX_ROWS, Nurseries, Stack
from tests.chaos.tenants import SETTINGS as TENANT_SETTINGS
from tests.chaos.tenants import create_keys, read_accounts
from tests.chaos.wanted import draw_request, number_of_seed

MAX_UNDER_WAY = 40
LOOK_PERIOD_S = 1.0
QUIET_TIMEOUT_S = 150.0
RECOVERY_TIMEOUT_S = 90.0
LONGEST_GAP_S = 1.0


@dataclass(slots=True)
class Row:
    """What one kind of fault came to."""

    num_injected: int = 0
    broken: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class RunResult:
    """What a run came to. `ends` counts jobs by state, `refusals` answers by status."""

    seed: int
    num_jobs: int = 0
    num_requests: int = 0
    duration_s: float = 0.0
    rows: dict[int, Row] = field(default_factory=lambda: defaultdict(Row))
    violations: list[Violation] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    submits_s: list[float] = field(default_factory=list)
    num_snapshots: int = 0
    num_pictures: int = 0
    num_drawn_anew: int = 0
    logs: str = ""

    @property
    def num_faults(self) -> int:
        """How many faults there were in all."""
        return sum(row.num_injected for row in self.rows.values())


async def random_run(
    nurseries: Nurseries,
    *,
    seed: int,
    num_jobs: int,
    num_faults: int,
    report: Callable[[str], None] = lambda _: None,
    record_path: Path | None = None,
    only: tuple[int, ...] = (),
    num_drawn_anew: int | None = None,
) -> RunResult:
    """Accept `num_jobs` jobs while `num_faults` injections happen, then check everything.

    Pictures of `num_drawn_anew` requests (None: of all) are compared with what an undisturbed engine draws; those of
    the others with one another, since no two requests ask for the same.
    """
    result = RunResult(seed)
    record = Record(record_path)
    async with Stack(nurseries, settings=TENANT_SETTINGS) as stack:
        keys = await create_keys(stack.server.url)
        async with Clients(stack.urls, record, seed=seed, keys=keys) as clients:
            scene = Scene(stack, record, clients, random.Random(f"{seed} faults"))
            run = _Run(scene, result, num_jobs, num_faults, report, only)
            try:
                await run.load_and_break()
                await run.gather_evidence(num_drawn_anew)
            finally:
                record.close()
                if result.violations or not result.duration_s:
                    result.logs = stack.logs(200)
                    report(stack.logs(20))
    return result


class _Run:
    def __init__(
        self,
        scene: Scene,
        result: RunResult,
        num_jobs: int,
        num_faults: int,
        report: Callable[[str], None],
        only: tuple[int, ...],
    ) -> None:
        self._scene, self._result = scene, result
        self._num_jobs, self._num_faults = num_jobs, num_faults
        self._report = report
        self._kinds = list(only or UNDER_LOAD)
        self._snapshots: list[Snapshot] = []
        self._num_accepted = 0
        self._num_done = 0  # injections
        self._rng = random.Random(f"{result.seed} requests")

    async def load_and_break(self) -> None:
        looking = asyncio.create_task(self._look_again_and_again())
        breaking = asyncio.create_task(self._break())
        loading = asyncio.create_task(self._load(breaking))
        try:
            await asyncio.gather(breaking, loading)
        finally:
            for task in (looking, breaking, loading):
                task.cancel()
            await asyncio.gather(looking, breaking, loading, return_exceptions=True)

    # -- load

    async def _load(self, breaking: asyncio.Task[None]) -> None:
        """Send requests until there are enough jobs and no faults left; return when all have their answer."""
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        while self._count_accepted() < self._num_jobs or not breaking.done():
            if breaking.done():
                breaking.result()
            is_ahead = self._num_accepted / self._num_jobs > (self._num_done + 1) / max(self._num_faults, 1)
            if len(under_way) >= MAX_UNDER_WAY or (is_ahead and not breaking.done()):
                # Ahead of the faults only a trickle goes on, so that each of them finds something to hit.
                await asyncio.sleep(0.02 if len(under_way) >= MAX_UNDER_WAY else 0.25)
                if len(under_way) >= MAX_UNDER_WAY:
                    continue
            one = draw_request(self._rng, number)
            self._scene.wanted[number] = one
            number += 1
            task = asyncio.create_task(self._scene.clients.visit(one))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(self._rng.expovariate(60.0))
        self._result.num_requests = number
        await asyncio.gather(*under_way)

    def _count_accepted(self) -> int:
        lines = self._scene.record.lines
        while self._seen < len(lines):
            self._num_accepted += lines[self._seen]["what"] == "accepted"
            self._seen += 1
        return self._num_accepted

    _seen = 0

    # -- faults

    async def _break(self) -> None:
        """Every kind of fault as often as every other, in an order from the seed."""
        scene = self._scene
        order: list[int] = []
        await asyncio.sleep(1.0)
        while self._num_done < self._num_faults:
            if not order:
                order = scene.rng.sample(self._kinds, len(self._kinds))
            number = order.pop()
            await asyncio.sleep(scene.rng.uniform(0.0, LONGEST_GAP_S))
            await self._inject(number)
            self._num_done += 1

    async def _inject(self, number: int) -> None:
        scene, row = self._scene, self._result.rows[number]
        running = await running_attempts(scene.stack.server.direct)
        began_s = scene.record.now_s()
        outcome = await UNDER_LOAD[number](scene)
        over_s = scene.record.now_s()
        scene.record.add("fault", name=NAMES[number], seconds=round(over_s - began_s, 2))
        row.num_injected += outcome.num_injected
        row.broken += outcome.broken
        if outcome.num_injected:
            row.recovery_s.append(await self._recovery(outcome, running, over_s, row))
        self._report(
            f"{over_s:7.1f} s  {self._num_done + 1}/{self._num_faults}  {number:2d} {NAMES[number]}: "
            f"{over_s - began_s:.1f} s, recovered after {row.recovery_s[-1] if row.recovery_s else 0:.2f} s; "
            f"{self._count_accepted()} jobs{'; ' + '; '.join(outcome.broken) if outcome.broken else ''}"
        )

    async def _recovery(self, outcome: Outcome, running: dict[str, str], over_s: float, row: Row) -> float:
        """Seconds until a picture asked for now is there, and no attempt of the struck worker runs any more."""
        scene = self._scene
        struck = {} if outcome.victim is None else claimed_by(scene.stack.workers[outcome.victim].log, running)
        probe = scene.extra("image", num_steps=2, priority="high", key=f"probe-{scene.num_extra}")
        moved_s = asyncio.create_task(self._until_moved_on(struck, over_s))
        try:
            async with asyncio.timeout(RECOVERY_TIMEOUT_S):
                await scene.clients.visit(probe)
                recovery_s = max(scene.record.now_s() - over_s, await moved_s)
        except TimeoutError:
            row.broken.append(f"the service did not recover within {RECOVERY_TIMEOUT_S:.0f} s")
            return RECOVERY_TIMEOUT_S
        if moved_s.result() > outcome.promised_s + CROWDED_S:
            row.broken.append(f"{len(struck)} jobs of the worker moved on after {moved_s.result():.1f} s")
        return recovery_s

    async def _until_moved_on(self, struck: dict[str, str], over_s: float) -> float:
        """Seconds from the fault until none of these attempts runs; 0 where there are none."""
        while struck and await still_run(self._scene.stack.server.direct, struck):
            await asyncio.sleep(0.02)
        return self._scene.record.now_s() - over_s if struck else 0.0

    async def _look_again_and_again(self) -> None:
        while True:
            with suppress(RedisError, OSError):
                self._snapshots.append(await snapshot(self._scene.stack.server.direct))
            await asyncio.sleep(LOOK_PERIOD_S)

    # -- evidence

    async def gather_evidence(self, num_drawn_anew: int | None) -> None:
        scene, result = self._scene, self._result
        direct = scene.stack.server.direct
        await self._wait_until_quiet()
        jobs = await all_jobs(direct)
        pictures = await _read_pictures(scene, jobs)
        result.duration_s = scene.record.now_s()
        expected = await asyncio.to_thread(self._draw_anew, jobs, pictures, num_drawn_anew)
        evidence = Evidence(
            record=scene.record,
            jobs=jobs,
            journal=read_journal(scene.stack.server.journal_paths()),
            snapshots=self._snapshots,
            pictures=pictures,
            expected=expected,
            request_of_seed=number_of_seed,
            max_attempts=MAX_ATTEMPTS,
            accounts=await read_accounts(direct),
            keyed={number: one.key for number, one in scene.wanted.items() if one.key},
        )
        result.violations = check(evidence)
        self._sum_up(jobs, pictures)

    def _draw_anew(
        self, jobs: dict[str, KnownJob], pictures: dict[tuple[str, int], str], most: int | None
    ) -> dict[tuple[int, int], str]:
        """(request, index) -> pixels: undisturbed ones where there are any, else those that are stored."""
        done = {number_of_seed(known.seed): known for known in jobs.values() if known.state == "done"}
        numbers = sorted(done)
        if most is not None and most < len(numbers):
            numbers = sorted(self._rng.sample(numbers, most))
        self._report(
            f"{self._result.duration_s:7.1f} s  drawing {len(numbers)} of {len(done)} requests anew, undisturbed"
        )
        reference = Reference(self._scene.stack.folder / "bundle", exact_rows=MAX_ROWS)
        drawn = reference.draw(self._scene.wanted[number] for number in numbers)
        self._result.num_drawn_anew = len(drawn)
        stored = {
            (number, index): pictures[known.id, index]
            for number, known in done.items()
            for index in range(known.num_images)
        }
        return stored | drawn

    async def _wait_until_quiet(self) -> None:
        """Until nothing waits and nothing runs, which must come by itself."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_TIMEOUT_S):
                while (moment := await snapshot(self._scene.stack.server.direct)).states:
                    await asyncio.sleep(0.1)
        self._snapshots.append(moment)

    def _sum_up(self, jobs: dict[str, KnownJob], pictures: dict[tuple[str, int], str]) -> None:
        record, result = self._scene.record, self._result
        result.num_jobs = len(jobs)
        result.ends = Counter(known.state for known in jobs.values())
        result.failures = Counter(known.result.get("code") for known in jobs.values() if known.state == "failed")
        result.refusals = Counter(f"{line['status']} {line['code']}" for line in record.of("refused"))
        result.submits_s = [
            line["took_s"]
            for line in record.of("accepted", "refused")
            if line.get("took_s") is not None and line.get("is_async", True)
        ]
        result.num_snapshots = len(self._snapshots)
        result.num_pictures = record.count("picture") + len(pictures)
        wanted = self._scene.wanted
        for known in jobs.values():
            if known.state == "failed" and known.result.get("code") == "generation_failed":
                prompt = wanted[number_of_seed(known.seed)].prompt
                if "poison" not in prompt:
                    result.rows[5].broken.append(f"job {known.id}, which is harmless, failed as generation_failed")


async def _read_pictures(scene: Scene, jobs: dict[str, KnownJob]) -> dict[tuple[str, int], str]:
    """Every picture of every done job once more, through a gateway."""
    places = [(job, index) for job, known in jobs.items() if known.state == "done" for index in range(known.num_images)]
    found: dict[tuple[str, int], str] = {}
    turns = asyncio.Semaphore(8)

    async def read(job: str, index: int) -> None:
        request = number_of_seed(jobs[job].seed)
        async with turns:
            response: httpx.Response | None = None
            for _ in range(5):
                response = await scene.clients.get_once(request, f"/v1/jobs/{job}/images/{index}")
                if response is not None and response.status_code != 503:
                    break
                await asyncio.sleep(0.5)
        if response is None or response.status_code != 200:
            found[job, index] = "no answer" if response is None else f"{response.status_code} {response.text}"
        else:
            found[job, index] = pixels_of_png(response.content)

    await asyncio.gather(*(read(job, index) for job, index in places))
    return found
