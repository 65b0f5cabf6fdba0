"""The order of tickets, without a store."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import DrainRate, Line, Ticket, line_full


def ticket(ticket_id: str, tenant: str = "acme", service_class: ServiceClass = ServiceClass.STANDARD, work: int = 1):
    return Ticket(id=ticket_id, tenant=tenant, service_class=service_class, work=work)


def drain(line: Line) -> list[str]:
    return [one.id for one in iter(line.next, None)]


def test_an_empty_line_has_no_next():
    assert Line().next() is None


def test_the_line_says_who_waits():
    line = Line()
    line.enter(ticket("a", service_class=ServiceClass.INTERACTIVE))
    line.enter(ticket("b", service_class=ServiceClass.BATCH))
    line.enter(ticket("c", service_class=ServiceClass.BATCH))
    assert len(line) == 3
    assert repr(line) == "<Line [1 interactive, 0 standard, 2 batch]>"


def test_leaving_is_told_apart_from_not_being_in_line():
    line = Line()
    line.enter(ticket("a"))
    assert line.leave("a")
    assert not line.leave("a")
    assert drain(line) == []


def test_when_a_tenants_first_ticket_leaves_its_second_stands_in_the_first_ones_turn():
    line = Line()
    for one in (ticket("a0", "a"), ticket("b0", "b"), ticket("a1", "a")):
        line.enter(one)
    line.leave("a0")
    assert drain(line) == ["b0", "a1"], "equal counters: who has waited longest"


def test_a_charge_by_work_shares_tokens_not_requests():
    """A tenant with tickets of 30 tokens gets one turn for every three of a tenant with tickets of 10."""
    line = Line(charge=lambda one: one.work)
    for n in range(4):
        line.enter(ticket(f"long-{n}", "long", work=30))
    for n in range(9):
        line.enter(ticket(f"short-{n}", "short", work=10))
    order = [one.split("-")[0] for one in drain(line)]
    assert order[:12] == ["long", "short", "short", "short"] * 3


def test_counters_of_tenants_that_are_gone_are_forgotten():
    line = Line()
    for n in range(10_000):
        line.enter(ticket(f"t{n}", f"tenant-{n}"))
        line.enter(ticket(f"u{n}", f"tenant-{n}"))
        line.next()
        line.next()
    assert len(line._rounds[ServiceClass.STANDARD]._counters) < 200


@pytest.mark.parametrize("seed", range(20))
def test_backlogged_tenants_never_differ_by_more_than_one_ticket(seed):
    """The bound of VTC for a charge of one, over random arrivals of a hundred tenants that all stay backlogged."""
    chance, line, served = random.Random(seed), Line(), dict.fromkeys(range(100), 0)
    tickets = [(n, tenant) for tenant in served for n in range(chance.randint(20, 200))]
    chance.shuffle(tickets)
    for n, tenant in tickets:
        line.enter(ticket(f"{tenant}-{n}", str(tenant)))
    for _ in range(100 * 20):
        served[int(line.next().tenant)] += 1
        assert max(served.values()) - min(served.values()) <= 1


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 50)), max_size=60), st.integers(0, 100_000))
def test_clients_are_always_told_to_retry_within_what_they_obey(steps, waiting):
    drain_rate, now_s, granted = DrainRate(), 0.0, 0
    for pause_s, grants in steps:
        now_s, granted = now_s + pause_s, granted + grants
        drain_rate.observe(now_s, granted)
    assert 1 <= drain_rate.retry_after_s(now_s, granted, waiting) <= 60


def test_the_time_to_retry_follows_the_rate_of_the_last_ten_seconds():
    drain_rate = DrainRate()
    for second in range(100):
        drain_rate.observe(second, second * 2)  # two grants a second
    for second in range(100, 121):
        drain_rate.observe(second, 200 + (second - 100) * 20)  # twenty a second since
    assert drain_rate.retry_after_s(120, 600, waiting=400) == pytest.approx(20, abs=2)


def test_a_line_that_has_not_moved_asks_for_the_longest_wait():
    drain_rate = DrainRate()
    drain_rate.observe(0, 7)
    assert drain_rate.retry_after_s(9, 7, waiting=1) == 60


def test_a_count_that_begins_anew_is_no_negative_rate():
    drain_rate = DrainRate()
    drain_rate.observe(0, 1000)
    drain_rate.observe(2, 10)
    assert drain_rate.retry_after_s(4, 20, waiting=10) == 2


def test_the_refusal_names_the_pool_the_limit_and_what_to_do():
    refusal = line_full("qwen", 500, 12)
    assert refusal.message == "The line of the pool 'qwen' is full: 500 requests wait, and no more may. Retry in 12 s."
    assert refusal.retry_after_s == 12
