"""When a stream is late enough to ask a second worker, and how many of them may be."""

import random

import pytest

from gateway.core.hedging import SAMPLES_MIN, HedgeRules, Hedges

RULES = HedgeRules(share=0.05, after_s_min=0.2)


def taught(ratios, predicted_s=1.0, rules=RULES):
    hedges = Hedges(rules)
    for ratio in ratios:
        hedges.learn("tiny", ratio * predicted_s, predicted_s)
    return hedges


def test_nothing_is_late_in_a_pool_of_which_too_little_is_known():
    assert Hedges(RULES).after_s("tiny", 1.0) is None
    assert taught([1.0] * (SAMPLES_MIN - 1)).after_s("tiny", 1.0) is None
    assert taught([1.0] * SAMPLES_MIN).after_s("other", 1.0) is None


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0])
def test_late_is_what_one_stream_in_twenty_is(sigma):
    dice = random.Random(7)
    hedges = taught(dice.lognormvariate(0, sigma) for _ in range(5_000))
    bound = hedges.after_s("tiny", 1.0)
    late = sum(dice.lognormvariate(0, sigma) > bound for _ in range(20_000)) / 20_000
    assert 0.02 < late < 0.1


def test_what_was_predicted_to_take_longer_is_late_later():
    hedges = taught([1.5] * 500)
    assert hedges.after_s("tiny", 8.0) == pytest.approx(2 * hedges.after_s("tiny", 4.0))


def test_what_few_streams_have_shown_is_not_far_from_what_they_were():
    dice = random.Random(7)
    assert 1.0 < taught(dice.uniform(0.9, 1.1) for _ in range(SAMPLES_MIN)).after_s("tiny", 1.0) < 2.0


def test_nothing_is_late_before_the_least_time():
    assert taught([1.0] * 500).after_s("tiny", 0.0) == RULES.after_s_min


def test_a_pool_that_has_become_three_times_slower_is_known_as_such_within_dozens_of_streams():
    hedges = taught([1.0] * 1_000)
    before = hedges.after_s("tiny", 1.0)
    for _ in range(60):
        hedges.learn("tiny", 3.0, 1.0)
    assert hedges.after_s("tiny", 1.0) > 2.5 * before


def test_no_more_than_a_share_of_the_streams_is_hedged_and_a_quiet_pool_has_one():
    hedges = Hedges(RULES)
    assert hedges.take("quiet", 0.0)
    assert not hedges.take("quiet", 0.0)
    for _ in range(200):
        hedges.note_stream("tiny", 0.0)
    assert sum(hedges.take("tiny", 0.0) for _ in range(200)) == 11  # 5 % of them, and one


def test_a_hedge_that_found_no_worker_is_not_counted():
    hedges = Hedges(RULES)
    assert hedges.take("tiny", 0.0)
    hedges.give_back("tiny", 0.0)
    assert hedges.take("tiny", 0.0)


def test_without_a_share_nothing_is_hedged():
    assert Hedges(HedgeRules()).are_off
    assert not Hedges(RULES).are_off
