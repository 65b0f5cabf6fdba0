"""Every panel's query is put to a Prometheus that watches a real gateway under load, and shows something."""

import json
import re
import threading
import time

import httpx
import pytest
import yaml

from tests.deploy.boards import BOARDS, metrics, panels, queries
from tests.deploy.declared import declare
from tests.deploy.test_rules import RULES, rules
from tests.servers.installation import Installation
from tests.servers.prometheus_server import PrometheusServer
from tests.tidy.source import modules, text

# Of these there are series only once something has gone wrong, or has waited for long.
RARE = {
    *("sluice_queue_eta_error_ratio_sum", "sluice_queue_eta_error_ratio_count", "sluice_worker_failures_total"),
    *("sluice_placement_waiting_requests", "sluice_budget_alerts_total"),
    *("sluice_reconcile_residue_tokens", "sluice_reconcile_residue_ratio"),
}
SUFFIXES = re.compile(r"_(total|bucket|sum|count|created)$")


def test_metrics_of_dashboards_and_rules_exist():
    known = {
        SUFFIXES.sub("", name) for path in modules("gateway") for name in re.findall(r'"(sluice_[a-z_]+)"', text(path))
    }
    asked = {name for _, query in queries() for name in metrics(query)}
    asked |= {name for rule in rules() for name in metrics(rule["expr"])}
    assert len(asked) > 30
    assert {name for name in asked if SUFFIXES.sub("", name) not in known} == set()


def test_recorded_series_that_are_asked_for_are_recorded():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    every = [query for _, query in queries()] + [rule["expr"] for rule in rules()]
    asked = {name for query in every for name in re.findall(r"sluice:[\w:]+", query)}
    assert asked == recorded


def test_no_panel_and_no_rule_asks_by_tenant():
    whole = " ".join(query for _, query in queries()) + yaml.safe_dump(rules())
    assert not re.search(r"tenant|api_key|user", whole)


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path):
    board = json.loads(path.read_text())
    assert board["uid"] == f"sluice-{path.stem}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    cells = [cell for panel in board["panels"] for cell in _cells(**panel["gridPos"])]
    assert len(cells) == len(set(cells)), "panels lie over one another"
    for panel in panels(path):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["targets"]


def _cells(x, y, w, h):
    return ((column, row) for column in range(x, x + w) for row in range(y, y + h))


@pytest.fixture
def watched(tmp_path, redis_url):
    """A gateway with a simulated worker, some load, and a Prometheus that watches both."""
    place = Installation(tmp_path, redis_url=redis_url)
    gateway = place.add_gateway()
    place.add_worker("sim").wait_ready(120)
    jobs = {
        "sluice": [{"targets": [gateway.url.removeprefix("http://")]}],
        "sluice-engine": [
            {"targets": [worker["url"].removeprefix("http://")], "labels": {"worker": worker["worker"], "pool": "tiny"}}
            for worker in gateway.workers()
        ],
    }
    prometheus = PrometheusServer(tmp_path / "prometheus", jobs, RULES)
    prometheus.start()
    ended = threading.Event()
    load = threading.Thread(target=_load, args=(gateway.url, declare(place), ended))
    load.start()
    yield prometheus
    ended.set()
    load.join()
    prometheus.kill()
    place.close()


def _load(url, key, ended):
    """Ask, in a stream and at once, and now and then with what is refused, until it is *ended*."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Tell me of the sluice. " * 20}], "max_tokens": 8}
    with httpx.Client(base_url=f"{url}/v1", timeout=30) as http:
        while not ended.wait(0.2):
            for is_stream in (True, False):
                bearer = {"authorization": f"Bearer {key}"}
                http.post("/chat/completions", json={**body, "stream": is_stream}, headers=bearer)
            http.post("/chat/completions", json=body, headers={"authorization": "Bearer sk-sluice-nobody"})


@pytest.mark.prometheus
@pytest.mark.redis
def test_every_panel_shows_something_of_a_gateway_under_load(watched):
    missing = dict(queries())
    deadline = time.monotonic() + 90
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        answers = {where: watched.ask(query) for where, query in missing.items()}
        assert {where: error for where, (error, _) in answers.items() if error} == {}
        missing = {where: missing[where] for where, (_, series) in answers.items() if not series}
        missing = {where: query for where, query in missing.items() if not metrics(query) & RARE}
    assert missing == {}
    assert {rule["name"]: rule["lastError"] for rule in watched.rules() if rule.get("lastError")} == {}
    assert {rule["name"] for rule in watched.rules() if rule.get("state") == "firing"} == set()
