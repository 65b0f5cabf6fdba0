"""`sluice plan`: figures with stable names, a picture, and one clear sentence for each thing that is wrong."""

import json
import re
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import InvalidInput

SMALL = ("--rps", "4", "--for", "1m", "--workers", "1", "--max-num-seqs", "8", "--spike", "8x@20s+15s")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def plan(*options):
        done = CliRunner().invoke(app, ["plan", *options])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return plan


def test_the_figures_have_their_names_and_add_up(run):
    done = run(*SMALL, "--tenant", "a=1", "--tenant", "b=1:interactive", "--patience", "20s", "--format", "json")
    figures = json.loads(done.stdout)
    assert figures["seed"] == 1
    assert figures["lost"] == 0
    assert figures["served"] + figures["refused"] + figures["hung_up"] == figures["requests"] > 400
    assert {"p50", "p95", "p99"} <= figures["wait_s"].keys()
    assert {"mean", "p50", "p99"} <= figures["ttft_s"].keys()
    assert figures["workers_needed"] > 1
    assert figures["goal"] == "p95 wait < 10s"
    assert set(figures["by_tenant"]) == {"a", "b"}
    assert sum(group["requests"] for group in figures["by_class"].values()) == figures["requests"]
    assert figures["by_tenant"]["b"]["wait_s"]["p95"] < figures["by_tenant"]["a"]["wait_s"]["p95"]


def test_the_same_seed_prints_the_same_and_another_does_not(run):
    first, again, other = (run(*SMALL, "--format", "json", "--seed", seed).stdout for seed in ("7", "7", "8"))
    assert first == again != other


def test_people_get_a_table_and_an_answer(run):
    text = run(*SMALL).stdout
    assert re.search(r"all +\d+ ", text)
    assert re.search(r"Goal p95 wait < 10s: missed; \d+ workers, always ready, meet it\.", text)


def test_a_trace_is_planned_and_drawn(run, tmp_path):
    lines = (f'{{"timestamp": {300 * n}, "input_length": 900, "output_length": 80}}\n' for n in range(400))
    (tmp_path / "trace.jsonl").write_text("".join(lines))
    done = run("--trace", "trace.jsonl", "--workers", "2", "--picture", "plan.svg", "--format", "json")
    assert json.loads(done.stdout)["requests"] == 400
    drawing = ET.parse(tmp_path / "plan.svg").getroot()
    words = " ".join(element.text or "" for element in drawing.iter("{http://www.w3.org/2000/svg}text"))
    assert "trace.jsonl" in words
    assert "400 requests: 400 served" in words
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) == 6


def test_policies_are_compared_on_a_trace_that_knows_its_prefixes(run, tmp_path):
    rows = [
        {"timestamp": 500 * n, "input_length": 2048, "output_length": 20, "hash_ids": [0, 1 + n % 5, 100 + n % 5, n]}
        for n in range(200)
    ]
    trace = tmp_path / "talk.jsonl"
    trace.write_text("\n".join(json.dumps(row) for row in rows))
    shares = {}
    for policy in ("sluice", "random"):
        options = ("--speed", "2", "--workers", "4", "--gateways", "3", "--policy", policy, "--format", "json")
        figures = json.loads(run("--trace", str(trace), *options).stdout)
        assert figures["served"] == 200
        assert figures["length_s"] < 60, "twice as fast"
        assert figures["workers_needed"] is None, "no goal was given"
        shares[policy] = figures["cached_share"]
    assert shares["sluice"] > shares["random"]


def test_workers_that_start_on_demand_cost_fewer_worker_hours(run):
    load = ("--rps", "2", "--for", "15m", "--spike", "15x@2m+1m", "--max-num-seqs", "8", "--format", "json")
    fixed = json.loads(run(*load, "--workers", "20").stdout)
    scaled = json.loads(run(*load, "--workers", "2", "--workers-max", "20", "--cold-start", "30s").stdout)
    assert scaled["worker_hours"] < fixed["worker_hours"]
    assert scaled["workers_most"] == 20
    assert scaled["wait_s"]["p95"] > fixed["wait_s"]["p95"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "A plan needs one load: --trace FILE, --rps NUMBER or --users NUMBER; there is neither."),
        (("--rps", "1", "--users", "5"), "there is --rps and --users"),
        (("--rps", "0"), "--rps is 0; it must be above 0"),
        (("--users", "-3"), "--users is -3; it must be above 0"),
        (("--rps", "nan"), "--rps is nan; it must be above 0"),
        (("--rps", "1", "--workers", "0"), "--workers is 0; a pool needs at least 1, or 0 with --workers-max"),
        (("--rps", "1", "--workers", "5", "--workers-max", "2"), "--workers-max is 2, less than the 5 of --workers"),
        (("--rps", "1", "--workers", "5000"), "takes 4,096 workers at most"),
        (("--rps", "1", "--for", "soon"), "--for is 'soon'; it must be a duration"),
        (("--rps", "1", "--for", "0s"), "--for is 0; it must be above 0"),
        (("--rps", "1", "--goal", "quick"), "--goal is 'quick'; it must be such as"),
        (("--rps", "1", "--inter-token-ms", "0"), "--inter-token-ms is 0; it must be above 0"),
        (("--rps", "1", "--tenant", "a=1", "--tenant", "a=2"), "--tenant names 'a' twice"),
        (("--rps", "1", "--tenant", "a=0"), "at least one share must be above 0"),
        (("--rps", "0.0001", "--for", "1s"), "Nobody comes at this rate within this time"),
        (("--rps", "1", "--policy", "sluice"), "--policy needs a --trace that says which prompts begin alike"),
        (("--rps", "1", "--policy", "best"), "There is no routing policy 'best'. Choose one of sluice, round_robin"),
        (("--rps", "1", "--speed", "0"), "--speed is 0; it must be above 0"),
        (("--trace", "nowhere.csv"), "The trace nowhere.csv cannot be read: No such file or directory"),
        (("--rps", "1", "--for", "9s", "--picture", "no/where.svg"), "The picture no/where.svg cannot be written"),
    ],
)
def test_what_is_wrong_is_one_clear_sentence(run, options, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        run(*options)
