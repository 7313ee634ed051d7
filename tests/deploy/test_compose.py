"""The compose file: linters, what containers may do, and whether its settings are those that the code knows."""

import copy
import re
import shutil
import subprocess

import pytest
import yaml

from service.settings import Settings
from tests.deploy.policies import IMAGE, UNITS
from tests.deploy.support import ROOT, check, load_settings_of, refuses

COMPOSE = ROOT / "docker-compose.yml"
OURS = ("gateway", "worker-cpu", "worker-gpu")


@pytest.fixture
def compose():
    return yaml.safe_load(COMPOSE.read_text("utf-8"))


@pytest.fixture
def services(compose):
    return compose["services"]


def num_bytes(size):
    number, unit = re.fullmatch(r"(\d+)([kmg])b?", default_of(size)).groups()
    return int(number) * UNITS[{"k": "Ki", "m": "Mi", "g": "Gi"}[unit]]


def default_of(value):
    """What `${NAME:-default}` comes to where NAME is not set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value))


def valkey_options(services):
    return dict(part.removeprefix("--").split(" ", 1) for part in services["valkey"]["command"][1:])


# -- policies: each takes the services and asserts


def images_are_pinned_or_built_here(services):
    for name, service in services.items():
        image = IMAGE.fullmatch(service["image"])
        assert image, f"{name}: no tag"
        assert image["tag"] != "latest", f"{name}: the latest is not pinned"
        assert "build" in service or image["digest"], f"{name}: no digest"


def ports_are_on_loopback(services):
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), f"{name}: open to the network"


def containers_are_locked_down(services):
    for name, service in services.items():
        assert service["read_only"] is True, f"{name}: root file system can be written"
        assert service["cap_drop"] == ["ALL"], f"{name}: has capabilities"
        assert service["security_opt"] == ["no-new-privileges:true"], f"{name}: privileges can grow"
        assert "build" in service or service["user"].split(":")[0] not in ("0", "root"), f"{name}: is root"


def containers_are_bounded_and_watched(services):
    for name, service in services.items():
        assert num_bytes(service["mem_limit"]) > 0, f"{name}: no limit of memory"
        assert service["pids_limit"] > 0, f"{name}: no limit of processes"
        assert "cpus" in service, f"{name}: no limit of processors"
        assert service["restart"] == "unless-stopped", f"{name}: stays down"
        assert service["logging"]["options"]["max-size"], f"{name}: logs without bounds"
        # The Dockerfile has the gateway's check; the others say their own.
        assert name == "gateway" or service["healthcheck"]["test"], f"{name}: nobody asks how it is"


def the_queue_forgets_no_job(services):
    options = valkey_options(services)
    assert options["appendonly"] == "yes", "jobs are not written down"
    assert options["maxmemory-policy"] == "noeviction", "a full queue forgets jobs"
    assert services["valkey"]["volumes"] == ["queue:/data"], "jobs go with the container"
    assert 2 * num_bytes(options["maxmemory"]) <= num_bytes(services["valkey"]["mem_limit"]), (
        "no memory is left for writing the file anew"
    )


def containers_are_given_time_to_drain(services):
    for name in OURS:
        settings = Settings(models=("demo",))
        drain_s = float(services[name]["environment"].get("EMMDIT_DRAIN_TIMEOUT_S", settings.drain_timeout_s))
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= drain_s + 10, f"{name}: killed after {grace_s} s"


def only_the_service_reaches_the_queue(services):
    beside = {name for name, service in services.items() if "backend" in service["networks"]}
    assert beside == {"valkey", *OURS}, f"{beside} are on the queue's network"
    assert list(services["valkey"]["networks"]) == ["backend"], "the queue is on another network too"


def secrets_come_in_files(services):
    """No value that looks like one is in a variable, and every file that is named is mounted."""
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"(PASSWORD|SECRET|TOKEN)$", variable):
                raise AssertionError(f"{name}: {variable} holds a secret")
            if str(value).startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], f"{name}: {value} is not mounted"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {variable} has a password in it"


POLICIES = (
    images_are_pinned_or_built_here,
    ports_are_on_loopback,
    containers_are_locked_down,
    containers_are_bounded_and_watched,
    the_queue_forgets_no_job,
    containers_are_given_time_to_drain,
    only_the_service_reaches_the_queue,
    secrets_come_in_files,
)
FAULTS = [
    (images_are_pinned_or_built_here, "no digest", lambda s: s["grafana"].update(image="grafana/grafana:13.2.3")),
    (images_are_pinned_or_built_here, "the latest", lambda s: s["gateway"].update(image="emmdit:latest")),
    (ports_are_on_loopback, "open", lambda s: s["gateway"].update(ports=["8000:8000"])),
    (containers_are_locked_down, "can be written", lambda s: s["valkey"].update(read_only=False)),
    (containers_are_locked_down, "capabilities", lambda s: s["valkey"].update(cap_drop=[])),
    (containers_are_locked_down, "is root", lambda s: s["grafana"].update(user="0:0")),
    (containers_are_bounded_and_watched, "no limit of proc", lambda s: s["worker-cpu"].pop("cpus")),
    (containers_are_bounded_and_watched, "logs", lambda s: s["gateway"]["logging"].update(options={"max-size": ""})),
    (the_queue_forgets_no_job, "anew", lambda s: s["valkey"].update(mem_limit="300m")),
    (containers_are_given_time_to_drain, "killed", lambda s: s["gateway"].update(stop_grace_period="20s")),
    (only_the_service_reaches_the_queue, "network", lambda s: s["grafana"]["networks"].append("backend")),
    (secrets_come_in_files, "holds", lambda s: s["grafana"]["environment"].update(GF_SECURITY_ADMIN_PASSWORD="x")),
    (secrets_come_in_files, "in it", lambda s: s["gateway"]["environment"].update(EMMDIT_REDIS_URL="redis://a:b@c")),
    (secrets_come_in_files, "not mounted", lambda s: s["worker-cpu"].update(secrets=[])),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_the_compose_file_holds_to(policy, services):
    policy(services)


@pytest.mark.parametrize(("policy", "complaint", "fault"), FAULTS, ids=[f"{p.__name__}: {c}" for p, c, _ in FAULTS])
def test_a_compose_file_with_a_fault_is_refused(policy, complaint, fault, services):
    services = {name: copy.deepcopy(service) for name, service in services.items()}
    fault(services)
    with refuses(complaint):
        policy(services)


def test_every_policy_is_shown_to_fail():
    assert {policy for policy, _, _ in FAULTS} == set(POLICIES)


# -- linters


def test_the_compose_file_follows_the_compose_specification():
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_the_compose_file_has_no_known_security_fault():
    check("compose-lint", "check", "--fail-on", "low", COMPOSE)


@pytest.mark.system
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_understands_its_configuration():
    config = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    result = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# -- settings, devices, what is mounted


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_container_are_accepted_and_none_is_missing(name, services, tmp_path):
    variables = {name: default_of(value) for name, value in services[name]["environment"].items()}
    settings = load_settings_of(variables, tmp_path)
    assert settings.models == ("demo", "demo-dist", "demo-grpo")
    assert settings.redis_url.get_secret_value() == "redis://emmdit@valkey:6379/0"
    assert settings.redis_password.get_secret_value() == "s" * 40
    assert settings.host == "0.0.0.0"
    assert name == "gateway" or f":{settings.worker_metrics_port}/livez" in services[name]["healthcheck"]["test"][-1]
    assert settings.device == ("cuda" if name == "worker-gpu" else "auto")


def test_prometheus_scrapes_what_there_is(services):
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    gateway, worker = config["scrape_configs"]
    assert gateway["static_configs"][0]["targets"] == ["gateway:8000"]
    (lookup,) = worker["dns_sd_configs"]
    for name in ("worker-cpu", "worker-gpu"):
        assert services[name]["networks"]["metrics"]["aliases"] == lookup["names"]
        assert int(services[name]["environment"]["EMMDIT_WORKER_METRICS_PORT"]) == lookup["port"]
    for name in (*OURS, "prometheus", "grafana"):
        assert "metrics" in services[name]["networks"], name


def test_grafana_finds_its_source_and_its_dashboards(services):
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "emmdit.yml").read_text("utf-8"))["providers"]
    mounts = [volume.split(":") for volume in services["grafana"]["volumes"]]
    assert ["./deploy/grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    assert ["./deploy/grafana/provisioning", "/etc/grafana/provisioning", "ro"] in mounts
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"])
    assert (ROOT / "deploy" / "grafana" / "dashboards" / home.rpartition("/")[2]).is_file()


def test_every_secret_is_one_that_the_script_makes(compose, tmp_path):
    script = ROOT / "deploy" / "make-secrets.sh"
    for _ in range(2):  # the second time changes nothing
        subprocess.run([script, tmp_path / "secrets"], check=True, capture_output=True)
        made = {path.name: path.read_text("utf-8") for path in (tmp_path / "secrets").iterdir()}
    assert {secret["file"] for secret in compose["secrets"].values()} == {f"./deploy/secrets/{name}" for name in made}
    assert len(made["redis_password"]) == len(made["grafana_password"]) == 64
    assert made["redis_password"] not in made["valkey_users.acl"]
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    again = {path.name: path.read_text("utf-8") for path in (tmp_path / "secrets").iterdir()}
    assert made == again
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "/deploy/secrets/" in ignored


def test_pictures_go_from_worker_to_gateway_and_weights_are_read_only(services):
    for name in OURS:
        assert "data:/data" in services[name]["volumes"]
        assert [volume for volume in services[name]["volumes"] if volume.endswith(":/models:ro")]


def test_the_gpu_worker_gets_the_devices_that_rocm_needs(services):
    worker = services["worker-gpu"]
    assert {device.split(":")[0] for device in worker["devices"]} == {"/dev/kfd", "/dev/dri"}
    assert len(worker["group_add"]) == 2
    assert worker["profiles"] == ["gpu"]
    assert services["worker-cpu"]["profiles"] == ["cpu"]
