"""The chart, rendered by Helm's own program, and ways to look at what it renders."""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "sluice"
EXAMPLES = {"default": CHART / "values.yaml", **{path.stem: path for path in (CHART / "examples").glob("*.yaml")}}
HELM = str(Path(sys.executable).with_name("helm"))  # the package helm-binary puts it there

Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm; give how it ended and what it said."""
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def render(*values: str) -> tuple[Object, ...]:
    """Give what the chart renders under the name of release `s`, in namespace `llm`, with those files of values."""
    files = [word for path in values for word in ("--values", path)]
    done = helm("template", "s", str(CHART), "--namespace", "llm", *files)
    assert done.returncode == 0, done.stderr
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def example(name: str) -> tuple[Object, ...]:
    """Give what one of the value files renders."""
    return render(str(EXAMPLES[name]))


def refusal(folder: Path, **values: Any) -> str:
    """Give the words with which the chart refuses *values*; it must refuse them."""
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = helm("template", "s", str(CHART), "--values", str(path))
    assert done.returncode != 0, f"{values} were taken:\n{done.stdout[:500]}"
    return done.stderr.replace(str(CHART), "CHART").strip()


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    """Give the one object of that kind and name."""
    (found,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pod_templates(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Give every pod template with a name of where it stands."""
    for each in of_kind(objects, "Deployment", "StatefulSet", "Job"):
        yield f"{each['kind']}/{each['metadata']['name']}", each["spec"]["template"]
    for each in of_kind(objects, "LeaderWorkerSet"):
        for part in ("leaderTemplate", "workerTemplate"):
            yield f"LeaderWorkerSet/{each['metadata']['name']}/{part}", each["spec"]["leaderWorkerTemplate"][part]


def containers(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Give every container, those that run at the start included, with a name of where it stands."""
    for where, template in pod_templates(objects):
        for each in (*template["spec"].get("initContainers", []), *template["spec"]["containers"]):
            yield f"{where}/{each['name']}", each


def variables(container: Object) -> dict[str, Any]:
    """Give a container's variables: values, or where they come from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Tell whether a selector with matchLabels and expressions of In chooses what has *labels*."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", []))
