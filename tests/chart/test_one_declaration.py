"""What the chart's values say is what gateways, workers and Kubernetes are told: the same names, the same figures."""

import json
import re

import pytest
import typer
import yaml

from gateway.cli import app
from gateway.control.pool_file import POOL_FIELDS, read_pool_file
from gateway.settings import Settings, load_settings
from tests.chart.rendered import CHART, EXAMPLES, containers, example, named, of_kind, pod_templates, render, variables
from tests.chart.settings_schema import SCHEMA, settings_schema

pytestmark = pytest.mark.helm
SECRETS = {"SLUICE_REDIS_URL": "redis://:secret@redis:6379/0"}  # what must have a form


def test_the_schema_of_the_settings_is_that_of_the_gateway():
    """On failure, run `python -m tests.chart.settings_schema`: a setting was added or changed."""
    assert json.loads(SCHEMA.read_text())["$defs"]["settings"] == settings_schema()


def test_every_setting_reaches_the_gateway_as_it_was_said(tmp_path):
    """Large numbers too, which Helm is fond of writing as 8e+06; and no variable overrides any."""
    said = _defaults(settings_schema(), Settings().model_dump(mode="json"))
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"gateway": {"settings": said}}))
    assert _defaults(settings_schema(), _settings(render(str(path)), tmp_path).model_dump(mode="json")) == said


def _defaults(schema, values):
    """Give those of *values* that the schema knows."""
    return {
        name: _defaults(part, values[name]) if "properties" in part else values[name]
        for name, part in schema["properties"].items()
        if values[name] is not None
    }


def _settings(objects, folder):
    """Read the settings as a gateway of the chart does; what comes from secrets is put in."""
    config = folder / "sluice.yaml"
    config.write_text(_config(objects))
    (gateway,) = (each for where, each in containers(objects) if where.endswith("-gateway/gateway"))
    given = {name: value for name, value in variables(gateway).items() if name.startswith("SLUICE_")}
    environ = {name: value if isinstance(value, str) else SECRETS.get(name, "secret") for name, value in given.items()}
    assert environ["SLUICE_CONFIG"] == "/etc/sluice/sluice.yaml"
    return load_settings({**environ, "SLUICE_CONFIG": str(config)})


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_gateway_takes_what_it_is_given(name, tmp_path):
    settings = _settings(example(name), tmp_path)
    assert (settings.host, settings.port, str(settings.home)) == ("0.0.0.0", 8080, "/var/lib/sluice")
    values = yaml.safe_load(EXAMPLES[name].read_text())
    assert settings.drain_s == values.get("gateway", {}).get("settings", {}).get("drain_s", 120)


def test_the_schema_of_a_pool_is_that_of_the_file():
    fields = set(json.loads(SCHEMA.read_text())["$defs"]["pool"]["properties"])
    assert fields == {*POOL_FIELDS, "kubernetes"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pools_of_sluice_yaml_are_those_that_run(name):
    objects = example(name)
    pools = _declared(objects).pools
    running = of_kind(objects, "LeaderWorkerSet") + [
        each for each in of_kind(objects, "Deployment") if "sluice/pool" in each["metadata"]["labels"]
    ]
    assert {each["metadata"]["labels"]["sluice/pool"] for each in running} == pools.keys()
    for each in running:
        pool = pools[each["metadata"]["labels"]["sluice/pool"]]
        assert each["spec"].get("replicas", pool.workers_min) == pool.workers_min


def test_the_scaler_has_the_bounds_of_the_file():
    objects = example("ha")
    for pool in _declared(objects).pools.values():
        scaled = named(objects, "ScaledObject", f"s-sluice-{pool.name}")["spec"]
        assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (pool.workers_min, pool.workers_max)
        assert scaled.get("cooldownPeriod") == (pool.idle_s if pool.workers_min == 0 else None)
        assert scaled["triggers"][0]["metadata"]["pool"] == pool.name
        host, port = scaled["triggers"][0]["metadata"]["scalerAddress"].split(":")
        service = named(objects, "Service", host.split(".")[0])
        assert str(service["spec"]["ports"][0]["port"]) == port


def _declared(objects):
    file = read_pool_file(_config(objects).encode(), "sluice.yaml")
    assert file.findings == ()
    return file


def _config(objects):
    (config,) = (each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].endswith("sluice-config"))
    return config["data"]["sluice.yaml"]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "default"])
def test_the_workers_commands_are_calls_of_the_verb(name):
    """Parsed by the verb itself, they name their pool, its model, and gateways that the chart renders."""
    objects = example(name)
    declared = _declared(objects).pools
    hosts = {each["metadata"]["name"] for each in of_kind(objects, "Service")}
    seen = set()
    for arguments in _arguments(objects, "worker"):
        options = _parse(arguments)
        pool = declared[options["pool"]]
        assert (options["model"], tuple(options["served_name"])) == (pool.model, pool.serves)
        assert options["drain_s"] == pool.drain_s
        assert {url.split("//")[1].split(":")[0].split(".")[-1] for url in options["gateway"]} <= hosts
        seen.add(pool.name)
    assert seen == declared.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_all_other_commands_are_calls_of_verbs_too(name):
    for verb in ("serve", "migrate", "scale", "apply"):
        for arguments in _arguments(example(name), verb):
            _parse(arguments)


def _arguments(objects, verb):
    """Give the arguments of every container that runs that verb of `sluice`."""
    for _, template in pod_templates(objects):
        for each in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            if each.get("args", [""])[0] == verb:
                yield each["args"]


def _parse(arguments):
    """Have the command line read the words; it exits at what it does not know."""
    command, words = typer.main.get_command(app), list(arguments)
    while hasattr(command, "get_command") and not words[0].startswith("-"):
        command = command.get_command(None, words.pop(0))
    words = [word.replace("$(POD_NAME)", "w-1").replace("$(POD_IP)", "10.0.0.1") for word in words]
    words = [re.sub(r"=/etc/sluice-.*", f"={__file__}", word) for word in words]  # a file that exists
    return command.make_context(command.name, words).params


def test_the_nodes_of_an_engine_run_one_command_and_the_leader_is_the_last_to_lose_one():
    """LeaderWorkerSet's own variables tell each which it is; a follower stays for as long as the leader may drain."""
    group = named(example("multi-node"), "LeaderWorkerSet", "s-sluice-qwen3-235b")["spec"]["leaderWorkerTemplate"]
    (leader,), (follower,) = (group[part]["spec"]["containers"] for part in ("leaderTemplate", "workerTemplate"))
    assert leader["args"] == follower["args"]
    options = _parse(leader["args"])
    assert (options["tensor_parallel_size"], options["pipeline_parallel_size"]) == (8, 2)
    assert leader["resources"]["limits"]["nvidia.com/gpu"] * group["size"] == 16
    assert "ports" not in follower
    assert follower["lifecycle"]["preStop"]["sleep"]["seconds"] == options["drain_s"]
    graces = {group[part]["spec"]["terminationGracePeriodSeconds"] for part in ("leaderTemplate", "workerTemplate")}
    assert min(graces) > options["drain_s"]


def test_the_hub_and_its_token_reach_the_worker(tmp_path):
    hub = {"endpoint": "https://hub.example.com", "tokenSecret": "hub"}
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"pools": {"p": {"model": "acme/private"}}, "worker": {"hub": hub}}))
    (worker,) = (each for where, each in containers(render(str(path))) if where.endswith("/worker"))
    given = variables(worker)
    assert given["SLUICE_HUB__ENDPOINT"] == "https://hub.example.com"
    assert given["SLUICE_HUB__TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_adapters_and_revisions_reach_the_worker(tmp_path):
    pool = {"model": "acme/base", "revision": "v2", "adapters": {"legal": "acme/legal", "medical": "/models/medical"}}
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"pools": {"p": pool}}))
    (arguments,) = _arguments(render(str(path)), "worker")
    options = _parse(arguments)
    assert (options["revision"], options["adapter"]) == ("v2", ["legal=acme/legal", "medical=/models/medical"])


def test_the_version_of_the_chart_is_that_of_the_package():
    project = (CHART.parents[1] / "pyproject.toml").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'version = "{chart["appVersion"]}"' in project
