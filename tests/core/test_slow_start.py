"""How a worker that has just become ready gets its credit by and by."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.slow_start import FIRST_SEQS_MIN, SlowStart


def started(slow_start_s=10.0, answers=0):
    start = SlowStart(slow_start_s)
    start.begin(100.0)
    for _ in range(answers):
        start.note_answer()
    return start


def test_a_worker_that_was_always_there_has_all_its_credit():
    assert SlowStart(10.0).seqs(256, 0.0) == 256


@pytest.mark.parametrize(("credit", "first"), [(256, 26), (64, 7), (20, 4), (4, 4), (1, 1), (0, 0)])
def test_credit_begins_at_a_tenth_but_at_no_less_than_a_floor(credit, first):
    assert started().seqs(credit, 100.0) == first


def test_credit_grows_by_one_with_each_answer():
    assert [started(answers=n).seqs(64, 100.0) for n in (0, 1, 10, 57, 90)] == [7, 8, 17, 64, 64]


def test_credit_is_whole_after_its_time_whoever_answered():
    start = started()
    assert [start.seqs(64, 100.0 + s) for s in (0, 2.5, 5.0, 9.9, 10.0)] == [7, 16, 32, 63, 64]


def test_whoever_looks_at_it_now_and_then_misses_nothing():
    start = started()
    assert (start.look(104.0), start.due_s(104.0)) == (True, 104.25)
    assert start.look(111.0), "it has grown to its end since the last look"
    assert (start.look(112.0), start.due_s(112.0)) == (False, inf)


def test_without_a_time_there_is_no_slow_start():
    assert started(slow_start_s=0.0).seqs(64, 100.0) == 64


@given(
    credit=st.integers(0, 4096),
    slow_start_s=st.floats(0, 60),
    steps=st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=50),
)
def test_credit_only_grows_and_never_exceeds_the_workers_own(credit, slow_start_s, steps):
    start, now_s, before = started(slow_start_s), 100.0, 0
    for after_s, has_answered in steps:
        now_s += after_s
        if has_answered:
            start.note_answer()
        seqs = start.seqs(credit, now_s)
        assert max(before, min(credit, FIRST_SEQS_MIN)) <= seqs <= credit
        assert start.due_s(now_s) > now_s
        assert start.look(now_s) or seqs == credit
        before = seqs
