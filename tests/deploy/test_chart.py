"""The chart, rendered by Helm's own engine with every file of values in its folder ci."""

import hashlib
import json
import re
import subprocess
from functools import cache

import helm_python
import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator

from deploy import render
from service.settings import Settings
from tests.deploy import policies
from tests.deploy.support import ROOT, load_settings_of

CUSTOM_KINDS = {"HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
VALUES = ["defaults", *render.value_files()]
VERSIONS = [*((name, "1.37") for name in VALUES), ("everything", "1.29")]  # the newest, and the oldest that will do


def values_of(name):
    return {} if name == "defaults" else render.load_values(name)


@cache
def documents_of(name):
    texts = render.render(values_of(name)).values()
    return tuple(document for text in texts for document in render.documents_in(text))


def services_of(documents):
    """Containers that are ours, with their variables."""
    for workload in policies.of_kind(documents, "Deployment"):
        (container,) = policies.containers_of(workload, with_init=False)
        yield container, policies.variables_of(container)


def test_helm_has_nothing_against_the_chart():
    assert render.lint() == []


def test_what_is_written_from_other_files_is_up_to_date():
    assert render.out_of_date() == [], "run python -m deploy.render"


def test_the_schema_of_values_is_a_schema_and_leaves_no_object_open():
    schema = json.loads((render.CHART / "values.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    with_properties = [found for found in objects_in(schema) if "properties" in found and "type" in found]
    assert len(with_properties) > 20
    assert all(found["additionalProperties"] is False for found in with_properties)


def objects_in(value):
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects_in(each)


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_document_follows_the_schema_of_its_kind(name, version):
    for document in documents_of(name):
        if document["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("policy", policies.POLICIES, ids=lambda policy: policy.__name__)
@pytest.mark.parametrize("name", VALUES)
def test_every_rendering_holds_to(name, policy):
    policy(documents_of(name))


@pytest.mark.parametrize("name", [name for name in VALUES if name != "volume"])
def test_every_pod_has_a_network_policy_unless_they_are_off(name):
    policies.every_pod_has_a_network_policy(documents_of(name))


@pytest.mark.parametrize("name", VALUES)
def test_the_settings_of_every_container_are_accepted_and_none_is_missing(name, tmp_path):
    for container, variables in services_of(documents_of(name)):
        settings = load_settings_of(variables, tmp_path)
        assert settings.redis_url is not None
        assert settings.host == "0.0.0.0"
        port = settings.port if container["name"] == "gateway" else settings.worker_metrics_port
        assert [entry["containerPort"] for entry in container["ports"]] == [port]
        for variable in variables:
            if variable.startswith("EMMDIT_") and variable.endswith("_FILE"):
                mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert any(variables[variable].startswith(f"{mount}/") for mount in mounts), variable


def test_a_setting_of_the_chart_has_the_bounds_of_the_class():
    allowed = render.settings_schema()["properties"]
    assert allowed.keys() | (render.OWN_SETTINGS & Settings.model_fields.keys()) == Settings.model_fields.keys()
    with helm_python.Chart.load(render.CHART) as chart:
        chart.validate_schema(chart.merge_values({"settings": {"queue_capacity": 512}}))
        for wrong in ({"queue_capacity": 0}, {"queue_kapacity": 512}, {"redis_url": "redis://elsewhere"}):
            with pytest.raises(helm_python.HelmValuesError):
                chart.validate_schema(chart.merge_values({"settings": wrong}))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"valkey": {"enabled": False}}, "there is no queue"),
        ({"queue": {"url": "redis://elsewhere:6379"}}, "which of them is the queue"),
        ({"blobs": {"store": "s3"}}, "set blobs.s3.url"),
        ({"blobs": {"store": "s3", "s3": {"url": "s3://pictures"}}}, "networkPolicy.extraEgress"),
        ({"blobs": {"redisMaxMiB": 400}}, "more than half"),
        ({"gateway": {"image": "cuda"}}, 'images has no "cuda"'),
        ({"ingress": {"enabled": True}}, "set ingress.host"),
    ],
)
def test_values_that_cannot_work_are_refused_with_a_reason(values, complaint):
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(complaint)):
        render.render(values)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"images": {"cpu": {"repository": "emmdit", "tag": "latest"}}},
        {"images": {"cpu": {"repository": "emmdit", "tag": "1", "digest": "sha256:short"}}},
        {"queue": {"url": "redis://user:password@elsewhere:6379"}, "valkey": {"enabled": False}},
        {"models": {"fetch": [{"name": "nitro-e-512", "revision": "main"}]}},
        {"blobs": {"store": "directory"}},
        {"workerPools": []},
    ],
)
def test_values_outside_of_the_schema_are_refused(values):
    with pytest.raises(helm_python.HelmError):
        render.render(values)


def test_models_come_at_a_pinned_commit_with_a_checksum_and_nothing_starts_before():
    documents = documents_of("amd")
    (job,) = policies.of_kind(documents, "Job")
    (container,) = policies.containers_of(job)
    (fetch,) = render.load_values("amd")["models"]["fetch"]
    assert (
        f"fetch {fetch['name']} --revision {fetch['revision']} --sha256 {fetch['sha256']}" in container["command"][-1]
    )
    for workload in policies.of_kind(documents, "Deployment"):
        (waiting,) = policies.pod_of(workload)["initContainers"]
        assert fetch["revision"][:12] in waiting["command"][-1]  # as `emmdit models fetch` writes it to the manifest
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in waiting["volumeMounts"]


def test_rules_and_dashboards_are_handed_on_as_they_are():
    documents = documents_of("everything")
    rules = {path.stem: render.documents_in(path.read_text("utf-8"))[0] for path in RULES}
    handed_on = {
        rule["metadata"]["name"].removeprefix("emmdit-"): rule["spec"]
        for rule in policies.of_kind(documents, "PrometheusRule")
    }
    assert handed_on == rules
    boards = policies.of_kind(documents, "ConfigMap")
    assert {name: json.loads(text) for board in boards for name, text in board["data"].items()} == {
        f"emmdit-{path.name}": json.loads(path.read_text("utf-8")) for path in DASHBOARDS
    }
    assert all(board["metadata"]["labels"]["grafana_dashboard"] == "1" for board in boards)
    prometheus = render.documents_in((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text("utf-8"))[0]
    jobs = {config["job_name"] for config in prometheus["scrape_configs"]}
    relabelled = {
        endpoint["relabelings"][0]["replacement"]
        for monitor in policies.of_kind(documents, "ServiceMonitor", "PodMonitor")
        for endpoint in [*monitor["spec"].get("endpoints", []), *monitor["spec"].get("podMetricsEndpoints", [])]
    }
    assert relabelled == jobs  # the rules know them by these names


def test_the_metrics_that_scale_workers_are_documented():
    documented = (ROOT / "docs" / "api.md").read_text("utf-8") + "".join(
        path.read_text("utf-8") for path in (ROOT / "docs").glob("metrics.md")
    )
    (scaler, *_) = policies.of_kind(documents_of("everything"), "ScaledObject")
    for trigger in scaler["spec"]["triggers"]:
        for name in re.findall(r"emmdit_\w+", trigger["metadata"]["query"]):
            assert name.removeprefix("emmdit_") in documented, name


def test_the_secret_that_the_chart_makes_is_the_one_that_the_script_makes(tmp_path):
    (secret,) = policies.of_kind(documents_of("defaults"), "Secret")
    assert len(secret["stringData"]["password"]) >= 32
    assert set(secret["stringData"]) == {"password", "users.acl"}
    digest = hashlib.sha256(secret["stringData"]["password"].encode()).hexdigest()
    subprocess.run([ROOT / "deploy" / "make-secrets.sh", tmp_path], check=True, capture_output=True)
    made = (tmp_path / "valkey_users.acl").read_text("utf-8")
    assert secret["stringData"]["users.acl"] == re.sub("#[0-9a-f]{64}", f"#{digest}", made)
    assert f"#{digest} ~emmdit:* " in secret["stringData"]["users.acl"]
