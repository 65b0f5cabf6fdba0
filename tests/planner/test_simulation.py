"""Virtual time: exact replay, nobody lost, and cases small enough to work out by hand."""

import random
from dataclasses import replace

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import LineBounds
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Crowd, Lengths, Load, Request, draw_load, populate
from gateway.planner.quantities import Share, Spike
from gateway.planner.report import percentile
from gateway.planner.simulation import Plan, Simulation
from gateway.planner.stories import Ending

SMALL = Pace(prefill_tokens_per_s=1000, inter_token_s=0.1, max_num_seqs=1)
ONE_SLOT = Plan(size=Size(workers=1), pace=SMALL, hop_s=0.0)


def burst(seed=1, patience_s=30.0, wait_s_max=60.0):
    load = Load(rps=3, length_s=200, lengths=Lengths(prompt_tokens=400, output_tokens=60), spike=Spike(8, 50, 50))
    shares = (Share("a", 3), Share("b", 1, ServiceClass.INTERACTIVE, 2), Share("c", 1))
    crowd = Crowd(shares=shares, patience_s=patience_s, wait_s_max=dict.fromkeys(ServiceClass, wait_s_max))
    return populate(draw_load(load, seed), crowd, seed)


def plan(workers=2, **fields):
    return Plan(size=Size(workers=workers), pace=Pace(max_num_seqs=8), **fields)


def times(course):
    return [(s.granted_s, s.sent_s, s.first_s, s.ended_s, s.ending, s.expected_s) for s in course.stories]


def count(course, ending):
    return sum(story.ending is ending for story in course.stories)


def waits(course):
    return sorted(story.wait_s for story in course.stories)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_exactly(seed):
    scaled = replace(plan(seed=seed), size=Size(workers=1, workers_max=50, cold_start_s=20))
    first, second = (Simulation(burst(seed), scaled).run() for _ in range(2))
    assert times(first) == times(second)
    assert first.samples == second.samples
    assert times(first) != times(Simulation(burst(seed + 1), scaled).run())


@pytest.mark.parametrize("seed", range(8))
def test_every_request_is_served_refused_or_hung_up_and_none_is_lost(seed):
    dice = random.Random(seed)
    size = Size(workers=dice.randint(0, 2), workers_max=dice.choice((3, 40)), cold_start_s=dice.choice((0.0, 30.0)))
    bounds = LineBounds(waiting_max=dice.choice((5, 100, 10_000)))
    requests = burst(seed, patience_s=dice.choice((3.0, 30.0)), wait_s_max=dice.choice((10.0, 60.0)))
    hop_s = dice.choice((0.0, 0.01))
    simulation = Simulation(requests, replace(plan(seed=seed, bounds=bounds, hop_s=hop_s), size=size))
    course = simulation.run()
    assert len(course.stories) == len(requests)
    assert count(course, Ending.LOST) == 0
    assert sum(count(course, ending) for ending in Ending) == len(requests)
    assert "<VirtualQueue [0 in flight, 0 waiting" in repr(simulation)


def test_three_requests_for_one_slot_wait_as_reckoned_by_hand():
    """A prompt of 100 tokens takes a step of 0.2 s, which gives the first token; two more tokens take 0.1 s each."""
    requests = [Request(at_s=at_s, prompt_tokens=100, output_tokens=3) for at_s in (0.0, 0.1, 0.35)]
    course = Simulation(requests, ONE_SLOT).run()
    assert [story.sent_s for story in course.stories] == pytest.approx([0.0, 0.4, 0.8])
    assert [story.wait_s for story in course.stories] == pytest.approx([0.0, 0.3, 0.45])
    assert [story.ttft_s for story in course.stories] == pytest.approx([0.2, 0.5, 0.65])
    assert course.ended_s == pytest.approx(1.2)
    assert course.engine_busy_s == pytest.approx(1.2)
    assert course.engine_wasted_s == 0


def test_the_more_urgent_class_and_then_the_tenant_that_had_less_goes_first():
    """While the first one runs five come; the flooder's first ticket goes before the quiet one's, the rest after it."""
    comers = (
        ("flood", ServiceClass.STANDARD),
        ("flood", ServiceClass.STANDARD),
        ("flood", ServiceClass.STANDARD),
        ("quiet", ServiceClass.STANDARD),
        ("urgent", ServiceClass.INTERACTIVE),
    )
    requests = [Request(at_s=0.0, prompt_tokens=100, output_tokens=3)]
    for number, (tenant, service_class) in enumerate(comers):
        at_s = 0.1 + number / 100
        requests.append(
            Request(at_s=at_s, prompt_tokens=100, output_tokens=3, tenant=tenant, service_class=service_class)
        )
    course = Simulation(requests, ONE_SLOT).run()
    order = sorted(course.stories[1:], key=lambda story: story.sent_s)
    assert [story.request.tenant for story in order] == ["urgent", "flood", "quiet", "flood", "flood"]


def test_who_loses_patience_leaves_the_line_or_the_engine_and_what_was_computed_is_wasted():
    requests = [
        Request(at_s=0.0, prompt_tokens=1000, output_tokens=3, patience_s=0.5),  # leaves in the middle of its prefill
        Request(at_s=0.1, prompt_tokens=100, output_tokens=3, patience_s=0.2),  # leaves the line
        Request(at_s=0.2, prompt_tokens=100, output_tokens=3, patience_s=5.0),
    ]
    pace = replace(SMALL, max_batched_tokens=300)
    course = Simulation(requests, replace(ONE_SLOT, pace=pace)).run()
    assert [story.ending for story in course.stories] == [Ending.HUNG_UP, Ending.HUNG_UP, Ending.SERVED]
    assert [story.ended_s for story in course.stories[:2]] == pytest.approx([0.5, 0.3])
    assert course.stories[2].sent_s == pytest.approx(0.5)
    assert course.stories[2].first_s == pytest.approx(0.8 + 0.2), "the step of 0.4 s under way goes on to its end"
    assert course.engine_wasted_s == pytest.approx(0.6), "a chunk of 300 tokens that was done, and one under way"


def test_who_would_come_too_late_is_refused_at_once():
    requests = [Request(at_s=0.1 * n, prompt_tokens=100, output_tokens=8, wait_s_max=10.0) for n in range(600)]
    course = Simulation(requests, ONE_SLOT).run()
    refused = [story for story in course.stories if story.ending is Ending.REFUSED]
    assert len(refused) > 300
    assert percentile(sorted(story.ended_s - story.request.at_s for story in refused), 0.5) == 0
    assert max(story.wait_s for story in course.stories if story.ending is Ending.SERVED) <= 10.0


def test_a_full_line_refuses():
    requests = [Request(at_s=0.001 * n, prompt_tokens=10, output_tokens=20) for n in range(10)]
    course = Simulation(requests, replace(ONE_SLOT, bounds=LineBounds(waiting_max=4, tenant_share=1.0))).run()
    assert count(course, Ending.SERVED) == 5
    assert count(course, Ending.REFUSED) == 5


def test_more_workers_never_raise_the_wait():
    requests = burst(patience_s=float("inf"), wait_s_max=float("inf"))
    of_wait = [percentile(waits(Simulation(requests, plan(workers)).run()), 0.95) for workers in (2, 4, 6, 8, 12)]
    assert of_wait == sorted(of_wait, reverse=True)
    assert of_wait[0] > of_wait[-1] == 0


def test_workers_that_start_when_needed_are_ready_after_the_cold_start_and_leave_again():
    requests = burst(patience_s=float("inf"), wait_s_max=float("inf"))
    size = Size(workers=2, workers_max=20, cold_start_s=30)
    late = [Request(at_s=at_s, prompt_tokens=10, output_tokens=10) for at_s in range(200, 1200, 2)]
    course = Simulation([*requests, *late], replace(plan(), size=size)).run()
    fixed = Simulation([*requests, *late], plan(2)).run()
    needed_s = next(sample.at_s for sample in course.samples if sample.waiting)
    grown_s = next(sample.at_s for sample in course.samples if sample.slots > 16)
    assert 29 <= grown_s - needed_s <= 32
    assert percentile(waits(course), 0.95) < percentile(waits(fixed), 0.95)
    assert course.samples[-1].slots == 16
    assert fixed.engine_paid_s == pytest.approx(2 * fixed.ended_s)


def test_a_pool_scaled_to_zero_serves_after_the_cold_start():
    request = Request(at_s=5.0, prompt_tokens=100, output_tokens=2)
    course = Simulation([request], replace(ONE_SLOT, size=Size(workers=0, workers_max=1, cold_start_s=60))).run()
    assert 60 <= course.stories[0].wait_s <= 61


def test_a_prompt_waits_for_a_worker_with_credit_not_in_an_engine():
    """Two steps' prompt tokens may be outstanding at a worker: the third prompt waits until the first has its token."""
    pace = Pace(prefill_tokens_per_s=1000, inter_token_s=0.1, max_num_seqs=8, max_batched_tokens=500)
    requests = [Request(at_s=0.0, prompt_tokens=500, output_tokens=50) for _ in range(3)]
    course = Simulation(requests, replace(ONE_SLOT, pace=pace)).run()
    assert [story.granted_s for story in course.stories] == [0.0, 0.0, 0.0]
    assert [story.sent_s for story in course.stories] == pytest.approx([0.0, 0.0, 0.6])


def test_a_slow_pool_is_no_reason_to_refuse_who_would_be_served_in_time():
    """Two requests a second: in 10 s too few end to tell a rate, and a pause among them must not look like a halt."""
    load = Load(rps=4, length_s=900, lengths=Lengths(prompt_tokens=10_000, output_tokens=350, sigma=1.0))
    requests = populate(draw_load(load, 1), Crowd(wait_s_max=dict.fromkeys(ServiceClass, 200.0)), 1)
    one_worker = replace(plan(1), pace=Pace(max_num_seqs=64), bounds=LineBounds(tenant_share=1.0))
    course = Simulation(requests, one_worker).run()
    late = sorted(story.wait_s for story in course.stories if story.request.at_s > 300 and story.wait_s is not None)
    assert count(course, Ending.REFUSED) > 1000
    assert percentile(late, 0.05) > 0.7 * 200
