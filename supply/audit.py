"""Known vulnerabilities of the pinned releases: `python -m supply.audit`, 1 where there is one.

Surprising: pip-audit calls it a success where its service knows none of the packages, as a mirror of the index does.
Nothing audited is not nothing found, so that is said aloud.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

SERVICES = ("pypi", "osv")
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many packages were looked up, how many could not be, and a line for each vulnerability."""

    num_audited: int
    num_unknown: int
    findings: tuple[str, ...]


def read_report(text: str) -> Outcome | None:
    """What pip-audit's JSON says; None where it is none, as after a failure."""
    try:
        packages: list[dict[str, Any]] = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    audited = [package for package in packages if "skip_reason" not in package]
    findings = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in audited
        for fault in package["vulns"]
    ]
    return Outcome(len(audited), len(packages) - len(audited), tuple(findings))


def run_audit(service: str) -> Outcome | None:
    """Ask one service about every line of constraints.txt. None where it gave no answer."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", "constraints.txt", "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10", "--vulnerability-service", service]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    return read_report(done.stdout)


def main() -> int:
    """Ask services until one knows something."""
    for service in SERVICES:
        outcome = run_audit(service)
        if outcome is None or not outcome.num_audited:
            print(f"audit: {service} answered nothing about these packages")
            continue
        for finding in outcome.findings:
            print(f"audit: {finding}")
        print(
            f"audit: {service} knew {outcome.num_audited} packages, not {outcome.num_unknown}; "
            f"{len(outcome.findings)} vulnerabilities"
        )
        return 1 if outcome.findings else 0
    print("audit: SKIPPED, no advisory service can be reached from here: nothing is known about vulnerabilities")
    return 0


if __name__ == "__main__":
    sys.exit(main())
