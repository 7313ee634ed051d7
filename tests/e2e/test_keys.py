"""Keys as a person uses them: `emmdit serve` asks for one, `emmdit keys` makes it beside the running service."""

import io
import os
import subprocess
import sys

import httpx
import pytest
from PIL import Image

from tests.e2e.harness import Service, wait_for
from tests.support.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def emmdit(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMMDIT_")}
    environment |= {f"EMMDIT_{name}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "service.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_from_a_locked_service_to_a_picture_and_back(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    data = tmp_path / "data"
    before = emmdit("keys", "create", "early", DATA_DIR=data)  # before anything runs
    assert before.returncode == 0, before.stderr
    with Service(bundle.folder, data, require_keys="always") as service:
        assert "requests need an API key: emmdit keys create NAME makes one" in service.lines
        assert httpx.get(f"{service.address}/v1/models").status_code == 401
        early = {"Authorization": f"Bearer {before.stdout.strip()}"}
        assert httpx.get(f"{service.address}/v1/models", headers=early).status_code == 200

        created = emmdit("keys", "create", "ada", DATA_DIR=data)  # beside the running service
        assert created.returncode == 0, created.stderr
        key = created.stdout.strip()
        picture = tmp_path / "apple.png"
        asked = ["generate", "a red apple", "-o", picture, "--url", service.address]
        assert "key" in emmdit(*asked).stderr
        drawn = emmdit(*asked, API_KEY=key)
        assert drawn.returncode == 0, drawn.stderr
        assert Image.open(io.BytesIO(picture.read_bytes())).size == (64, 64)
        mine = emmdit("jobs", "list", "--json", "--url", service.address, API_KEY=key)
        assert mine.stdout.count('"state":"done"') == 1
        assert httpx.get(f"{service.address}/v1/jobs", headers=early).json()["data"] == []

        key_id = key.removeprefix("emmdit_").partition(".")[0]
        assert emmdit("keys", "revoke", key_id, DATA_DIR=data).returncode == 0
        ada = {"Authorization": f"Bearer {key}"}
        wait_for(lambda: httpx.get(f"{service.address}/v1/models", headers=ada).status_code == 401, 30)
        assert key.partition(".")[2] not in service.log()
        assert service.stop() == 0
