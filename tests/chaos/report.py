"""What runs came to, as JSON and as the table that docs/chaos.md shows."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.names import NAMES
from tests.chaos.run import Row, RunResult

ROOT = Path(__file__).parents[2]


def summary(results: Sequence[RunResult], scenarios: dict[int, Row], *, commit: str) -> dict[str, Any]:
    """All figures of some runs, and of the scenarios beside them."""
    rows = {}
    for number in NAMES:
        found = [result.rows[number] for result in results if number in result.rows]
        found += [scenarios[number]] if number in scenarios else []
        recoveries_s = [seconds for row in found for seconds in row.recovery_s]
        rows[number] = {
            "name": NAMES[number],
            "injected": sum(row.num_injected for row in found),
            "broken": [sentence for row in found for sentence in row.broken],
            "recovery_median_s": round(statistics.median(recoveries_s), 2) if recoveries_s else None,
            "recovery_max_s": round(max(recoveries_s), 2) if recoveries_s else None,
        }
    submits_s = sorted(seconds for result in results for seconds in result.submits_s)
    violations = [violation for result in results for violation in result.violations]
    return {
        "commit": commit,
        "hardware": f"{psutil.cpu_count()} x {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "seeds": [result.seed for result in results],
        "duration_s": round(sum(result.duration_s for result in results)),
        "jobs": sum(result.num_jobs for result in results),
        "requests": sum(result.num_requests for result in results),
        "faults": sum(row["injected"] for row in rows.values()),
        "ends": _sum(result.ends for result in results),
        "failures": _sum(result.failures for result in results),
        "refusals": _sum(result.refusals for result in results),
        "looks_at_the_server": sum(result.num_snapshots for result in results),
        "pictures_compared": sum(result.num_pictures for result in results),
        "pictures_drawn_anew": sum(result.num_drawn_anew for result in results),
        "submit_s": {
            name: round(submits_s[min(int(len(submits_s) * share), len(submits_s) - 1)], 3)
            for name, share in (("median", 0.5), ("p99", 0.99), ("max", 1.0))
            if submits_s
        },
        "violations": {
            name: sum(violation.invariant == name for violation in violations)
            for name in ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "reply", "hang")
        },
        "sentences": [f"{violation.invariant}: {violation.sentence}" for violation in violations][:200],
        "rows": rows,
    }


def num_violations(found: dict[str, Any]) -> int:
    """Of invariants and of single faults' outcomes."""
    return sum(found["violations"].values()) + sum(len(row["broken"]) for row in found["rows"].values())


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"Seeds {', '.join(map(str, found['seeds']))}; {found['jobs']} jobs of {found['requests']} requests, "
        f"{found['faults']} faults, {found['duration_s']} s; {found['hardware']}; commit {found['commit']}.",
        "",
        f"Ends: {_words(found['ends'])}. Failed: {_words(found['failures'])}. "
        f"Refused for a while: {_words(found['refusals'])}.",
        f"{found['pictures_compared']} pictures compared, {found['pictures_drawn_anew']} of them with an undisturbed "
        f"engine's; the server's sets looked at {found['looks_at_the_server']} times. "
        f"A submit took, in seconds: {_words(found['submit_s'])}.",
        "",
        "| invariant | violations |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in found["violations"].items()),
        "",
        "| # | fault | times | not as promised | recovery, median | recovery, longest |",
        "|---|---|---|---|---|---|",
    ]
    for number, row in found["rows"].items():
        if row["injected"] or row["broken"]:
            times = [_seconds(row["recovery_median_s"]), _seconds(row["recovery_max_s"])]
            lines.append(
                f"| {number} | {row['name']} | {row['injected']} | {len(row['broken'])} | {times[0]} | {times[1]} |"
            )
    lines += ["", *(f"- {sentence}" for sentence in found["sentences"])]
    lines += [f"- {number}: {sentence}" for number, row in found["rows"].items() for sentence in row["broken"]]
    return "\n".join(lines).rstrip() + "\n"


def write(found: dict[str, Any], path: Path) -> None:
    """As JSON, for the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def _sum(counts: Any) -> dict[str, int]:
    total: Counter[str] = sum(counts, Counter())
    return {str(name): total[name] for name in sorted(total, key=str)}


def _words(counts: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def commit_now() -> str:
    """Which version of the project this is."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()
