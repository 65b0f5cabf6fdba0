"""The chart is sound to Helm's own eyes, and every object it renders is one that Kubernetes would take."""

import re
import shutil

import pytest
import yaml

from tests.chart.kinds import VERSIONS, flaws, own_kinds
from tests.chart.rendered import CHART, EXAMPLES, example, helm, named, of_kind, pod_templates, render

pytestmark = pytest.mark.helm


@pytest.mark.parametrize("name", EXAMPLES)
def test_lint_finds_nothing(name):
    done = helm("lint", "--strict", str(CHART), "--values", str(EXAMPLES[name]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_object_is_valid(name, version):
    assert [flaw for each in example(name) for flaw in flaws(each, version)] == []


def test_the_versions_that_are_promised_are_those_that_are_tried():
    assert f">={VERSIONS[0]}." in (CHART / "Chart.yaml").read_text()
    page = (CHART.parents[1] / "docs/operators/install.md").read_text()
    assert f"From version {VERSIONS[0]} on" in page
    assert f"Kubernetes {VERSIONS[0]} to {VERSIONS[-1]}" in page


def test_a_field_that_does_not_exist_is_seen_in_kubernetes_kinds_and_in_our_own():
    """The validation itself is not blind."""
    deployment = {**of_kind(example("ha"), "Deployment")[0]}
    deployment["spec"] = {**deployment["spec"], "replica": 2}
    scaled = {**of_kind(example("ha"), "ScaledObject")[0]}
    scaled["spec"] = {**scaled["spec"], "triggers": [{"type": "external-push", "metadata": {"pool": "p"}}]}
    assert any("replica" in flaw for flaw in flaws(deployment, VERSIONS[-1]))
    assert any("scalerAddress" in flaw for flaw in flaws(scaled, VERSIONS[-1]))


def test_the_examples_render_every_foreign_kind_that_there_is_a_schema_for():
    rendered = {each["kind"] for name in EXAMPLES for each in example(name)}
    assert own_kinds() <= rendered


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_two_objects_have_one_name(name):
    names = [(each["kind"], each["metadata"]["name"]) for each in example(name)]
    assert len(names) == len(set(names))


def test_the_trial_needs_nothing_that_is_not_in_it():
    """Every Secret, ConfigMap and claim that it names is one that it renders."""
    objects = example("trial")
    made = {each["metadata"]["name"] for each in of_kind(objects, "Secret", "ConfigMap", "PersistentVolumeClaim")}
    named_there = {value for each in objects for value in _references(each)}
    assert named_there
    assert named_there <= made


def _references(node, key=""):
    """Give the names that an object's references hold."""
    if isinstance(node, dict):
        if key in ("secretKeyRef", "configMap", "secretRef", "configMapRef"):
            yield node["name"]
        if key == "persistentVolumeClaim":
            yield node["claimName"]
        for name, value in node.items():
            yield from _references(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_a_new_version_of_the_chart_alone_restarts_nobody(tmp_path):
    """Engines take minutes to start: only what they run may end them."""
    copy = tmp_path / "sluice"
    shutil.copytree(CHART, copy)
    chart = copy / "Chart.yaml"
    chart.write_text(re.sub(r"^version: .*", "version: 9.9.9", chart.read_text(), flags=re.MULTILINE))
    done = helm("template", "s", str(copy), "--namespace", "llm", "--values", str(EXAMPLES["ha"]))
    assert "sluice-9.9.9" in done.stdout
    after = tuple(each for each in yaml.safe_load_all(done.stdout) if each)
    assert dict(pod_templates(after)) == dict(pod_templates(example("ha")))


def test_gateways_restart_for_settings_and_not_for_pools(tmp_path):
    def template(**values):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(values))
        return dict(pod_templates(render(str(path))))["StatefulSet/s-sluice-gateway"]

    assert template(pools={"p": {"model": "acme/base"}}) == template()
    assert template(gateway={"settings": {"queue": {"waiting_max": 5}}}) != template()


def test_the_notes_say_the_first_commands(tmp_path):
    """Helm shows notes only to a cluster: a copy of the chart puts them into an object."""
    copy = tmp_path / "sluice"
    shutil.copytree(CHART, copy)
    (copy / "templates" / "probe.yaml").write_text('kind: Notes\ntext: {{ include "sluice.notes" . | toJson }}\n')
    done = helm("template", "s", str(copy), "--values", str(EXAMPLES["trial"]), "-s", "templates/probe.yaml")
    notes = yaml.safe_load(done.stdout)["text"]
    assert "sluice tenants create acme" in notes
    assert "sluice keys create --tenant acme" in notes
    assert '"model": "qwen3-0.6b"' in notes


def test_autoscaled_gateways_are_scaled_by_what_they_feel():
    scaler = named(example("ha"), "HorizontalPodAutoscaler", "s-sluice-gateway")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s-sluice-gateway"}
    metrics = {each["pods"]["metric"]["name"] for each in scaler["metrics"]}
    assert metrics == {"sluice_loop_lag_seconds", "sluice_in_flight_requests"}
    assert "replicas" not in named(example("ha"), "StatefulSet", "s-sluice-gateway")["spec"]
