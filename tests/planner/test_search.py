"""How many workers a goal takes: the number found meets it, and one less does not."""

import pytest

from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Lengths, Load, Request, draw_load
from gateway.planner.quantities import Spike, parse_goal
from gateway.planner.report import meets
from gateway.planner.search import workers_needed
from gateway.planner.simulation import Plan, Simulation

PLAN = Plan(size=Size(workers=1), pace=Pace(max_num_seqs=8))


@pytest.fixture(scope="module")
def requests():
    lengths = Lengths(prompt_tokens=400, output_tokens=60)
    return draw_load(Load(rps=10, length_s=120, lengths=lengths, spike=Spike(10, 30, 20)), seed=1)


@pytest.mark.parametrize("text", ["p95 wait < 5s", "p50 wait < 100ms", "p99 ttft < 2s", "mean wait < 1s"])
def test_the_number_found_meets_the_goal_and_one_less_does_not(requests, text):
    goal = parse_goal(text)
    found = workers_needed(requests, PLAN, goal)

    def is_met_by(workers):
        return meets(Simulation(requests, Plan(size=Size(workers=workers), pace=PLAN.pace)).run().stories, goal)

    assert found > 1
    assert is_met_by(found)
    assert not is_met_by(found - 1)


def test_one_worker_is_enough_for_little():
    assert workers_needed([Request(at_s=0, prompt_tokens=1, output_tokens=1)], PLAN, parse_goal("p99 wait < 1s")) == 1


def test_a_goal_below_what_one_request_alone_takes_is_out_of_reach():
    request = Request(at_s=0, prompt_tokens=40_000, output_tokens=1)
    assert workers_needed([request], PLAN, parse_goal("p50 ttft < 1s")) is None


def test_who_is_refused_counts_as_having_waited_for_ever():
    requests = [Request(at_s=0.01 * n, prompt_tokens=100, output_tokens=50, wait_s_max=1.0) for n in range(1000)]
    found = workers_needed(requests, PLAN, parse_goal("p90 wait < 5s"))
    course = Simulation(requests, Plan(size=Size(workers=found), pace=PLAN.pace)).run()
    assert sum(story.ending.value == "served" for story in course.stories) >= 900
