"""
The schemas that rendered objects are held to: Kubernetes' own, strict and by version, and ours of foreign resources.

Kubernetes' come with the package kubernetes-validate, whose own function reads a megabyte anew for each object. Those
in crds/ were written for this from the documents of KEDA, the Prometheus operator and LeaderWorkerSet: they know the
fields that the chart uses and refuse any other.
"""

import json
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")

_CRDS = Path(__file__).parent / "crds"
_GROUP = re.compile(r"^([^./]*)(?:\.[^/]*)?/")


def flaws(thing: dict[str, Any], version: str) -> list[str]:
    """List what is wrong with an object, as Kubernetes *version* would have it."""
    validator = _own(thing["kind"]) or _kubernetes(thing["kind"].lower(), thing["apiVersion"], version)
    where = f"{thing['kind']}/{thing['metadata']['name']}"
    return [f"{where} {error.json_path}: {error.message[:200]}" for error in validator.iter_errors(thing)]


def own_kinds() -> set[str]:
    return {path.stem for path in _CRDS.glob("*.json")}


@cache
def _own(kind: str) -> Draft202012Validator | None:
    path = _CRDS / f"{kind}.json"
    return Draft202012Validator(json.loads(path.read_text()), registry=_pods()) if path.exists() else None


@cache
def _kubernetes(kind: str, api_version: str, version: str) -> Draft202012Validator:
    name = f"{kind}-{_GROUP.sub(lambda match: match[1] + '-', api_version)}.json"
    schema = json.loads((_folder(version) / name).read_text())
    return Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry:
    contents = json.loads((_folder(version) / "_definitions.json").read_text())
    return Registry().with_resource(contents["$id"], Resource.from_contents(contents))


@cache
def _pods() -> Registry:
    """Let our own schemas name Kubernetes' pod template."""
    return _definitions(VERSIONS[-1])


def _folder(version: str) -> Any:
    return files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
