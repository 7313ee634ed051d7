"""The running gateway keeps to its own description: schemathesis reads it and tries everything, with all of its checks.

What it must not complain of, and why, is in schemathesis.toml.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from service.gateway.openapi.operations import OPERATIONS

pytest.importorskip("schemathesis", reason="schemathesis is not installed (make installs it)")

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def try_everything(gateway, folder, *options):
    """A run of the command. It exits with 1 where anything was found, and shows the requests that find it again."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIGURATION, "run", "--continue-on-failure"]
    done = subprocess.run(
        [*command, f"{gateway.base_url}/openapi.json", "--no-color", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Tested: {len(OPERATIONS)}" in done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in done.stdout, done.stdout


@pytest.mark.timeout(320)
@pytest.mark.e2e
def test_it_does_what_it_says(start_gateway, tmp_path):
    with start_gateway(queue_capacity=1000) as gateway:
        try_everything(gateway, tmp_path, "--max-examples=3", "--seed=1")


@pytest.mark.timeout(320)
@pytest.mark.e2e
def test_it_does_what_it_says_where_a_key_is_needed(start_gateway, tmp_path):
    with start_gateway(queue_capacity=1000, require_keys="always", tenant_max_jobs=900) as gateway:
        header = f"Authorization: Bearer {gateway.key_of('schemathesis')}"
        try_everything(gateway, tmp_path, "--max-examples=3", "--seed=4", "-H", header)


@pytest.mark.slow
@pytest.mark.timeout(320)
@pytest.mark.parametrize("seed", [2, 3])
def test_it_does_what_it_says_at_length(start_gateway, tmp_path, seed):
    with start_gateway(queue_capacity=1000) as gateway:
        try_everything(gateway, tmp_path, "--max-examples=100", "--max-time=120", f"--seed={seed}")
