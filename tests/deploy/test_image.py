"""The Dockerfile: its linter, what it must say, and its steps carried out without a container engine."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import venv
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.deploy.dockerfile import Shell, build_context, read_dockerfile
from tests.deploy.policies import IMAGE
from tests.deploy.support import ROOT, check

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NOT_SERVING = ("dev", "fuzz", "train")  # extras that no image needs
STEPS = ("lock", "package", "installed", "sbom")


@pytest.fixture(scope="module")
def text():
    return (ROOT / "Dockerfile").read_text("utf-8")


@pytest.fixture(scope="module")
def image(text):
    arguments, stages = read_dockerfile(text)
    return arguments, stages


def of_kind(stage, kind):
    return [text for instruction, text in stage.instructions if instruction == kind]


def test_the_dockerfile_is_sound():
    check("hadolint", "Dockerfile")


def test_every_base_is_pinned_by_tag_and_digest_and_named_in_the_image(image):
    arguments, stages = image
    for name in ("PYTHON", "ROCM"):
        assert IMAGE.fullmatch(arguments[f"{name}_IMAGE"])["tag"] != "latest"
        assert DIGEST.fullmatch(arguments[f"{name}_DIGEST"])
    for stage in stages.values():
        is_ours = stage.base in stages or stage.base == "base-${DEVICE}"
        assert is_ours or re.fullmatch(r"\$\{(\w+)_IMAGE\}@\$\{\1_DIGEST\}", stage.base), stage.base
    for device, name in (("rocm", "ROCM"), ("cpu", "PYTHON")):
        (label,) = of_kind(stages[f"base-{device}"], "LABEL")
        assert f'image.base.name="${{{name}_IMAGE}}"' in label
        assert f'image.base.digest="${{{name}_DIGEST}}"' in label


def test_the_image_says_what_it_is(image):
    _, stages = image
    (label,) = of_kind(stages["runtime"], "LABEL")
    for name in ("title", "description", "licenses", "version", "revision", "source"):
        assert f"org.opencontainers.image.{name}=" in label
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f"VERSION={version}" in of_kind(stages["runtime"], "ARG")
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "emmdit" / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == version


def test_the_image_runs_as_nobody_in_particular_and_writes_to_data_alone(image):
    _, stages = image
    runtime = stages["runtime"]
    assert of_kind(runtime, "USER")[-1] == "10001:10001"
    assert of_kind(runtime, "VOLUME") == ["/data"]
    assert of_kind(runtime, "HEALTHCHECK")
    assert of_kind(runtime, "ENTRYPOINT") == ['["emmdit"]']


def test_what_is_installed_outlives_changes_to_the_code(image):
    _, stages = image
    assert of_kind(stages["lock"], "COPY") == ["pyproject.toml constraints.txt ./"]
    kinds = [instruction for instruction, _ in stages["installed"].instructions]
    first_run = kinds.index("RUN")
    assert "--from=lock" in stages["installed"].instructions[kinds.index("COPY")][1]
    assert "COPY" not in kinds[first_run:], "a copy of the code before the packages would install them anew each time"


def test_every_setting_that_the_dockerfile_names_exists(text):
    known = {f"EMMDIT_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"EMMDIT_[A-Z_]+", text))
    assert named
    assert named <= known


def test_only_what_the_image_is_made_from_goes_to_the_builder(tmp_path):
    sent = build_context(ROOT, tmp_path / "context")
    assert "service/settings.py" in sent
    assert {name.split("/")[0] for name in sent} == {
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "model",
        "service",
    }
    # The demos are part of the package, as is what judges them; published weights are a hundred times as large.
    sizes = {name: (ROOT / name).stat().st_size for name in sent if name.endswith(".safetensors")}
    assert any(name.startswith("model/bundles/demo/") for name in sizes)
    assert max(sizes.values()) < 16e6, sizes
    assert sum((ROOT / name).stat().st_size for name in sent) < 40e6


def test_makefile_and_dockerfile_install_the_same_torch(image):
    arguments, stages = image
    wanted = re.search(r"^TORCH \?= (torch==\S+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    (step,) = of_kind(stages["base-cpu"], "RUN")
    assert step.endswith(f"--index-url ${{TORCH_INDEX}} {wanted}")
    assert arguments["ROCM_IMAGE"].endswith(f"pytorch_release_{wanted.removeprefix('torch==')}")


def test_constraints_leave_torch_to_the_device():
    names = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    assert "fastapi" in names
    assert "cyclonedx-bom" in names
    assert "torch" not in names


def test_the_image_installs_what_pyproject_asks_for_and_the_extras_that_settings_can_ask_for(image, tmp_path):
    _, stages = image
    build_context(ROOT, tmp_path / "context")
    shell = Shell(
        tmp_path / "root", tmp_path / "context", {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    )
    shell.carry_out(stages["lock"])
    lines = shell.path("/lock/requirements.txt").read_text("utf-8").splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in NOT_SERVING}
    assert sorted(lines) == sorted([*project["dependencies"], *(line for extra in extras.values() for line in extra)])
    assert not any(line.startswith("torch") for line in lines)


@pytest.fixture(scope="module")
def built(image, tmp_path_factory):
    """The Python environment that the image would have, and the shell that made it by the Dockerfile's own steps."""
    _, stages = image
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder / "python", with_pip=True)
    programs = folder / "python" / "bin"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("EMMDIT_", "PYTHON", "VIRTUAL_"))},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
    }
    # What the base image brings: PyTorch without what a GPU would need.
    (torch_step,) = of_kind(stages["base-cpu"], "RUN")
    torch = torch_step.split()[-1]
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", torch]
    if subprocess.run(pip, env=environment, capture_output=True).returncode:
        pytest.skip(f"no wheel of {torch} in a folder that pip's find-links names")
    build_context(ROOT, folder / "context")
    shell = Shell(folder / "root", folder / "context", environment)
    for name in STEPS:
        shell.carry_out(stages[name])
    shell.carry_out(stages["runtime"], but=lambda text: text.startswith("groupadd"))
    return programs, environment, shell


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestBuilt:
    """Minutes: everything is installed anew."""

    def test_the_steps_install_the_package_and_the_pinned_versions(self, built):
        programs, environment, _ = built
        listed = subprocess.run(
            [programs / "pip", "freeze"], env=environment, capture_output=True, text=True, check=True
        )
        installed = {line.split("==")[0].lower(): line for line in listed.stdout.splitlines() if "==" in line}
        pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        for pin in pins:
            name = pin.split("==")[0].lower()
            assert name not in installed or installed[name] == pin
        assert "fastapi" in installed
        assert "pytest" not in installed
        assert "cyclonedx-bom" not in installed

    def test_the_list_of_parts_names_what_is_installed_and_nothing_else(self, built):
        programs, environment, shell = built
        parts = json.loads(shell.path("/usr/share/emmdit/sbom.cdx.json").read_text("utf-8"))
        assert (parts["bomFormat"], parts["specVersion"]) == ("CycloneDX", "1.6")
        named = {component["name"].lower().replace("_", "-") for component in parts["components"]}
        assert {"torch", "fastapi", "emmdit"} <= named
        assert not {"cyclonedx-bom", "pytest"} & named
        listed = subprocess.run(
            [programs / "pip", "freeze"], env=environment, capture_output=True, text=True, check=True
        )
        assert len(listed.stdout.splitlines()) <= len(named)

    def test_gateway_and_worker_pass_the_containers_own_health_checks(self, built, image, redis_url, tmp_path):
        programs, environment, _ = built
        _, stages = image
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
        gateway_port, worker_port = free_port(), free_port()
        environment = {
            **environment,
            "HOME": str(tmp_path),
            "EMMDIT_DATA_DIR": str(tmp_path),
            "EMMDIT_MODELS": "demo-dist",
            "EMMDIT_REDIS_URL": redis_url,
            "EMMDIT_COMPILE_NETWORK": "false",
            "EMMDIT_PORT": str(gateway_port),
            "EMMDIT_WORKER_METRICS_PORT": str(worker_port),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        (check_text,) = of_kind(stages["runtime"], "HEALTHCHECK")
        of_gateway = json.loads(check_text.partition("CMD ")[2])
        of_worker = [
            part.replace(":9100/", f":{worker_port}/") for part in services["worker-cpu"]["healthcheck"]["test"][1:]
        ]
        with (
            running([programs / "emmdit", "gateway"], environment),
            running([programs / "emmdit", "worker"], environment),
        ):
            wait_for_success(of_gateway, environment)
            wait_for_success(of_worker, environment)


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        return held.getsockname()[1]


@contextmanager
def running(command, environment):
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        yield
        assert process.poll() is None, process.stderr.read()
    finally:
        process.terminate()
        process.communicate(timeout=60)


def wait_for_success(command, environment, timeout_s=300):
    give_up_at_s = time.monotonic() + timeout_s
    while (result := subprocess.run(command, env=environment, capture_output=True)).returncode:
        assert time.monotonic() < give_up_at_s, result.stderr.decode()
        time.sleep(0.5)
