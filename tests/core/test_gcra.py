"""No minute passes more than its amount, whatever comes and whatever is given back later."""

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.gcra import BURST_S, WINDOW_S, Rate, burst

MOVES = st.lists(
    st.tuples(
        st.floats(0, 70, allow_nan=False).map(lambda seconds: round(seconds, 3)),  # since the last one
        st.integers(1, 40),  # what is asked for
        st.integers(0, 40),  # what comes of it, at most that
        st.booleans(),  # whether it is settled before the next one comes
    ),
    max_size=60,
)


@given(MOVES, st.integers(1, 60))
@settings(max_examples=300)
def test_in_any_minute_at_most_the_amount_passes(moves, amount):
    rate, now_s, passed, open_ = Rate(), 1_700_000_000.0, [], []
    for after_s, quantity, came, is_settled in moves:
        now_s += after_s
        if rate.wait_s(amount, quantity, now_s) == 0:
            rate.take(amount, quantity, now_s)
            passed.append([now_s, quantity])
            open_.append((passed[-1], min(came, quantity)))
            window = [each for each in passed if now_s - WINDOW_S <= each[0]]
            assert sum(units for _, units in window) <= amount
        if is_settled and open_:
            entry, used = open_.pop(0)
            rate.correct(amount, used - entry[1], entry[0], now_s)
            entry[1] = used
    for end, _ in passed:
        assert sum(units for at, units in passed if end - WINDOW_S <= at <= end) <= amount


@given(MOVES, st.integers(1, 60))
@settings(max_examples=200)
def test_what_is_told_to_wait_passes_after_that_wait_and_not_before(moves, amount):
    rate, now_s = Rate(), 1_700_000_000.0
    for after_s, quantity, _, _ in moves:
        now_s += after_s
        wait_s = rate.wait_s(amount, quantity, now_s)
        if wait_s == 0:
            rate.take(amount, quantity, now_s)
        elif wait_s != inf:
            assert rate.wait_s(amount, quantity, now_s + wait_s * 0.99 - 1e-3) > 0
            assert rate.wait_s(amount, quantity, now_s + wait_s + 1e-3) == 0
        else:
            assert quantity > amount


def test_a_steady_flow_gets_sixty_of_sixty_one_parts():
    rate, passed = Rate(), 0
    for tenth in range(36_000):
        if rate.wait_s(600, 1, 1000 + tenth / 10) == 0:
            rate.take(600, 1, 1000 + tenth / 10)
            passed += 1
    assert 36_000 * 60 / 61 <= passed <= 36_000


def test_a_burst_is_five_seconds_worth_and_then_it_is_even():
    rate = Rate()
    at_once = sum(1 for _ in range(600) if _passes(rate, 600, 100.0))
    assert at_once == burst(600) == 600 / WINDOW_S * BURST_S
    in_the_next_second = sum(1 for step in range(1, 101) if _passes(rate, 600, 100.0 + step / 100))
    assert in_the_next_second == 10


def test_what_is_larger_than_a_burst_passes_when_nothing_is_owed():
    rate = Rate()
    rate.take(600, 300, 100.0)
    assert rate.wait_s(600, 300, 100.0) == 30
    assert rate.wait_s(600, 300, 130.0) == 0


def test_a_debt_is_paid_off_by_time_and_never_forgiven():
    rate = Rate()
    rate.take(60, 1, 0.0)
    rate.correct(60, 599, 0.0, 1.0)
    assert rate.used(60, 1.0) == 600
    assert 590 < rate.wait_s(60, 1, 1.0) < 600
    assert rate.wait_s(60, 1, 200.0) > 390
    assert rate.wait_s(60, 1, 601.0) == 0


def test_a_clock_that_is_set_back_far_does_not_block_for_as_long():
    rate = Rate()
    rate.take(60, 5, 100_000.0)
    assert rate.wait_s(60, 1, 100.0) == 0


def test_nothing_is_left_of_what_was_given_back():
    rate = Rate()
    rate.take(60, 5, 100.0)
    rate.correct(60, -5, 100.0, 101.0)
    assert (rate.used(60, 101.0), rate.clears_in_s(60, 101.0)) == (0, 0)


def _passes(rate, amount, now_s):
    if rate.wait_s(amount, 1, now_s) > 0:
        return False
    rate.take(amount, 1, now_s)
    return True
