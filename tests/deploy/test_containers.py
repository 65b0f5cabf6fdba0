"""
Dockerfiles and compose files, as far as they can be held to something without a daemon of Docker.

Nothing is built here: instructions are read, what they copy is there, commands are calls of the verbs, what is mounted
exists, and every field is one of those that tests/deploy/compose.schema.json knows.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from gateway.cli import app
from gateway.settings import load_settings
from tests.deploy.dockerfile import read, stages

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy/docker").glob("*.Dockerfile"))
COMPOSE = sorted((ROOT / "deploy/compose").glob("*.yaml"))
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
ENVIRON = ("SLUICE_ADMIN_TOKEN", "SLUICE_WORKER_TOKEN", "SLUICE_JOBS__WEBHOOK_SECRET", "POSTGRES_PASSWORD")
ENVIRON = dict.fromkeys((*ENVIRON, "REDIS_PASSWORD", "GRAFANA_PASSWORD"), "secret")


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.name for path in paths])


@by_name(DOCKERFILES)
def test_an_image_runs_without_root_and_its_base_says_its_version(path):
    instructions = read(path)
    bases = [each.words.split("=")[1] for each in instructions if each.name == "ARG"]
    assert bases
    assert all(re.search(r":v?\d+\.\d+\.\d+", base) for base in bases)
    last = {each.name: each.words for each in stages(instructions)[-1]}
    assert last["USER"] == "10001:10001"
    assert json.loads(last["ENTRYPOINT"]) == ["sluice"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    (verb,) = json.loads(last["CMD"])
    assert parse([verb]) is not None


@by_name(DOCKERFILES)
def test_what_an_image_copies_is_there_and_not_ignored(path):
    ignored = (path.parent / f"{path.name}.dockerignore").read_text().splitlines()
    copied = [each.words.split()[:-1] for each in read(path) if each.name == "COPY" and "--from" not in each.words]
    sources = {source for words in copied for source in words}
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources


@by_name(DOCKERFILES)
def test_commands_of_an_image_are_sound_shell(path):
    for each in read(path):
        if each.name == "RUN":
            words = shlex.split(each.words)
            assert words
            assert "sudo" not in words
            assert "curl" not in words  # what is put in comes with hashes, or with the base


def test_the_gateways_image_leaves_the_tools_of_its_build_behind():
    build, final = stages(read(ROOT / "deploy/docker/gateway.Dockerfile"))
    assert any("--require-hashes" in each.words for each in build)
    assert not any("pip install" in each.words for each in final)


def interpolated(text: str, environ: dict[str, str]) -> str:
    """Put variables in as compose does; one that must be there and is not is an error."""

    def put(match):
        name, kind, rest = match.groups()
        if name in environ:
            return environ[name]
        assert kind != "?", f"{name}: {rest}"
        return rest or ""

    return VARIABLE.sub(put, text).replace("$$", "$")


def compose(path: Path) -> dict:
    return yaml.safe_load(interpolated(path.read_text(), ENVIRON))


@by_name(COMPOSE)
def test_a_compose_file_has_no_field_that_is_not_known(path):
    schema = json.loads((Path(__file__).parent / "compose.schema.json").read_text())
    errors = [
        f"{error.json_path}: {error.message[:200]}" for error in Draft202012Validator(schema).iter_errors(compose(path))
    ]
    assert errors == []


@by_name(COMPOSE)
def test_what_services_name_is_there(path):
    whole = compose(path)
    for name, service in whole["services"].items():
        assert set(service.get("depends_on", ())) <= whole["services"].keys(), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in whole["volumes"] or (path.parent / source).resolve().exists(), f"{name}: {source}"
        if "build" in service:
            context = (path.parent / service["build"]["context"]).resolve()
            assert (context / service["build"]["dockerfile"]).is_file()
    for name, needed in (
        (n, s["depends_on"]) for n, s in whole["services"].items() if isinstance(s.get("depends_on"), dict)
    ):
        waited = [one for one, how in needed.items() if how["condition"] == "service_healthy"]
        assert all("healthcheck" in whole["services"][one] for one in waited), name


@by_name(COMPOSE)
def test_no_secret_has_a_default_and_only_the_gateway_listens_beyond_the_host(path):
    for name, kind, _ in VARIABLE.findall(path.read_text()):
        if re.search("PASSWORD|TOKEN|SECRET", name):
            assert kind == "?", name
    for name, service in compose(path)["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


@by_name(COMPOSE)
def test_commands_and_settings_are_those_of_the_verbs(path):
    seen = set()
    for service in compose(path)["services"].values():
        if not service["image"].startswith("sluice/"):
            continue
        options = parse(service["command"])
        own = {name: value for name, value in service.get("environment", {}).items() if name.startswith("SLUICE_")}
        load_settings(own)
        seen.add(service["command"][0])
        if service["command"][0] == "worker":
            assert float(service["stop_grace_period"].removesuffix("s")) > options["drain_s"] + 20
        if service["command"][0] == "serve":
            assert float(service["stop_grace_period"].removesuffix("s")) > float(own["SLUICE_DRAIN_S"]) + 20
    assert seen == {"migrate", "serve", "worker"}


def parse(arguments):
    """Have the command line read the words; it exits at what it does not know."""
    command, words = typer.main.get_command(app), list(arguments)
    while hasattr(command, "get_command") and words and not words[0].startswith("-"):
        command = command.get_command(None, words.pop(0))
    return command.make_context(command.name, words).params


def test_images_have_the_version_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    images = {service["image"] for path in COMPOSE for service in compose(path)["services"].values()}
    versions = {image.split(":")[1] for image in images if image.startswith("sluice/")}
    assert [f'version = "{version}"' in project for version in versions] == [True]


def test_the_two_configurations_of_prometheus_differ_in_targets_alone():
    host, services = (
        yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text()) for name in ("prometheus.yml", "compose.yml")
    )
    text = json.dumps(services).replace("gateway:8080", "127.0.0.1:8080").replace("worker:8000", "127.0.0.1:8000")
    assert json.loads(text) == host
