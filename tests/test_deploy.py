"""What can be checked of the image and the compose file without a container engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]


@pytest.fixture(scope="module")
def dockerfile():
    return (ROOT / "Dockerfile").read_text("utf-8")


def check(tool, *arguments):
    """Run a linter that is installed beside this Python; its complaints become the test's."""
    command = [Path(sys.executable).with_name(tool), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_compose_file_follows_the_compose_specification():
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_compose_file_has_no_known_security_fault():
    check("compose-lint", "check", "--fail-on", "low", COMPOSE)


def test_the_dockerfile_is_sound():
    check("hadolint", "Dockerfile")


def test_every_image_is_pinned_by_tag_and_digest_or_built_here(services, dockerfile):
    for name, service in services.items():
        assert "build" in service or PINNED.fullmatch(service["image"]), name
    bases = re.findall(r"^ARG \w+_IMAGE=(.*)$", dockerfile, re.MULTILINE)
    assert len(bases) == 2
    assert all(PINNED.fullmatch(base) for base in bases)


def test_every_setting_that_compose_and_dockerfile_name_exists(services, dockerfile):
    known = {f"EMMDIT_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"EMMDIT_[A-Z_]+", dockerfile))
    for service in services.values():
        named |= {name for name in service.get("environment", {}) if name.startswith("EMMDIT_")}
    assert named
    assert not named - known


@pytest.mark.parametrize("name", ["gateway", "worker-cpu", "worker-gpu"])
def test_the_settings_of_a_container_are_accepted(name, services, monkeypatch):
    monkeypatch.setenv("EMMDIT_DATA_DIR", "/data")
    for variable, value in services[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    settings = load_settings()
    assert settings.models == ("demo", "demo-dist", "demo-grpo")
    assert settings.redis_url.get_secret_value() == "redis://valkey:6379/0"


def test_ports_are_published_on_loopback_alone(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_container_is_locked_down_and_watched(services):
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        # The Dockerfile has the gateway's check and user; the others say their own.
        assert name == "gateway" or service["healthcheck"]["test"], name
        assert "build" in service or service["user"].split(":")[0] != "0", name


def test_the_queue_forgets_no_job(services):
    command = services["valkey"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert any(part.startswith("--maxmemory ") for part in command)
    assert services["valkey"]["volumes"] == ["queue:/data"]


def test_a_container_is_given_time_to_drain(services):
    for name in ("gateway", "worker-cpu", "worker-gpu"):
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= Settings().drain_timeout_s + 10, name


def test_pictures_go_from_worker_to_gateway_and_weights_are_read_only(services):
    for name in ("gateway", "worker-cpu", "worker-gpu"):
        assert "data:/data" in services[name]["volumes"]
        assert [volume for volume in services[name]["volumes"] if volume.endswith(":/models:ro")]


def test_the_gpu_worker_gets_the_devices_that_rocm_needs(services):
    worker = services["worker-gpu"]
    assert {device.split(":")[0] for device in worker["devices"]} == {"/dev/kfd", "/dev/dri"}
    assert len(worker["group_add"]) == 2
    assert worker["profiles"] == ["gpu"]
    assert services["worker-cpu"]["profiles"] == ["cpu"]


def test_the_image_runs_as_nobody_in_particular(dockerfile):
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE)[-1] == "10001:10001"
    assert 'ENTRYPOINT ["emmdit"]' in dockerfile
    assert "HEALTHCHECK" in dockerfile


def test_the_image_installs_what_pyproject_asks_for(dockerfile, tmp_path):
    code = re.search(r'^RUN \["python3", "-c", "(import tomllib.*)"\]$', dockerfile, re.MULTILINE)[1]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run([sys.executable, "-c", code.replace("\\\\n", "\\n")], cwd=tmp_path, check=True)
    lines = (tmp_path / "requirements.txt").read_text("utf-8").splitlines()
    assert any(line.startswith("fastapi>=") for line in lines)
    assert not any(line.startswith("torch") for line in lines)


def test_only_what_the_image_is_made_from_goes_to_the_builder():
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in rules
    assert all((ROOT / rule.removeprefix("!")).exists() for rule in rules if rule.startswith("!"))


def test_makefile_and_dockerfile_install_the_same_torch(dockerfile):
    wanted = re.search(r"^TORCH \?= (torch==\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    assert wanted in dockerfile
    assert f"pytorch_release_{wanted.removeprefix('torch==')}@" in dockerfile


def test_constraints_leave_torch_to_the_device():
    names = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    assert "fastapi" in names
    assert "torch" not in names


@pytest.mark.system
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_understands_its_configuration():
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    result = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
