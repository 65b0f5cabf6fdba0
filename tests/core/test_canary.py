"""Which pool a request of a shared name goes to: shares by weight, and each user on one side."""

from collections import Counter
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.canary import choose

REQUESTS = 10_000
SIGMAS = 4.5  # a share is further off by chance once in 150,000 tests; the keys are fixed, so it is once for all


@pytest.mark.parametrize(
    "weights", [{"a": 95, "b": 5}, {"a": 1, "b": 1}, {"a": 999, "b": 1}, {"a": 70, "b": 20, "c": 10}]
)
def test_shares_are_those_of_the_weights(weights):
    chosen = Counter(choose(weights, "acme", "qwen-plus", f"req_{number}") for number in range(REQUESTS))
    total = sum(weights.values())
    for pool, weight in weights.items():
        part = weight / total
        assert abs(chosen[pool] - REQUESTS * part) <= SIGMAS * sqrt(REQUESTS * part * (1 - part))


def test_a_weight_that_grows_takes_users_and_loses_none():
    def canaries(weight):
        weights = {"a": 100 - weight, "b": weight}
        return {user for user in range(2000) if choose(weights, str(user)) == "b"}

    steps = [canaries(weight) for weight in (0, 1, 5, 20, 50, 100)]
    assert all(before <= after for before, after in pairwise(steps))
    assert (len(steps[0]), len(steps[-1])) == (0, 2000)


def test_a_third_pool_moves_only_users_of_its_own():
    before = {user: choose({"a": 50, "b": 50}, str(user)) for user in range(2000)}
    after = {user: choose({"a": 50, "b": 50, "c": 10}, str(user)) for user in range(2000)}
    assert {after[user] for user in before if after[user] != before[user]} == {"c"}


@given(
    st.dictionaries(st.text(max_size=5), st.integers(0, 1_000_000), min_size=1, max_size=5),
    st.lists(st.text(), min_size=1, max_size=3),
)
def test_the_choice_is_stable_and_never_a_pool_of_weight_nothing(weights, key):
    if not any(weights.values()):
        with pytest.raises(ValueError, match="empty"):
            choose(weights, *key)
        return
    chosen = choose(weights, *key)
    assert weights[chosen] > 0
    assert choose(dict(reversed(weights.items())), *key) == chosen


def test_tenants_and_names_are_drawn_apart():
    keys = [str(number) for number in range(500)]
    sides = [[choose({"a": 1, "b": 1}, *place, key) for key in keys] for place in (("t", "m"), ("u", "m"), ("t", "n"))]
    same = [sum(one == other for one, other in zip(sides[0], side, strict=True)) for side in sides[1:]]
    assert all(150 < count < 350 for count in same)
