"""The bound on goodput: what no schedule exceeds, and what a perfect one reaches where that can be reckoned."""

import pytest

from gateway.planner.clairvoyant import bound, engine_s, work_that_fits
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Crowd, Lengths, Load, Request, draw_load, populate
from gateway.planner.simulation import Plan, Simulation
from gateway.planner.stories import Ending

PACE = Pace(max_num_seqs=8)


def one(_):
    return 1.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rps", [5, 40])
def test_no_course_serves_more_than_the_bound(seed, rps):
    lengths = Lengths(prompt_tokens=400, output_tokens=60)
    requests = populate(draw_load(Load(rps=rps, length_s=100, lengths=lengths), seed), Crowd(patience_s=10), seed)
    course = Simulation(requests, Plan(size=Size(workers=2), pace=PACE)).run()
    served = [story.request for story in course.stories if story.ending is Ending.SERVED]
    for value in (one, lambda request: request.work, lambda request: engine_s(request, PACE)):
        assert sum(map(value, served)) <= bound(requests, PACE, 2, value) * (1 + 1e-9)


def test_everybody_fits_where_there_is_time_enough():
    requests = [Request(at_s=n, prompt_tokens=100, output_tokens=10, patience_s=1.0) for n in range(100)]
    assert bound(requests, PACE, 1, one) == pytest.approx(100)


def test_shortest_work_counts_first_where_there_is_not():
    """One second of one engine: ten small requests of 0.05 s fit, and half of the large one of 1 s."""
    pace = Pace(prefill_tokens_per_s=1000, inter_token_s=1e-9, max_batched_tokens=1)
    small = [Request(at_s=0, prompt_tokens=50, output_tokens=1, patience_s=1.0) for _ in range(10)]
    large = Request(at_s=0, prompt_tokens=1000, output_tokens=1, patience_s=1.0 - 0.001)
    assert bound([*small, large], pace, 1, one) == pytest.approx(10.5, rel=0.01)
    assert work_that_fits([*small, large], pace, 1) == pytest.approx(1.0, rel=0.01)


def test_the_earliest_end_goes_first():
    """One that may wait is put off for one that may not, so that both fit."""
    pace = Pace(prefill_tokens_per_s=1000, inter_token_s=1e-9, max_batched_tokens=1)
    patient = Request(at_s=0, prompt_tokens=1000, output_tokens=1, patience_s=2.0)
    hasty = Request(at_s=0, prompt_tokens=1000, output_tokens=1, patience_s=1.0)
    assert work_that_fits([patient, hasty], pace, 1) == pytest.approx(2.0, rel=0.01)
    assert work_that_fits([hasty, hasty], pace, 1) == pytest.approx(1.0, rel=0.01)
