"""How many workers meet a goal: fewer and fewer runs apart, until one less does not."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway.planner.clairvoyant import engine_s
from gateway.planner.fleet import Size
from gateway.planner.load import Request
from gateway.planner.quantities import Goal
from gateway.planner.report import goal_value, meets
from gateway.planner.simulation import Plan, Simulation
from gateway.planner.stories import Story

WORKERS_MAX = 4096


def workers_needed(
    requests: Sequence[Request], plan: Plan, goal: Goal, progress: Callable[[str, float], None] = lambda *_: None
) -> int | None:
    """
    Find the least number of workers, ready from the beginning, that meets *goal*; None if WORKERS_MAX do not.

    It doubles from what the work alone needs, then halves the gap. *progress* is told what is tried, and how far it is.
    """
    met = first = min(max(1, math.floor(_busy_workers(requests, plan))), WORKERS_MAX)
    failed = 0
    while not _is_met(requests, plan, goal, met, progress):
        if met >= WORKERS_MAX:
            return None
        failed, met = met, min(2 * met, WORKERS_MAX)
    failed = 0 if met == first else failed
    while met - failed > 1:
        middle = (met + failed) // 2
        if _is_met(requests, plan, goal, middle, progress):
            met = middle
        else:
            failed = middle
    return met


def _busy_workers(requests: Sequence[Request], plan: Plan) -> float:
    """Count the workers that the load keeps busy on average."""
    length_s = max(requests[-1].at_s - requests[0].at_s, 1.0)
    return sum(engine_s(one, plan.pace) for one in requests) / length_s


def _is_met(
    requests: Sequence[Request], plan: Plan, goal: Goal, workers: int, progress: Callable[[str, float], None]
) -> bool:
    """Simulate *workers*, as far as it takes to know that the goal is missed."""
    misses_max = _misses_max(len(requests), goal)
    missed = 0

    def is_missed(story: Story) -> bool:
        nonlocal missed
        missed += goal_value(story, goal) >= goal.limit_s
        return missed > misses_max

    fixed = replace(plan, size=Size(workers=workers))
    course = Simulation(requests, fixed, lambda part: progress(f"{workers} workers", part)).run(is_missed)
    return missed <= misses_max and meets(course.stories, goal)


def _misses_max(requests: int, goal: Goal) -> float:
    """Count how many requests may miss the limit; of a mean any number may."""
    return math.inf if goal.quantile is None else requests - math.ceil(goal.quantile * requests)
