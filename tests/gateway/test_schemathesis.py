"""The running gateway keeps to its own description: schemathesis reads it and tries everything, with all of its checks.

What it must not complain of, and why, is in schemathesis.toml.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed (make installs it)")

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


def try_everything(gateway, folder, *, num_examples, seconds, seed):
    """A run of the command. It exits with 1 where anything was found, with the requests that show it again."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIGURATION, "run"]
    options = [f"--max-examples={num_examples}", f"--max-time={seconds}", f"--seed={seed}", "--no-color"]
    done = subprocess.run(
        [*command, f"{gateway.base_url}/openapi.json", *options, "--continue-on-failure"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tested: 14" in done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in done.stdout, done.stdout
    assert "Traceback" not in done.stderr


def test_it_does_what_it_says(start_gateway, tmp_path):
    with start_gateway(queue_capacity=1000) as gateway:
        try_everything(gateway, tmp_path, num_examples=5, seconds=20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [2, 3])
def test_it_does_what_it_says_at_length(start_gateway, tmp_path, seed):
    with start_gateway(queue_capacity=1000) as gateway:
        try_everything(gateway, tmp_path, num_examples=100, seconds=120, seed=seed)
