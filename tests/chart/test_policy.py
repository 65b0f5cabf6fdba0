"""Whatever values one chooses, what runs is bounded, watched, without rights, and found by what looks for it."""

import re

import pytest
import yaml

from tests.chart.rendered import EXAMPLES, containers, example, named, of_kind, pod_templates, selects, variables

pytestmark = pytest.mark.helm
SECRET_VALUE = re.compile(r"://[^/\s$]*:[^/\s$@]+@|(?i:password|token|secret)[^\s:]*: +[A-Za-z0-9+/]{20,}")


@pytest.fixture(params=EXAMPLES)
def objects(request):
    """What each of the value files renders."""
    return example(request.param)


def test_every_image_says_its_version(objects):
    images = {where: each["image"] for where, each in containers(objects)}
    assert images
    assert not {where: image for where, image in images.items() if not re.search(r"[^/]:[\w.-]+(@sha256:\w+)?$", image)}
    assert not {where: image for where, image in images.items() if ":latest" in image}


def test_every_container_asks_for_what_it_needs_and_has_a_limit_of_memory(objects):
    for where, each in containers(objects):
        assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), where
        assert "memory" in each["resources"]["limits"], where


def test_no_container_asks_for_all_that_it_may_have(objects):
    """What is asked for is what the values say, beneath the limit of memory that they say."""
    for where, each in containers(objects):
        assert each["resources"]["requests"]["memory"] != each["resources"]["limits"]["memory"], where


def test_accelerators_are_asked_for_and_limited_alike(objects):
    """Kubernetes refuses anything else of what cannot be shared."""
    for where, each in containers(objects):
        devices = {name: n for name, n in each["resources"]["limits"].items() if "/" in name}
        assert devices == {n: k for n, k in each["resources"]["requests"].items() if "/" in n}, where


def test_every_server_is_probed(objects):
    servers = [(where, each) for where, each in containers(objects) if "ports" in each]
    assert servers
    for where, each in servers:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= each.keys(), where


def test_no_container_has_rights(objects):
    for where, each in containers(objects):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
    for where, template in pod_templates(objects):
        of_pod = template["spec"]["securityContext"]
        assert of_pod["runAsNonRoot"] is True, where
        assert of_pod["runAsUser"] > 0, where
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, where


def test_no_pod_may_talk_to_kubernetes(objects):
    accounts = {each["metadata"]["name"]: each for each in of_kind(objects, "ServiceAccount")}
    for where, template in pod_templates(objects):
        assert template["spec"]["automountServiceAccountToken"] is False, where
        assert accounts[template["spec"]["serviceAccountName"]]["automountServiceAccountToken"] is False, where
    assert not of_kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_no_pod_is_given_variables_of_services(objects):
    """Kubernetes would call one SLUICE_GATEWAY_PORT, and a gateway refuses settings that it does not know."""
    assert [where for where, template in pod_templates(objects) if template["spec"]["enableServiceLinks"]] == []


def test_what_may_be_written_is_a_volume_of_bounded_size(objects):
    for where, template in pod_templates(objects):
        for volume in template["spec"]["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], f"{where}: {volume['name']}"


def test_what_comes_from_secrets_is_mounted_for_reading_alone(objects):
    for where, template in pod_templates(objects):
        files = {volume["name"]: volume["secret"] for volume in template["spec"]["volumes"] if "secret" in volume}
        assert all(secret["defaultMode"] == 0o440 for secret in files.values()), where
        for each in template["spec"]["containers"]:
            for mount in each["volumeMounts"]:
                assert mount["name"] not in files or mount["readOnly"], where


def test_every_mount_has_its_volume(objects):
    claims = {
        each["metadata"]["name"]: {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        for each in of_kind(objects, "StatefulSet")
    }
    for where, template in pod_templates(objects):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | claims.get(where.split("/")[1], set())
        for each in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            assert {mount["name"] for mount in each["volumeMounts"]} <= volumes, where


def test_secrets_stand_in_secrets_alone(objects):
    for each in objects:
        if each["kind"] != "Secret":
            assert not SECRET_VALUE.search(str(each)), f"{each['kind']}/{each['metadata']['name']}"
    for where, each in containers(objects):
        for name, value in variables(each).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|AUTH|DATABASE_URL", name):
                assert set(value) == {"secretKeyRef"}, f"{where}: {name}"


def test_selectors_find_their_own_pods_and_no_others(objects):
    labels = {where: template["metadata"]["labels"] for where, template in pod_templates(objects)}
    for each in of_kind(objects, "Deployment", "StatefulSet"):
        where = f"{each['kind']}/{each['metadata']['name']}"
        assert [pod for pod in labels if selects(each["spec"]["selector"], labels[pod])] == [where]


def test_every_disruption_budget_and_network_policy_finds_pods(objects):
    labels = [template["metadata"]["labels"] for _, template in pod_templates(objects)]
    for each in of_kind(objects, "PodDisruptionBudget", "NetworkPolicy"):
        selector = each["spec"].get("selector") or each["spec"]["podSelector"]
        is_for_pools = selector.get("matchExpressions")
        found = [pod for pod in labels if selects(selector, pod)]
        assert found or (is_for_pools and not of_kind(objects, "ScaledObject", "LeaderWorkerSet"))
    budgets = {each["metadata"]["name"] for each in of_kind(objects, "PodDisruptionBudget")}
    assert {each["metadata"]["name"] for each in of_kind(objects, "LeaderWorkerSet")} <= budgets
    assert "s-sluice-gateway" in budgets


def test_every_pod_is_under_a_network_policy(objects):
    policies = [each["spec"]["podSelector"] for each in of_kind(objects, "NetworkPolicy")]
    for where, template in pod_templates(objects):
        assert any(selects(policy, template["metadata"]["labels"]) for policy in policies), where


def test_services_lead_to_ports_that_are_there(objects):
    for service in of_kind(objects, "Service"):
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        chosen = [
            {port["name"] for each in template["spec"]["containers"] for port in each.get("ports", [])}
            for _, template in pod_templates(objects)
            if selects({"matchLabels": service["spec"]["selector"]}, template["metadata"]["labels"])
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        assert wanted <= chosen[0], service["metadata"]["name"]


def test_who_is_sent_away_has_time_to_end(objects):
    """Kubernetes kills after the grace period: it covers the pause, the drain, and what comes after it."""
    gateway = named(objects, "StatefulSet", "s-sluice-gateway")["spec"]["template"]["spec"]
    (container,) = gateway["containers"]
    (config,) = (each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"] == "s-sluice-config")
    settings = yaml.safe_load(config["data"]["sluice.yaml"])
    drain_s = settings["drain_announce_s"] + settings["drain_s"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert gateway["terminationGracePeriodSeconds"] >= pause_s + drain_s + 15
    for where, template in pod_templates(objects):
        for each in template["spec"]["containers"]:
            drains = [float(word.split("=")[1]) for word in each.get("args", []) if word.startswith("--drain-s=")]
            assert all(template["spec"]["terminationGracePeriodSeconds"] >= drain + 15 for drain in drains), where
