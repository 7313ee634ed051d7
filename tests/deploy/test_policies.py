"""Each policy of manifests can fail: a rendering with one fault put into it is refused."""

import copy

import pytest

from tests.deploy import policies
from tests.deploy.support import refuses
from tests.deploy.test_chart import documents_of


def part(documents, kind, component):
    return next(
        document
        for document in policies.of_kind(documents, kind)
        if document["metadata"]["labels"]["app.kubernetes.io/component"] == component
    )


def container(documents, component="worker", kind="Deployment"):
    return policies.containers_of(part(documents, kind, component), with_init=False)[0]


def variable(documents, name, component="worker"):
    return next(entry for entry in container(documents, component)["env"] if entry["name"] == name)


def pod(documents, component="worker"):
    return policies.pod_of(part(documents, "Deployment", component))


def spec(documents, kind, component="worker"):
    return part(documents, kind, component)["spec"]


def scaler(documents):
    return spec(documents, "ScaledObject")


def queue(documents):
    return container(documents, "valkey", "StatefulSet")


def replace_in(command, old, new):
    command[:] = [entry.replace(old, new) for entry in command]


FAULTS = [
    (policies.images_are_pinned, "latest", lambda d: container(d).update(image="emmdit:latest")),
    (policies.images_are_pinned, "not pinned", lambda d: container(d).update(image="emmdit")),
    (policies.images_are_pinned, "no digest", lambda d: queue(d).update(image="valkey/valkey:9.1.1")),
    (
        policies.containers_have_requests_and_limits,
        "no limit of memory",
        lambda d: container(d)["resources"]["limits"].pop("memory"),
    ),
    (
        policies.containers_have_requests_and_limits,
        "more cpu than",
        lambda d: container(d)["resources"]["requests"].update(cpu="99"),
    ),
    (policies.pods_are_locked_down, "service links", lambda d: pod(d).update(enableServiceLinks=True)),
    (policies.pods_are_locked_down, "token", lambda d: pod(d).update(automountServiceAccountToken=True)),
    (policies.pods_are_locked_down, "namespaces", lambda d: pod(d).update(hostNetwork=True)),
    (policies.pods_are_locked_down, "is root", lambda d: pod(d)["securityContext"].update(runAsUser=0)),
    (
        policies.pods_are_locked_down,
        "can be written",
        lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    (
        policies.pods_are_locked_down,
        "capabilities",
        lambda d: container(d)["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]}),
    ),
    (policies.volumes_are_known_and_bounded, "is not what is mounted", lambda d: container(d)["volumeMounts"].pop()),
    (
        policies.volumes_are_known_and_bounded,
        "without bounds",
        lambda d: pod(d)["volumes"][0].update(emptyDir={"sizeLimit": ""}),
    ),
    (
        policies.volumes_are_known_and_bounded,
        "into its node",
        lambda d: pod(d)["volumes"][0].update(hostPath={"path": "/dev"}),
    ),
    (policies.services_are_probed, "no livenessProbe", lambda d: container(d).pop("livenessProbe")),
    (
        policies.services_are_probed,
        "not /livez",
        lambda d: container(d)["livenessProbe"]["httpGet"].update(path="/readyz"),
    ),
    (policies.services_are_probed, "not there", lambda d: container(d)["startupProbe"]["httpGet"].update(port="http")),
    (policies.pods_are_given_time_to_drain, "killed before", lambda d: pod(d).update(terminationGracePeriodSeconds=30)),
    (
        policies.pods_are_given_time_to_drain,
        "killed before",
        lambda d: variable(d, "EMMDIT_DRAIN_DELAY_S", "gateway").update(value="30"),
    ),
    (
        policies.gpu_workers_are_replaced_in_place,
        "waits for a GPU",
        lambda d: spec(d, "Deployment")["strategy"]["rollingUpdate"].update(maxSurge=1),
    ),
    (policies.gpu_workers_are_replaced_in_place, "idle", lambda d: variable(d, "EMMDIT_DEVICE").update(value="cpu")),
    (
        policies.selectors_find_their_pods,
        "has 0 workloads",
        lambda d: spec(d, "Service", "gateway")["selector"].update(tier="front"),
    ),
    (
        policies.selectors_find_their_pods,
        "no pod has the port",
        lambda d: spec(d, "Service", "gateway")["ports"][0].update(targetPort="https"),
    ),
    (
        policies.selectors_find_their_pods,
        "of 2 workloads",
        lambda d: spec(d, "Deployment")["selector"]["matchLabels"].pop("emmdit.io/pool"),
    ),
    (
        policies.selectors_find_their_pods,
        "evicted at once",
        lambda d: d.remove(part(d, "PodDisruptionBudget", "gateway")),
    ),
    (
        policies.selectors_find_their_pods,
        "selects 0 services",
        lambda d: spec(d, "ServiceMonitor", "gateway")["selector"]["matchLabels"].update(tier="front"),
    ),
    (
        policies.every_pod_has_a_network_policy,
        "no network policy",
        lambda d: d.remove(part(d, "NetworkPolicy", "worker")),
    ),
    (
        policies.every_pod_has_a_network_policy,
        "one way is open",
        lambda d: spec(d, "NetworkPolicy")["policyTypes"].pop(),
    ),
    (
        policies.every_pod_has_a_network_policy,
        "every port",
        lambda d: spec(d, "NetworkPolicy")["egress"].append({"to": []}),
    ),
    (
        policies.only_the_service_reaches_the_queue,
        "lets",
        lambda d: spec(d, "NetworkPolicy", "valkey")["ingress"][0]["from"].append({"podSelector": {}}),
    ),
    (
        policies.the_queue_forgets_no_job,
        "forgets jobs",
        lambda d: replace_in(queue(d)["command"], "noeviction", "allkeys-lru"),
    ),
    (
        policies.the_queue_forgets_no_job,
        "writing the file",
        lambda d: replace_in(queue(d)["command"], "512mb", "1024mb"),
    ),
    (
        policies.the_queue_forgets_no_job,
        "no room for jobs",
        lambda d: variable(d, "EMMDIT_BLOB_MAX_BYTES").update(value=str(2**29)),
    ),
    (
        policies.workers_compute_with_what_they_get,
        "more threads",
        lambda d: container(d)["env"].append({"name": "EMMDIT_NUM_THREADS", "value": "64"}),
    ),
    (
        policies.workers_compute_with_what_they_get,
        "one thread for each",
        lambda d: variable(d, "EMMDIT_DEVICE").update(value="cpu"),
    ),
    (policies.autoscaling_waits_for_loading, "cools down", lambda d: scaler(d).update(cooldownPeriod=60)),
    (policies.autoscaling_waits_for_loading, "undo", lambda d: spec(d, "Deployment").update(replicas=2)),
    (policies.autoscaling_waits_for_loading, "refused", lambda d: scaler(d).update(minReplicaCount=0)),
]


@pytest.mark.parametrize(("policy", "complaint", "fault"), FAULTS, ids=[f"{p.__name__}: {c}" for p, c, _ in FAULTS])
def test_a_rendering_with_a_fault_is_refused(policy, complaint, fault):
    documents = copy.deepcopy(list(documents_of("everything")))
    policy(documents)
    fault(documents)
    with refuses(complaint):
        policy(documents)


def test_every_policy_is_shown_to_fail():
    assert {policy for policy, _, _ in FAULTS} == {*policies.POLICIES, policies.every_pod_has_a_network_policy}
