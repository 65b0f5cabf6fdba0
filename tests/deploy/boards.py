"""Grafana's dashboards as data: their panels, and the queries as Prometheus is to be asked."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "helm/sluice/files/dashboards").glob("*.json"))
# What Grafana puts in for its variables.
_VARIABLES = {"$__rate_interval": "10s", "$__range": "1m", "$pool": ".*", "$model": ".*", "$worker": ".*"}


def panels(path: Path) -> Iterator[dict]:
    """Give the panels that show something."""
    yield from (panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row")


def queries() -> Iterator[tuple[str, str]]:
    """Give every query of every panel, with a name of where it stands."""
    for path in BOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']} {target['refId']}", plain(target["expr"])


def plain(query: str) -> str:
    """Put Grafana's variables in."""
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def metrics(query: str) -> set[str]:
    """Name the metrics of Sluice in a query."""
    return set(re.findall(r"\bsluice_[a-z_]+", query))
