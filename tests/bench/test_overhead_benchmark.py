"""The stack of real processes around an instant engine, with a handful of jobs."""

import json

import pytest

from benchmarks.overhead import main
from benchmarks.tables import overhead_section

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_run_measures_all_loads_and_profiles_both_processes(tmp_path):
    out = tmp_path / "overhead.json"
    main(["--requests", "5", "--jobs", "20", "--connections", "4", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["low"]["p50_ms"] > report["http_floor"]["p50_ms"] > 0
    for load in (report["waiting"], report["durable"]):
        assert (load["num_jobs"], load["num_refused"]) == (20, 0)
        assert set(load["cpu_ms_per_job"]) == {"server", "gateway", "worker", "load"}
    for profile in report["profile"].values():
        assert "service" in profile["packages_ms_per_job"]
    assert "jobs/s" in overhead_section(report)
