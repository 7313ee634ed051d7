"""What every rendered manifest has to hold to. Each policy takes all documents of one release and asserts.

`tests/deploy/test_policies.py` shows that each of them can fail.
"""

import re

OWN_REPOSITORY = re.compile(r"(.*/)?emmdit$")
IMAGE = re.compile(r"(?P<repository>[\w./-]+(:\d+/[\w./-]+)?):(?P<tag>[\w][\w.-]*)(?P<digest>@sha256:[0-9a-f]{64})?")
KINDS_WITH_PODS = ("Deployment", "StatefulSet", "Job")
LAST_ANSWERS_AND_SPARE_S = 10
UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 1e3, "M": 1e6, "G": 1e9}


def amount(quantity):
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity)).groups()
    return float(number) * UNITS[unit]


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def workloads(documents):
    return of_kind(documents, *KINDS_WITH_PODS)


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def containers_of(workload, *, with_init=True):
    pod = pod_of(workload)
    return [*(pod.get("initContainers", []) if with_init else []), *pod["containers"]]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def component_of(workload):
    return workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]


def variables_of(container):
    return {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def images_are_pinned(documents):
    """By tag, never the latest; those of others by digest too. Ours are built, and get theirs in values."""
    for workload in workloads(documents):
        for container in containers_of(workload):
            image = IMAGE.fullmatch(container["image"])
            assert image, f"{container['image']}: not pinned by a tag"
            assert image["tag"] != "latest", f"{container['image']}: the latest is not pinned"
            assert image["digest"] or OWN_REPOSITORY.match(image["repository"]), f"{container['image']}: no digest"


def containers_have_requests_and_limits(documents):
    for workload in workloads(documents):
        for container in containers_of(workload):
            resources = container["resources"]
            for kind in ("cpu", "memory"):
                asked, most = resources["requests"].get(kind), resources["limits"].get(kind)
                assert asked, f"{name_of(workload)}: no request for {kind}"
                assert most, f"{name_of(workload)}: no limit of {kind}"
                assert amount(asked) <= amount(most), f"{name_of(workload)}: asks for more {kind} than its limit"


def pods_are_locked_down(documents):
    for workload in workloads(documents):
        pod, name = pod_of(workload), name_of(workload)
        assert pod["enableServiceLinks"] is False, f"{name}: service links would set EMMDIT_ variables"
        assert pod["automountServiceAccountToken"] is False, f"{name}: a token that nobody needs"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), f"{name}: shares the host's namespaces"
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, f"{name}: may be root"
        assert security["runAsUser"] > 0, f"{name}: is root"
        assert security["seccompProfile"]["type"] == "RuntimeDefault", f"{name}: no seccomp profile"
        for container in containers_of(workload):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, f"{name}: root file system can be written"
            assert security["allowPrivilegeEscalation"] is False, f"{name}: privileges can grow"
            assert security["capabilities"] == {"drop": ["ALL"]}, f"{name}: has capabilities"
            assert not security.get("privileged"), f"{name}: privileged"


def volumes_are_known_and_bounded(documents):
    for workload in workloads(documents):
        pod, name = pod_of(workload), name_of(workload)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for container in containers_of(workload) for mount in container["volumeMounts"]}
        assert mounted == volumes.keys() | claims, (
            f"{name}: {mounted ^ (volumes.keys() | claims)} is not what is mounted"
        )
        for volume in volumes.values():
            assert "hostPath" not in volume, f"{name}: reaches into its node"
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], f"{name}: a folder without bounds"


def services_are_probed(documents):
    """Liveness asks for progress alone: what asked the queue would restart everything in every outage."""
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        for container in containers_of(workload, with_init=False):
            name = f"{name_of(workload)}/{container['name']}"
            ports = {port["name"] for port in container["ports"]}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert kind in container, f"{name}: no {kind}"
                if "httpGet" in container[kind]:
                    assert container[kind]["httpGet"]["port"] in ports, f"{name}: {kind} asks a port that is not there"
            if component_of(workload) in ("gateway", "worker"):
                assert container["livenessProbe"]["httpGet"]["path"] == "/livez", f"{name}: liveness is not /livez"
                assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", f"{name}: readiness is not /readyz"


def pods_are_given_time_to_drain(documents):
    for workload in of_kind(documents, "Deployment"):
        pod, (container,) = pod_of(workload), containers_of(workload, with_init=False)
        variables = variables_of(container)
        drain_s = float(variables["EMMDIT_DRAIN_TIMEOUT_S"]) + float(variables.get("EMMDIT_DRAIN_DELAY_S", 0))
        least_s = drain_s + LAST_ANSWERS_AND_SPARE_S
        assert pod["terminationGracePeriodSeconds"] >= least_s, f"{name_of(workload)}: killed before {least_s:g} s"


def gpu_workers_are_replaced_in_place(documents):
    for workload in of_kind(documents, "Deployment"):
        for container in containers_of(workload, with_init=False):
            if any("/" in resource for resource in container["resources"]["limits"]):
                surge = workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
                assert surge == 0, f"{name_of(workload)}: waits for a GPU that the old one holds"
                assert variables_of(container)["EMMDIT_DEVICE"] == "cuda", f"{name_of(workload)}: leaves its GPU idle"


def selectors_find_their_pods(documents):
    labels = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads(documents)]
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        found = [each for each in labels if selects(workload["spec"]["selector"]["matchLabels"], each)]
        assert len(found) == 1, f"{name_of(workload)}: selects the pods of {len(found)} workloads"
    for budget in of_kind(documents, "PodDisruptionBudget", "PodMonitor"):
        found = [each for each in labels if selects(budget["spec"]["selector"]["matchLabels"], each)]
        assert found, f"{name_of(budget)}: selects nothing"
    services = of_kind(documents, "Service")
    for service in services:
        backing = [
            workload
            for workload in workloads(documents)
            if selects(service["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"])
        ]
        assert len(backing) == 1, f"{name_of(service)}: has {len(backing)} workloads behind it"
        ports = {port["name"] for container in containers_of(backing[0]) for port in container.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, f"{name_of(service)}: no pod has the port {port['targetPort']}"
    for monitor in of_kind(documents, "ServiceMonitor"):
        found = [
            each for each in services if selects(monitor["spec"]["selector"]["matchLabels"], each["metadata"]["labels"])
        ]
        assert len(found) == 1, f"{name_of(monitor)}: selects {len(found)} services"
    budgeted = [budget["spec"]["selector"]["matchLabels"] for budget in of_kind(documents, "PodDisruptionBudget")]
    for workload in of_kind(documents, "Deployment"):
        own = workload["spec"]["template"]["metadata"]["labels"]
        assert any(selects(selector, own) for selector in budgeted), f"{name_of(workload)}: may all be evicted at once"


def every_pod_has_a_network_policy(documents):
    policies = of_kind(documents, "NetworkPolicy")
    for workload in workloads(documents):
        own = workload["spec"]["template"]["metadata"]["labels"]
        found = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"]["matchLabels"], own)]
        assert found, f"{name_of(workload)}: no network policy"
        for policy in found:
            assert set(policy["policyTypes"]) == {"Ingress", "Egress"}, f"{name_of(workload)}: one way is open"
            for rule in policy["egress"]:
                assert rule.get("ports"), f"{name_of(workload)}: may reach every port"


def only_the_service_reaches_the_queue(documents):
    for policy in of_kind(documents, "NetworkPolicy"):
        if policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "valkey":
            (rule,) = policy["spec"]["ingress"]
            allowed = {
                peer["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component") for peer in rule["from"]
            }
            assert allowed == {"gateway", "worker"}, f"{name_of(policy)}: lets {allowed} in"
            assert policy["spec"]["egress"] == [], f"{name_of(policy)}: the queue has nobody to call"


def the_queue_forgets_no_job(documents):
    for workload in of_kind(documents, "StatefulSet"):
        (container,) = containers_of(workload)
        command = dict(part.removeprefix("--").split(" ", 1) for part in container["command"][1:])
        assert command["appendonly"] == "yes", "jobs are not written down"
        assert command["maxmemory-policy"] == "noeviction", "a full queue forgets jobs"
        assert command["aclfile"].startswith("/run/secrets/"), "the queue is open to all"
        assert workload["spec"]["volumeClaimTemplates"], "jobs lie in a volume that goes with the pod"
        most = int(command["maxmemory"].removesuffix("mb")) * 2**20
        limit = amount(container["resources"]["limits"]["memory"])
        assert 2 * most <= limit, "no memory is left for writing the file anew"
        for other in of_kind(documents, "Deployment"):
            pictures = int(variables_of(containers_of(other)[-1]).get("EMMDIT_BLOB_MAX_BYTES", 0))
            assert 2 * pictures <= most, f"{name_of(other)}: pictures leave no room for jobs"


def workers_compute_with_what_they_get(documents):
    for workload in of_kind(documents, "Deployment"):
        if component_of(workload) == "worker":
            (container,) = containers_of(workload, with_init=False)
            variables, limits = variables_of(container), container["resources"]["limits"]
            threads = int(variables.get("EMMDIT_NUM_THREADS", 0))
            assert threads <= amount(limits["cpu"]), f"{name_of(workload)}: more threads than processors"
            if variables["EMMDIT_DEVICE"] == "cpu":
                assert threads, f"{name_of(workload)}: would take one thread for each of the node's processors"


def autoscaling_waits_for_loading(documents):
    targets = {workload["metadata"]["name"]: workload for workload in of_kind(documents, "Deployment")}
    for scaler in of_kind(documents, "ScaledObject"):
        spec, name = scaler["spec"], name_of(scaler)
        target = targets[spec["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], f"{name}: every deployment would undo what it did"
        assert spec["minReplicaCount"] >= 1, f"{name}: without any worker requests are refused"
        probe = containers_of(target)[-1]["startupProbe"]
        loading_s = probe["periodSeconds"] * probe["failureThreshold"]
        down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert spec["cooldownPeriod"] > loading_s, f"{name}: cools down before a model is loaded"
        assert down["stabilizationWindowSeconds"] > loading_s, f"{name}: sends workers away before others are loaded"
        assert {trigger["type"] for trigger in spec["triggers"]} == {"prometheus"}, f"{name}: counts something else"


POLICIES = (
    images_are_pinned,
    containers_have_requests_and_limits,
    pods_are_locked_down,
    volumes_are_known_and_bounded,
    services_are_probed,
    pods_are_given_time_to_drain,
    gpu_workers_are_replaced_in_place,
    selectors_find_their_pods,
    the_queue_forgets_no_job,
    only_the_service_reaches_the_queue,
    workers_compute_with_what_they_get,
    autoscaling_waits_for_loading,
)
