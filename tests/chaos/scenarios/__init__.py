"""Faults that want a service of their own: what they take away could not be given back to others, or takes too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from tests.chaos.names import NAMES
from tests.chaos.run import Row
from tests.chaos.scenarios import clocks, connections, crowds, disks, failover, jobs, models, supervisors
from tests.chaos.stack import Nurseries

Scenario = Callable[[Nurseries], Awaitable[Row]]

SCENARIOS: dict[int, Scenario] = {
    number: scenario
    for module in (clocks, connections, crowds, disks, failover, jobs, models, supervisors)
    for number, scenario in module.SCENARIOS.items()
}


async def run_scenarios(nurseries: Nurseries, numbers: Iterable[int], report: Callable[[str], None]) -> dict[int, Row]:
    """One after the other; an exception is an outcome that was not promised."""
    rows = {}
    for number in numbers:
        try:
            row = await SCENARIOS[number](nurseries)
        except Exception as error:
            row = Row(num_injected=1, broken=[f"{type(error).__name__}: {str(error)[-2000:]}"])
        rows[number] = row
        recovered = f", recovered after {max(row.recovery_s):.2f} s" if row.recovery_s else ""
        report(
            f"scenario {number:2d} {NAMES[number]}: {row.num_injected} times{recovered} {row.broken or 'as promised'}"
        )
    return rows
