"""What a pool's workers are known by and whom they trust: tokens and certificates, from Secrets that values name."""

import re
import subprocess

import pytest
import yaml

from tests.chart.kinds import VERSIONS, flaws
from tests.chart.rendered import EXAMPLES, containers, example, named, of_kind, pod_templates, render, variables

pytestmark = pytest.mark.helm
ON_TWO_NODES = {
    "model": "/models/large",
    "gpus_per_worker": 2,
    "kubernetes": {"nodes": 2, "cache": {"claim": "models"}},
}


@pytest.fixture
def rendered(tmp_path):
    """Give a function that renders values."""

    def rendered(**values):
        path = tmp_path / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return render.__wrapped__(str(path))

    return rendered


def pods_of(objects, pool):
    """Give the pods of a pool's workers, further nodes of an engine included."""
    pods = [template for _, template in pod_templates(objects)]
    return [pod["spec"] for pod in pods if pod["metadata"]["labels"].get("sluice/pool") == pool]


def files_of(pod):
    """Give the paths that a pod's container finds its secrets under, each with its Secret and key."""
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    return {
        f"{mount['mountPath']}/{item['path']}": (secrets[mount["name"]]["secretName"], item["key"])
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] in secrets
        for item in secrets[mount["name"]]["items"]
    }


def options_of(pod):
    return dict(word.partition("=")[::2] for word in pod["containers"][0]["args"])


def test_a_pool_with_a_token_of_its_own_has_that_and_no_other_pool_does():
    given = {where: variables(each) for where, each in containers(example("ha"))}
    tokens = {where: each.get("SLUICE_WORKER_TOKEN", {}).get("secretKeyRef") for where, each in given.items()}
    shared = {"name": "sluice-tokens", "key": "worker-token"}
    assert tokens["Deployment/s-sluice-qwen3-8b/worker"] == {"name": "sluice-worker-qwen3-8b", "key": "token"}
    assert tokens["Deployment/s-sluice-qwen3-32b/worker"] == shared
    assert tokens["StatefulSet/s-sluice-gateway/gateway"] == shared


@pytest.mark.parametrize("name", ["trial", "multi-node"])
def test_nothing_is_mounted_and_nothing_stands_before_the_command_where_nobody_asked_for_https(name):
    objects = example(name)
    assert not [service for service in of_kind(objects, "Service") if service["metadata"]["name"].endswith("-engines")]
    for where, template in pod_templates(objects):
        assert not [volume for volume in template["spec"]["volumes"] if "secret" in volume], where
        assert "command" not in template["spec"]["containers"][0] or where.endswith("-redis"), where


def test_an_engine_shows_the_certificate_of_its_secret_and_gateways_trust_theirs():
    (worker,) = pods_of(example("ha"), "qwen3-8b")
    options, files = options_of(worker), files_of(worker)
    assert files[options["--tls-cert"]] == ("sluice-engine-qwen3-8b", "tls.crt")
    assert files[options["--tls-key"]] == ("sluice-engine-qwen3-8b", "tls.key")
    assert "--advertise-host" not in options
    gateway = named(example("ha"), "StatefulSet", "s-sluice-gateway")["spec"]["template"]["spec"]
    path = variables(gateway["containers"][0])["SLUICE_UPSTREAM__CA_FILE"]
    assert files_of(gateway)[path] == ("sluice-engine-ca", "ca.crt")


def test_kubernetes_and_prometheus_ask_such_engines_by_https_and_the_others_by_http():
    objects = example("ha")
    for pool, scheme in (("qwen3-8b", "HTTPS"), ("qwen3-32b", "HTTP")):
        (worker,) = pods_of(objects, pool)
        probes = [probe for name, probe in worker["containers"][0].items() if name.endswith("Probe")]
        assert [probe["httpGet"].get("scheme", "HTTP") for probe in probes] == [scheme] * 3
    (endpoint,) = named(objects, "PodMonitor", "s-sluice-engine")["spec"]["podMetricsEndpoints"]
    (rule,) = (each for each in endpoint["relabelings"] if each.get("targetLabel") == "__scheme__")
    assert [name for name in ("qwen3-8b", "qwen3-32b", "qwen3-8b-next") if re.fullmatch(rule["regex"], name)] == [
        "qwen3-8b"
    ]


@pytest.mark.parametrize(("address", "label"), [("10.1.2.3", "10-1-2-3"), ("fd00:10::7", "fd00-10--7")])
def test_the_name_that_gateways_are_told_is_the_one_that_dns_has_for_the_pod(address, label):
    """Run by a shell: an argument with a space in it stays one, and the name is of a Service that has no address."""
    objects = example("ha")
    (worker,) = pods_of(objects, "qwen3-8b")
    *shell, verb = worker["containers"][0]["command"]
    assert verb == "sluice"
    words = [*shell, "printf", "%s\n", "worker", "--engine-arg=a b"]
    said = subprocess.run(
        words, env={"POD_IP": address, "PATH": "/usr/bin:/bin"}, capture_output=True, check=True, text=True
    )
    *arguments, advertised = said.stdout.splitlines()
    assert arguments == ["worker", "--engine-arg=a b"]
    assert advertised == f"--advertise-host={label}.s-sluice-qwen3-8b-engines.llm.svc"
    service = named(objects, "Service", "s-sluice-qwen3-8b-engines")["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)


def test_workers_that_report_by_https_trust_the_authority_that_is_said(rendered):
    tls = {"ca": {"existingSecret": "gateways", "key": "bundle.pem"}}
    objects = rendered(pools={"p": {"model": "m"}}, worker={"gateways": ["https://llm.example.com"], "tls": tls})
    (worker,) = pods_of(objects, "p")
    options = options_of(worker)
    assert options["--gateway"] == "https://llm.example.com"
    assert files_of(worker) == {options["--ca-file"]: ("gateways", "bundle.pem")}
    assert options["--advertise-host"] == "$(POD_IP)"


def test_a_pools_own_certificates_and_gateways_replace_those_of_all(rendered):
    own = {"gateways": ["https://own.example.com"], "tls": {"ca": {"existingSecret": "own"}}}
    pools = {
        "p": {"model": "m"},
        "q": {"model": "m", "kubernetes": own},
        "r": {"model": "m", "kubernetes": {"tls": {}}},
    }
    objects = rendered(pools=pools, worker={"tls": {"existingSecret": "all"}})
    found = {pool: {secret for secret, _ in files_of(pods_of(objects, pool)[0]).values()} for pool in pools}
    assert found == {"p": {"all"}, "q": {"own"}, "r": set()}
    assert options_of(pods_of(objects, "q")[0])["--gateway"] == "https://own.example.com"
    services = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    assert {name for name in services if name.endswith("-engines")} == {"s-sluice-p-engines"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_node_of_an_engine_has_the_files_and_kubernetes_takes_it_all(rendered, version):
    worker = {
        "gateways": ["https://llm.example.com"],
        "tls": {"existingSecret": "engines", "ca": {"existingSecret": "gateways"}},
    }
    objects = rendered(pools={"p": ON_TWO_NODES}, worker=worker, monitoring={"podMonitor": {"enabled": True}})
    leader, follower = (
        named(objects, "LeaderWorkerSet", "s-sluice-p")["spec"]["leaderWorkerTemplate"][part]["spec"]
        for part in ("leaderTemplate", "workerTemplate")
    )
    assert files_of(leader) == files_of(follower)
    assert {secret for secret, _ in files_of(leader).values()} == {"engines", "gateways"}
    assert leader["containers"][0]["command"] == follower["containers"][0]["command"]
    assert [flaw for each in objects for flaw in flaws(each, version)] == []


def test_the_example_names_what_its_secrets_are():
    """What the page on installing has an operator make is what the example asks for."""
    page = (EXAMPLES["ha"].parents[3] / "docs/operators/install.md").read_text()
    for where, template in pod_templates(example("ha")):
        for volume in template["spec"]["volumes"]:
            secret = volume.get("secret", {}).get("secretName", "sluice-tokens")
            assert re.search(rf"create secret (generic|tls) {re.escape(secret)} ", page), f"{where}: {secret}"
    assert "create secret generic sluice-worker-qwen3-8b " in page
