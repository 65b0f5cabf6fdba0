"""How many requests may be tried again: a share of what is asked, and some more."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.retry_budget import WINDOW_S, RetryBudget, RetryBudgets, RetryRules
from gateway.core.sliding_window import BUCKETS, SlidingCounts


def test_a_quiet_pool_may_retry_all_that_one_worker_had():
    budget = RetryBudget(RetryRules(share=0.2, retries_min=300))
    for _ in range(256):
        budget.note_request(0.0)
    assert all(budget.take(0.1) for _ in range(256))


def test_of_a_pool_that_fails_as_a_whole_a_fifth_is_tried_again():
    budget, retries = RetryBudget(RetryRules(share=0.2, retries_min=0)), 0
    for number in range(10_000):
        now_s = number / 100
        budget.note_request(now_s)
        retries += budget.take(now_s)
    assert 1950 <= retries <= 2000
    assert budget.refused == 10_000 - retries


def test_what_was_spent_is_forgotten_after_the_window():
    budget = RetryBudget(RetryRules(share=0.0, retries_min=2))
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    assert not budget.take(WINDOW_S * (1 - 1 / BUCKETS))
    assert budget.take(WINDOW_S)


def test_a_retry_that_found_no_other_worker_costs_nothing():
    budget = RetryBudget(RetryRules(share=0.0, retries_min=1))
    for _ in range(5):
        assert budget.take(0.0)
        budget.give_back(0.0)


def test_a_pool_that_fails_takes_nothing_from_another():
    budgets = RetryBudgets(RetryRules(share=0.0, retries_min=1))
    assert budgets.of("a").take(0.0)
    assert not budgets.of("a").take(0.0)
    assert budgets.of("b").take(0.0)
    assert budgets.refused() == {"a": 1, "b": 0}


@given(
    share=st.floats(0, 1),
    retries_min=st.integers(0, 20),
    steps=st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=200),
)
def test_within_any_window_no_more_is_tried_again_than_the_budget_says(share, retries_min, steps):
    budget, now_s, asked, taken = RetryBudget(RetryRules(share, retries_min)), 0.0, [], []
    for after_s, is_retry in steps:
        now_s += after_s
        if not is_retry:
            budget.note_request(now_s)
            asked.append(now_s)
        elif budget.take(now_s):
            taken.append(now_s)
            since_s = now_s - WINDOW_S * (1 - 1 / BUCKETS)  # the least that a window holds
            assert (
                sum(s > since_s for s in taken) <= retries_min + share * sum(s >= now_s - WINDOW_S for s in asked) + 1
            )


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=100))
def test_a_window_counts_what_lies_in_it(steps):
    counts, now_s, happened = SlidingCounts(10.0), 0.0, []
    for after_s, first, second in steps:
        now_s += after_s
        counts.add(now_s, first, second)
        happened.append((now_s, first, second))
        assert counts.first >= sum(f for s, f, _ in happened if s > now_s - 9)
        assert counts.first <= sum(f for s, f, _ in happened if s > now_s - 10)
        assert counts.second <= sum(n for s, _, n in happened if s > now_s - 10)
