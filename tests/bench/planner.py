"""
What the queue's policy does, in virtual time: fairness, a quiet tenant beside a flooder, goodput under overload.

No wall time and no sockets, so the figures are the same on every machine. Beside each figure stands what it is of.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from statistics import mean

from gateway.core.scheduling import LineBounds
from gateway.planner.clairvoyant import bound, engine_s
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Crowd, Lengths, Load, Request, draw_load, populate
from gateway.planner.quantities import Share
from gateway.planner.report import percentile
from gateway.planner.simulation import Course, Plan, Simulation
from gateway.planner.stories import Ending
from tests.core.fairness import Margins, play

RUNS = 1  # of many, each would be the same
SCHEDULES, PART = 1_000_000, 10_000
PACE = Pace(max_num_seqs=64)
OVERLOAD, OVERLOAD_S, PATIENCE_S = 2.2, 1200.0, 30.0


def measure(_: Path) -> dict[str, float]:
    """Run the benchmark; ranges are 0, since nothing is left to chance."""
    figures = fairness() | token_shares() | quiet_tenant() | overload()
    return figures | {f"{name}_range": 0.0 for name in figures}


def fairness(schedules: int = SCHEDULES) -> dict[str, float]:
    """Play random schedules; 1 would be at the bound."""
    parts = [range(start, min(start + PART, schedules)) for start in range(0, schedules, PART)]
    margins = Margins()
    with ProcessPoolExecutor(cpu_count()) as pool:
        for part in pool.map(play, parts):
            margins.include(part)
    return {
        "schedules": schedules,
        "fairness_tenants_of_bound": margins.tenants,
        "fairness_users_of_bound": margins.users,
        "fairness_classes_of_bound": margins.classes,
    }


def token_shares(length_s: float = 600.0, settled_s: float = 100.0) -> dict[str, float]:
    """Let a tenant of long prompts and one of short ones overload a worker; give the ratio of what they got."""
    long = stream("long", Load(rps=40, length_s=length_s, lengths=Lengths(prompt_tokens=4000)))
    short = stream("short", Load(rps=80, length_s=length_s, lengths=Lengths(prompt_tokens=200)), seed=2)
    course = Simulation(merged(long, short), plan(1, LineBounds(waiting_max=6000, tenant_share=0.6))).run()
    work = dict.fromkeys(("long", "short"), 0)
    for story in course.stories:
        if story.sent_s is not None and settled_s < story.sent_s < length_s:
            work[story.request.tenant] += story.request.work
    return {"long_prompts_tokens_over_short": work["long"] / work["short"]}


def quiet_tenant() -> dict[str, float]:
    """Let a tenant come alone, and beside one that asks a hundred times as much, which is more than the pool can do."""
    figures = {}
    for workers, prompt_tokens, rps, length_s in ((4, 1000, 0.5, 900), (4, 4000, 0.5, 900), (16, 1000, 2.0, 300)):
        lengths = Lengths(prompt_tokens=prompt_tokens)
        quiet = stream("quiet", Load(rps=rps, length_s=length_s, lengths=lengths))
        flood = stream("flood", Load(rps=100 * rps, length_s=length_s), seed=2)
        pool = plan(workers, LineBounds(waiting_max=2000, tenant_share=0.9))
        alone, beside = (Simulation(requests, pool).run() for requests in (quiet, merged(quiet, flood)))
        name = f"quiet_ttft_p99_{workers}_workers_{prompt_tokens}_tokens"
        figures |= {f"{name}_s": ttft_p99(beside), f"{name}_over_solo": ttft_p99(beside) / ttft_p99(alone)}
    return figures


def overload() -> dict[str, float]:
    """Overload a worker with people who hang up: what got served by the load's end, over the clairvoyant bound."""
    seconds_each = mean(engine_s(one, PACE) for one in stream("", Load(rps=10, length_s=1000)))
    load = Load(rps=OVERLOAD / seconds_each, length_s=OVERLOAD_S)
    crowd = Crowd(shares=[Share(f"tenant-{number}", 1) for number in range(20)], patience_s=PATIENCE_S)
    requests = populate(draw_load(load, 1), crowd, 1)
    course = Simulation(requests, plan(1, LineBounds(waiting_max=100_000))).run()
    done = [one.request for one in course.stories if one.ending is Ending.SERVED and (one.ended_s or 0) <= OVERLOAD_S]

    def of_bound(value: Callable[[Request], float]) -> float:
        return sum(map(value, done)) / bound(requests, PACE, 1, value, OVERLOAD_S)

    return {
        "overload_requests": len(requests),
        "goodput_engine_time_of_clairvoyant": of_bound(lambda one: engine_s(one, PACE)),
        "goodput_output_tokens_of_clairvoyant": of_bound(lambda one: one.output_tokens),
        "goodput_requests_of_clairvoyant": of_bound(lambda _: 1.0),
        "engine_time_wasted": course.engine_wasted_s / course.engine_busy_s,
    }


def plan(workers: int, bounds: LineBounds) -> Plan:
    return Plan(size=Size(workers=workers), pace=PACE, bounds=bounds)


def stream(tenant: str, load: Load, seed: int = 1) -> list[Request]:
    return [replace(one, tenant=tenant) for one in draw_load(load, seed)]


def merged(*streams: Sequence[Request]) -> list[Request]:
    return sorted((one for requests in streams for one in requests), key=lambda one: one.at_s)


def ttft_p99(course: Course) -> float:
    """Give the 99th percentile of the quiet tenant's TTFT, of whose requests none may be missing."""
    quiet = [story for story in course.stories if story.request.tenant == "quiet"]
    assert all(story.ending is Ending.SERVED for story in quiet), "the quiet tenant is served whatever the other does"
    return percentile(sorted(story.ttft_s or 0.0 for story in quiet), 0.99)
