"""Prefix affinity: homes that stay, shares that are even, and what a gateway remembers, within bounds."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.affinity import (
    ENTRIES_MIN,
    HOLDERS_MAX,
    TTL_S,
    Chain,
    Ring,
    SentPrefixes,
    expected_work,
    extend,
    mix,
)

KEYS = [mix(7, number) for number in range(4000)]


def ring_of(count):
    ring = Ring()
    for number in range(count):
        ring.put(f"worker-{number}")
    return ring


def chain(*parts, key=1):
    hashes, before = [], 0
    for part in parts:
        before = extend(before, part.encode())
        hashes.append(before)
    return Chain(key, tuple(hashes), tuple(100 * (place + 1) for place in range(len(parts))))


def test_every_gateway_finds_the_same_homes_whatever_the_order_in_which_it_met_the_workers():
    one, other = Ring(), Ring()
    for number in range(20):
        one.put(f"worker-{number}")
        other.put(f"worker-{19 - number}")
    assert [one.homes(key) for key in KEYS] == [other.homes(key) for key in KEYS]


def test_the_busiest_worker_is_first_choice_for_little_more_than_its_part():
    firsts = Counter(ring_of(32).homes(key)[0] for key in KEYS)
    assert max(firsts.values()) < 1.6 * len(KEYS) / 32


def test_a_worker_that_goes_moves_only_the_keys_that_it_was_home_to():
    ring = ring_of(20)
    before = {key: ring.homes(key) for key in KEYS}
    ring.drop("worker-7")
    for key, homes in before.items():
        if "worker-7" not in homes:
            assert ring.homes(key) == homes
    ring.put("worker-7")
    assert all(ring.homes(key) == homes for key, homes in before.items())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 200), st.booleans()), max_size=300), st.integers(0, 300))
def test_who_came_and_went_leaves_no_trace(moves, others):
    """Asked in between or not, a few at a time or many, beside few others or many."""
    ring, here = ring_of(others), {f"worker-{number}" for number in range(others)}
    for comes, number, is_asked in moves:
        worker = f"worker-{number}"
        (ring.put if comes else ring.drop)(worker)
        (here.add if comes else here.discard)(worker)
        if is_asked:
            ring.homes(KEYS[number])
    fresh = Ring()
    for worker in sorted(here):
        fresh.put(worker)
    assert len(ring) == len(fresh)
    assert [ring.homes(key) for key in KEYS[:50]] == [fresh.homes(key) for key in KEYS[:50]]


def test_an_empty_ring_has_no_homes_and_one_worker_is_everybodys():
    assert Ring().homes(1) == []
    assert ring_of(1).homes(1) == ["worker-0"]


def test_the_longest_beginning_in_common_counts_of_each_worker():
    sent = SentPrefixes()
    sent.note(chain("system", "hello"), "a", 0.0)
    sent.note(chain("system"), "b", 0.0)
    assert sent.held(chain("system", "hello", "more"), 1.0) == {"a": 200, "b": 100}
    assert sent.held(chain("another", "hello"), 1.0) == {}


def test_what_was_sent_long_ago_is_not_believed_any_more():
    sent = SentPrefixes()
    sent.note(chain("system"), "a", 0.0)
    assert sent.held(chain("system"), TTL_S) == {"a": 100}
    assert sent.held(chain("system"), TTL_S + 1) == {}


def test_what_another_gateway_sent_counts_as_far_as_it_told_of_it():
    sent, first = SentPrefixes(), chain("system", "hello")
    sent.hear(first.hashes[-1], "a", 0.0)
    assert sent.held(chain("system", "hello", "and"), 0.0) == {"a": first.length}
    assert sent.held(chain("system", "bye"), 0.0) == {}, "shorter beginnings are not told"
    assert sent.held(first, TTL_S + 1) == {}


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 50)), max_size=300))
def test_memory_is_bounded_whatever_is_sent(sendings):
    sent = SentPrefixes(entries_max=50)
    for prompt, worker in sendings:
        sent.note(chain(*str(prompt)), f"worker-{worker}", 0.0)
        sent.hear(mix(prompt, worker), f"worker-{worker}", 0.0)
        assert len(sent) <= 50
        assert len(sent.held(chain(*str(prompt)), 0.0)) <= HOLDERS_MAX + len(str(prompt))


@pytest.mark.parametrize("workers", [1, 100, 300])
def test_more_beginnings_are_remembered_for_more_workers_within_3_mb_for_each_hundred(workers):
    hundreds = max(1, workers // 100)
    sent = SentPrefixes()
    sent.resize(workers)
    names = [f"worker-{number}" for number in range(HOLDERS_MAX)]
    tracemalloc.start()
    for number in range(hundreds * ENTRIES_MIN + 1000):
        for name in names:
            sent.note(chain(str(number)), name, float(number))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sent) == hundreds * ENTRIES_MIN
    assert size < hundreds * 3 * 2**20


def test_a_hit_is_worth_twice_its_tokens_of_waiting():
    assert expected_work(outstanding_tokens=1000, uncached_tokens=500) == expected_work(0, 1000)
