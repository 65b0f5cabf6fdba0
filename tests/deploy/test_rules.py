"""The rules for Prometheus: sound, each alert proved by what sets it off and what does not, each with its run-book."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.core.outcome import Outcome
from tests.deploy.rule_cases import CASES

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "helm/sluice/files/rules").glob("*.yaml"))
RUNBOOK = ROOT / "docs/operators/runbook.md"


def rules() -> list[dict]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.prometheus
def test_promtool_finds_rules_and_configuration_sound():
    done = promtool("check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "deploy/prometheus").glob("*.yml"):
        done = promtool("check", "config", str(path))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path):
    tests = [_test(name, case, is_firing) for name, case in CASES.items() for is_firing in (True, False)]
    tests.append(_words_of_an_alert())
    path = tmp_path / "rules_test.yaml"
    whole = {"rule_files": list(map(str, RULES)), "evaluation_interval": "1m", "tests": tests}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def _test(name, case, is_firing):
    series = case.does if is_firing else {**case.does, **case.does_not}
    expected = [{"labels": "{}", "value": case.count}] if is_firing else []
    return {
        "name": f"{name} {'fires' if is_firing else 'is quiet'}",
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items() if values],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                "eval_time": f"{case.minutes}m",
                "exp_samples": expected,
            }
        ],
    }


def _words_of_an_alert():
    """One alert to the letter: its labels, and a summary that names the thing and the figure."""
    case = CASES["SluiceSpoolOld"]
    return {
        "name": "the words of an alert",
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in case.does.items()],
        "alert_rule_test": [
            {
                "alertname": "SluiceSpoolOld",
                "eval_time": "10m",
                "exp_alerts": [
                    {
                        "exp_labels": {"instance": "g1", "severity": "warning"},
                        "exp_annotations": {
                            "summary": "The oldest usage on g1 has waited 45s for the database.",
                            "runbook": "docs/operators/runbook.md#sluicespoolold",
                        },
                    }
                ],
            }
        ],
    }


def test_every_alert_is_tried():
    assert CASES.keys() == alerts().keys()


def test_every_alert_has_its_section_in_the_run_book_and_every_section_its_alert():
    sections = set(re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert sections == alerts().keys()
    for name, alert in alerts().items():
        assert alert["annotations"]["runbook"] == f"docs/operators/runbook.md#{name.lower()}"
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"]["summary"].endswith(".")


def test_outcomes_that_rules_name_exist():
    named = {
        label
        for rule in rules()
        for match in re.findall(r'sluice_requests_total\{outcome=~?"([\w|]+)"', rule["expr"])
        for label in match.split("|")
    }
    assert len(named) > 5
    assert named <= {outcome.label for outcome in Outcome}
