"""Scalers in virtual time: ours drains a step within its promise, Kubernetes' goes by its documented rules."""

import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.scheduling import LineBounds
from gateway.errors import InvalidInput
from gateway.planner.caches import BlockCache
from gateway.planner.engine import Engine, Pace
from gateway.planner.engine import Sequence as Answer
from gateway.planner.fleet import Size, Worker
from gateway.planner.load import Crowd, Load, draw_load, populate
from gateway.planner.quantities import Goal, Spike
from gateway.planner.report import Report
from gateway.planner.scalers import CpuMetric, Hpa, Pool, waiting_metric
from gateway.planner.simulation import Plan, Simulation

PACE = Pace(prefill_tokens_per_s=8000, inter_token_s=0.02, max_num_seqs=16)
SIZE = Size(workers=1, workers_max=50, cold_start_s=60)
STEP_S = 100.0


def workers(ready, starting=0):
    return [Worker(n, Engine(PACE), 0.0, BlockCache(0)) for n in range(ready)] + [
        Worker(ready + n, Engine(PACE), 1e9, BlockCache(0)) for n in range(starting)
    ]


def pool(waiting=0, ready=1, starting=0):
    return Pool(waiting=waiting, in_flight=0, backlog_tokens=0, workers=workers(ready, starting))


def test_a_step_of_300_times_is_drained_within_a_start_and_a_minute_without_waste():
    seed = 1
    load = Load(length_s=1000, rps=0.1, spike=Spike(300, STEP_S, 900))
    plan = Plan(size=SIZE, pace=PACE, bounds=LineBounds(tenant_share=1.0), scale="sluice", seed=seed)
    course = Simulation(populate(draw_load(load, seed), Crowd(), seed), plan).run()
    report = Report(course=course, plan=plan, goal=Goal("wait", 0.95, 60.0), workers_needed=None, spike_s=STEP_S)
    figures = report.to_json()
    assert figures["served"] == figures["requests"]
    assert figures["drained_after_s"] <= SIZE.cold_start_s + 60
    assert figures["over_provisioned_share"] <= 0.25
    assert figures["worker_seconds"] > 0


def test_the_autoscaler_looks_every_15_s_and_goes_up_by_4_pods_or_by_as_many_as_there_are():
    hpa = Hpa(SIZE, lambda *_: 40)
    assert hpa.wanted(0, pool(ready=1)) == 5
    assert hpa.wanted(14, pool(ready=5)) == 5
    assert hpa.wanted(15, pool(ready=5)) == 10
    assert hpa.wanted(30, pool(ready=10)) == 20
    assert hpa.wanted(45, pool(ready=30)) == 40


def test_the_autoscaler_goes_down_to_the_highest_recommendation_of_five_minutes():
    asked = iter([10, *[2] * 40])
    hpa = Hpa(SIZE, lambda *_: next(asked))
    assert [hpa.wanted(now_s, pool(ready=10)) for now_s in range(0, 315, 15)] == [10] * 21
    assert hpa.wanted(315, pool(ready=10)) == 2


def test_waiting_requests_are_a_pod_for_each_five_out_of_tolerance():
    assert waiting_metric(0, pool(waiting=300, ready=2)) == 60
    assert waiting_metric(0, pool(waiting=54, ready=10)) == 10, "a ratio of 1.08 is within 0.1"
    assert waiting_metric(0, pool(waiting=0, ready=7)) == 0


def loaded(sequences, ready=1, starting=0):
    """Give a pool whose ready engines have been busy with so many sequences for long."""
    found = pool(ready=ready, starting=starting)
    for worker in found.workers[:ready]:
        worker.in_flight = sequences
        for _ in range(sequences):
            worker.engine.add(Answer(10, 100_000), 0.0)
    return found


def recommended(of):
    metric = CpuMetric(PACE)
    for now_s in (0.0, 15.0, 30.0):
        asked = metric(now_s, of)
    return asked


def test_cpu_hardly_tells_one_sequence_from_a_full_engine():
    assert recommended(loaded(16, ready=4)) == 5, "full: 1 / 0.9"
    assert recommended(loaded(1, ready=4)) == 4, "a sixteenth of the work: within tolerance"
    assert recommended(pool(ready=4)) < 4, "idle"
    assert recommended(loaded(16, ready=4, starting=4)) == 8, "pods that are not ready use nothing: wait for them"


def test_the_command_compares_scalers_and_says_what_is_wrong():
    load = ("--rps", "0.05", "--for", "10m", "--spike", "100x@2m", "--max-num-seqs", "16", "--format", "json")
    done = CliRunner().invoke(app, ["plan", *load, "--workers", "1", "--workers-max", "9", "--scale", "hpa-waiting"])
    figures = json.loads(done.stdout)
    assert figures["workers_most"] == 9
    assert figures["workers_needed"] is None, "no goal was given"
    assert {"worker_seconds", "over_provisioned_share", "drained_after_s"} <= figures.keys()
    for options, said in (
        (["--scale", "best", "--workers-max", "2"], "There is no scaler 'best'. Choose one of sluice, hpa-cpu"),
        (["--scale", "sluice"], "--scale needs --workers-max"),
    ):
        with pytest.raises(InvalidInput, match=said):
            raise CliRunner().invoke(app, ["plan", "--rps", "1", *options]).exception
