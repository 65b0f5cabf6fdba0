"""The planner's engine keeps the pace of the simulated engine, step for step."""

import heapq
import random
from collections import deque

import pytest

from gateway.planner.engine import Engine, Pace
from gateway.planner.engine import Sequence as Planned
from workers.engines.sim_batch import Batch, Sequence, block_keys
from workers.engines.sim_batch import Pace as SimPace

SIZES = {"prefill_tokens_per_s": 10_000.0, "inter_token_s": 0.02, "max_num_seqs": 6, "max_batched_tokens": 700}


def simulated(number, prompt, output):
    state, keys = block_keys([10_000 * number + token for token in range(prompt)], salt=0)
    return Sequence(owner=number, prompt_tokens=prompt, state=state, keys=keys, max_tokens=output)


def times_of_the_simulated(jobs):
    """Step a Batch by hand as its engine does; gives the times of the first and the last token of each job."""
    batch, now_s, times = Batch(SimPace(**SIZES, cache_blocks=100_000)), -1.0, {}
    arrivals = deque((at_s, simulated(number, prompt, output)) for number, (at_s, prompt, output) in enumerate(jobs))
    while arrivals or batch.running or batch.waiting:
        while arrivals and arrivals[0][0] <= now_s:
            batch.add(arrivals.popleft()[1])
        if not batch.running and not batch.waiting:  # an idle engine begins at once, with the first that comes
            now_s, sequence = arrivals.popleft()
            batch.add(sequence)
        now_s += batch.begin_step() or 0.0
        for made in batch.end_step():
            first_s, _ = times.get(made.owner, (now_s, None))
            times[made.owner] = first_s, now_s
    return [times[number] for number in range(len(jobs))]


def times_of_the_planned(jobs, pace=None):
    """Drive an Engine from event to event; gives the same times."""
    engine, answers = Engine(pace or Pace(**SIZES)), [Planned(prompt, output) for _, prompt, output in jobs]
    arrivals = [(at_s, number) for number, (at_s, _, _) in enumerate(jobs)]
    heapq.heapify(arrivals)
    first, last = {}, {}
    while arrivals or engine.ends_s is not None:
        if arrivals and (engine.ends_s is None or arrivals[0][0] <= engine.ends_s):
            at_s, number = heapq.heappop(arrivals)
            engine.add(answers[number], at_s)
        else:
            now_s, happened = engine.ends_s, engine.end_stretch()
            first |= dict.fromkeys(happened.first, now_s)
            last |= dict.fromkeys(happened.ended, now_s)
    return [(first[answer], last[answer]) for answer in answers]


@pytest.mark.parametrize("seed", range(30))
def test_every_first_and_last_token_comes_when_the_simulated_engine_gives_it(seed):
    dice, at_s, jobs = random.Random(seed), 0.0, []
    for _ in range(40):
        at_s += dice.choice((0.0, dice.expovariate(8)))
        jobs.append((at_s, dice.choice((1, 30, 650, 1500)), dice.choice((1, 2, 17, 60))))
    planned, simulated = times_of_the_planned(jobs), times_of_the_simulated(jobs)
    assert planned == [pytest.approx(times) for times in simulated]


def test_steps_that_slow_down_with_the_batch_take_longer_for_everyone():
    slow = Pace(**SIZES, inter_token_s_per_seq=0.01)
    [(first_s, last_s)] = times_of_the_planned([(0.0, 100, 11)], slow)
    assert first_s == pytest.approx(0.02 + 0.01)
    assert last_s - first_s == pytest.approx(10 * (0.02 + 0.01))


def test_an_aborted_prefill_gives_no_token_and_makes_room():
    engine = Engine(Pace(prefill_tokens_per_s=1000, inter_token_s=0.01, max_num_seqs=1))
    gone, next_one = Planned(500, 5), Planned(10, 1)
    engine.add(gone, 0.0)
    engine.add(next_one, 0.1)
    engine.abort(gone)
    assert engine.end_stretch().first == []
    assert engine.ends_s == pytest.approx(0.51 + 0.02)
    assert engine.end_stretch().ended == [next_one]
    assert engine.ends_s is None


def test_tokens_are_counted_within_a_stretch_of_steps():
    engine = Engine(Pace(prefill_tokens_per_s=1000, inter_token_s=0.1, max_num_seqs=4))
    answer = Planned(100, 20)
    engine.add(answer, 0.0)
    assert engine.generated(answer, 0.1) == 0
    engine.end_stretch()
    assert engine.generated(answer, 0.2) == 1
    assert engine.generated(answer, 0.2 + 0.55) == 6
