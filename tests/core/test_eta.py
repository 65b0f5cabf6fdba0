"""Places and waits, by what a line that is served at a known pace shows."""

import random

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.eta import Coming, Forecast, PoolCounts, ServiceRate
from gateway.core.scheduling import Line, Ticket

INTERACTIVE, STANDARD, BATCH = ServiceClass


def ticket(name: str, tenant: str = "acme", service_class: ServiceClass = STANDARD, user: str = "") -> Ticket:
    return Ticket(id=name, tenant=tenant, service_class=service_class, user=user)


def observed(*, slots: int, waiting: int, service_s: float, granted: int = 0, over_s: int = 20) -> Forecast:
    """Have a forecast observe a pool whose slots have all been busy with requests of *service_s* each, until t = 0."""
    forecast = Forecast()
    for tenth in range(-10 * over_s, 1):
        completed = int((tenth / 10 + over_s) * slots / service_s)
        counts = PoolCounts(in_flight=slots, waiting=waiting, slots=slots, granted=granted, completed=completed)
        forecast.observe(tenth / 10, counts)
    return forecast


def test_without_any_completion_a_wait_is_unknown():
    forecast = Forecast()
    forecast.observe(0, PoolCounts(in_flight=4, waiting=3, slots=4))
    assert forecast.wait_s(0, 0) is None


def test_a_free_slot_is_no_wait_even_while_the_rate_is_unknown():
    forecast = Forecast()
    forecast.observe(0, PoolCounts(in_flight=2, waiting=0, slots=4))
    assert forecast.wait_s(1, 0) == 0
    assert forecast.wait_s(2, 0) is None


def test_the_wait_is_those_ahead_over_the_rate_of_the_slots():
    assert observed(slots=8, waiting=100, service_s=4).wait_s(99, 0) == pytest.approx(50, rel=0.02)


def test_capacity_that_doubles_halves_the_wait_at_once():
    forecast = observed(slots=8, waiting=100, service_s=4)
    forecast.observe(0.2, PoolCounts(in_flight=16, waiting=92, slots=16, completed=40))
    assert forecast.wait_s(91, 0.2) == pytest.approx(23, rel=0.03)


def test_capacity_that_is_coming_shortens_only_the_waits_that_reach_it():
    forecast = observed(slots=8, waiting=100, service_s=4)
    forecast.expect([Coming(10, 8)])
    assert forecast.wait_s(9, 0) == pytest.approx(5, rel=0.02)
    assert forecast.wait_s(99, 0) == pytest.approx(10 + (100 - 20 - 8) / 4, rel=0.02)


def test_capacity_that_is_late_is_taken_to_come_now():
    forecast = observed(slots=8, waiting=100, service_s=4)
    forecast.expect([Coming(-5, 8)])
    assert forecast.wait_s(99, 0) == pytest.approx((100 - 8) / 4, rel=0.02)


def test_a_pool_without_slots_waits_for_the_first_that_come():
    forecast = Forecast()
    forecast.observe(0, PoolCounts(waiting=3))
    forecast.expect([Coming(30, 2), Coming(50, 2)])
    assert [forecast.wait_s(ahead, 0) for ahead in range(5)] == [30, 30, 50, 50, None]


def test_slots_that_were_taken_away_are_waited_for():
    forecast = observed(slots=8, waiting=10, service_s=4)
    forecast.observe(0.1, PoolCounts(in_flight=8, waiting=10, slots=4, completed=40))
    assert forecast.wait_s(0, 0.1) == pytest.approx((1 + 4) / 1, rel=0.03)


def test_the_rate_follows_the_last_ten_seconds_and_outlives_an_idle_pool():
    rate = ServiceRate()
    for second in range(60):
        rate.observe(second, second * 2 if second < 30 else 60 + (second - 30) * 8, 8)
    assert rate.per_slot == pytest.approx(1.0, rel=0.05)
    forecast = observed(slots=8, waiting=0, service_s=4)
    for second in range(1, 100):
        forecast.observe(second, PoolCounts(slots=8, completed=48))
    forecast.observe(100, PoolCounts(in_flight=8, waiting=8, slots=8, completed=48))
    assert forecast.wait_s(7, 100) == pytest.approx(4, rel=0.35), "the last eight ended early, which counts too"


def test_a_count_that_begins_anew_is_no_negative_rate():
    rate = ServiceRate()
    rate.observe(0, 1000, 4)
    rate.observe(1, 3, 4)
    rate.observe(2, 7, 4)
    assert rate.per_slot == pytest.approx(1.0)


def test_positions_count_down_as_tickets_are_granted():
    forecast = observed(slots=8, waiting=20, service_s=4, granted=100)
    forecast.look([ticket(f"t{n}") for n in range(20)], granted=100)
    assert forecast.place("t12", 0).position == 13
    forecast.observe(2.5, PoolCounts(in_flight=8, waiting=15, slots=8, granted=105, completed=45))
    place = forecast.place("t12", 2.5)
    assert (place.position, place.waiting) == (8, 15)
    assert place.eta_s == pytest.approx(4, rel=0.05)
    assert forecast.place("unheard of", 1) is None


def test_a_newcomer_is_expected_behind_its_own_and_beside_the_others():
    line = Line()
    for n in range(30):
        line.enter(ticket(f"f{n}", "flooder", user=f"u{n % 3}"))
    for n in range(5):
        line.enter(ticket(f"i{n}", "urgent", INTERACTIVE))
    forecast = observed(slots=8, waiting=35, service_s=4)
    forecast.look(list(line.order()), 0)

    def ahead(one: Ticket) -> int:
        return forecast.newcomer(one, 0).position - 1

    assert ahead(ticket("quiet", "quiet")) == 5 + 1
    assert ahead(ticket("f", "flooder", user="u1")) == 35
    assert 5 + 3 <= ahead(ticket("f", "flooder", user="new")) <= 5 + 4
    assert ahead(ticket("i", "other", INTERACTIVE)) == 1


@pytest.mark.parametrize("seed", range(3))
def test_waits_foretold_are_within_ten_percent_at_a_steady_pace(seed):
    """Forty slots, service times drawn from an exponential distribution, a thousand who wait."""
    dice, slots, mean_s = random.Random(seed), 40, 2.0
    ends = sorted(dice.expovariate(1 / mean_s) for _ in range(slots))
    forecast, waiting, granted, completed, told, had = Forecast(), 1000, 0, 0, {}, {}
    tickets = [ticket(str(n)) for n in range(waiting)]
    now_s, look_s = 0.0, 0.0
    while granted < waiting:
        now_s = ends.pop(0)
        completed += 1
        had[str(granted)] = now_s
        granted += 1
        ends = sorted([*ends, now_s + dice.expovariate(1 / mean_s)])
        counts = PoolCounts(
            in_flight=slots, waiting=waiting - granted, slots=slots, granted=granted, completed=completed
        )
        forecast.observe(now_s, counts)
        if now_s >= look_s:
            look_s = now_s + 1
            forecast.look(tickets[granted:], granted)
            if now_s >= 10:
                for one in tickets[granted::50]:
                    told.setdefault(one.id, (now_s, forecast.place(one.id, now_s).eta_s))
    errors = [
        abs(at_s + eta_s - had[name]) / (had[name] - at_s)
        for name, (at_s, eta_s) in told.items()
        if had[name] - at_s > 5
    ]
    assert len(errors) > 5
    assert sum(errors) / len(errors) < 0.10


def test_those_who_will_come_in_ahead_are_expected_as_they_came_lately():
    """Ten slots of a second each; half of what they serve comes in ahead of four hundred others."""
    line, forecast, names = Line(), Forecast(), iter(range(10_000))
    for n in range(400):
        line.enter(ticket(f"s{n}"))
    told, granted = {}, 0
    for now_s in range(80):
        for _ in range(5):
            line.enter(ticket(f"i{next(names)}", "urgent", INTERACTIVE))
        for _ in range(10):
            if one := line.next():
                granted += 1
                if one.id == "s300":
                    assert told[42] == pytest.approx(now_s - 42, rel=0.15)
                    return
        counts = PoolCounts(in_flight=10, waiting=len(line), slots=10, granted=granted, completed=granted)
        forecast.observe(now_s, counts)
        forecast.look(list(line.order()), granted)
        place = forecast.place("s300", now_s)
        told[now_s] = place.eta_s if place else None
    pytest.fail("never granted")
