"""`python -m tests.chaos --seed 1 --jobs 1000 --faults 40 --out FILE`: break a running service and say what held.

Several seeds are several runs with a stack each. With --scenarios the faults that need a stack of their own come after
them. Exit status 1 where anything was not as promised.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.chaos.faults import UNDER_LOAD
from tests.chaos.report import commit_now, num_violations, summary, table, write
from tests.chaos.run import Row, RunResult, random_run
from tests.chaos.scenarios import SCENARIOS, run_scenarios
from tests.chaos.stack import Nurseries

HEADING = """# Chaos: the long run

Written by `make chaos`. [chaos.md](chaos.md) tells what is done, how it is checked, and how to read this.

"""


def main() -> int:
    """Parse the command line, run, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="one run for each")
    parser.add_argument("--jobs", type=int, default=1000, help="accepted jobs of each run")
    parser.add_argument("--faults", type=int, default=40, help="injections of each run")
    parser.add_argument("--only", type=int, nargs="+", default=[], choices=sorted(UNDER_LOAD), help="faults by number")
    parser.add_argument("--scenarios", type=int, nargs="*", choices=sorted(SCENARIOS), help="by number; none: all")
    parser.add_argument("--record", type=Path, help="folder for what the clients saw, a file of JSON lines a run")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    parser.add_argument("--table", type=Path, help="file for the table, as Markdown")
    parser.add_argument("--draw-anew", type=int, help="requests of each run that are drawn anew; none: all")
    asked = parser.parse_args()
    commit = commit_now()
    results, scenarios = asyncio.run(_run(asked))
    found = summary(results, scenarios, commit=commit)
    if asked.out:
        write(found, asked.out)
    if asked.table:
        asked.table.write_text(HEADING + table(found))
    print(table(found))
    return int(num_violations(found) > 0)


async def _run(asked: argparse.Namespace) -> tuple[list[RunResult], dict[int, Row]]:
    results: list[RunResult] = []
    scenarios: dict[int, Row] = {}
    async with Nurseries() as nurseries:
        for seed in asked.seed if asked.jobs else []:
            print(f"seed {seed}", flush=True)
            result = await random_run(
                nurseries,
                seed=seed,
                num_jobs=asked.jobs,
                num_faults=asked.faults,
                report=_say,
                record_path=asked.record and asked.record / f"chaos-{seed}.jsonl",
                only=tuple(asked.only),
                num_drawn_anew=asked.draw_anew,
            )
            for violation in result.violations[:20]:
                _say(f"{violation.invariant}: {violation.sentence}")
            results.append(result)
        if asked.scenarios is not None:
            scenarios = await run_scenarios(nurseries, asked.scenarios or sorted(SCENARIOS), _say)
    return results, scenarios


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
