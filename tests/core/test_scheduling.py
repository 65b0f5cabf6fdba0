"""The order of tickets, without a store."""

import random
from itertools import count

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Line, Standing, Ticket

INTERACTIVE, STANDARD, BATCH = ServiceClass
_numbers = count()


def ticket(tenant: str = "acme", service_class: ServiceClass = STANDARD, **fields) -> Ticket:
    return Ticket(**{"id": f"t{next(_numbers)}", "tenant": tenant, "service_class": service_class, **fields})


def line_of(*tickets: Ticket) -> Line:
    line = Line()
    for one in tickets:
        line.enter(one)
    return line


def drain(line: Line) -> list[Ticket]:
    return list(iter(line.next, None))


def names(tickets) -> str:
    return " ".join(one.tenant for one in tickets)


def test_an_empty_line_has_no_next():
    assert Line().next() is None


def test_the_line_says_who_waits():
    line = line_of(ticket(service_class=INTERACTIVE), ticket(service_class=BATCH), ticket("b", service_class=BATCH))
    assert len(line) == 3
    assert line.waiting_of("acme") == 2
    assert line.waiting_of("nobody") == 0
    assert repr(line) == "<Line [1 interactive, 0 standard, 2 batch]>"


def test_leaving_is_told_apart_from_not_being_in_line():
    one = ticket()
    line = line_of(one)
    assert line.leave(one.id)
    assert not line.leave(one.id)
    assert drain(line) == []


def test_a_ticket_that_left_and_came_again_stands_where_it_came_again():
    first, second = ticket(), ticket()
    line = line_of(first, second)
    line.leave(first.id)
    line.enter(first)
    assert drain(line) == [second, first]


def test_many_that_leave_take_no_room():
    line = Line()
    line.enter(ticket(id="stays"))
    for n in range(1000):
        line.enter(ticket(id=f"goes-{n}"))
        line.leave(f"goes-{n}")
    [user_line] = line._classes[STANDARD]._tenants["acme"]._users.values()
    assert len(user_line._heap) < 5


def test_tenants_share_tokens_not_requests():
    """A tenant with tickets of 30 tokens gets one turn for every three of a tenant with tickets of 10."""
    line = line_of(*(ticket("long", work=30) for _ in range(4)), *(ticket("short", work=10) for _ in range(9)))
    assert names(drain(line)[:12]) == " ".join(["long short short short"] * 3)


def test_a_tenant_of_weight_three_gets_three_times_the_tokens():
    line = line_of(*(ticket("one") for _ in range(6)), *(ticket("three", weight=3) for _ in range(18)))
    order = names(drain(line)[:20]).split()
    assert order.count("three") == 15


def test_end_users_of_a_tenant_take_turns_however_many_tickets_one_has():
    flood = [ticket(user="flooder") for _ in range(5)]
    quiet = ticket(user="quiet")
    assert drain(line_of(*flood, quiet)) == [flood[0], quiet, *flood[1:]]


def test_a_users_earliest_deadline_goes_first_and_equals_in_the_order_they_came():
    late, early, second = ticket(deadline_ms=900), ticket(deadline_ms=500), ticket(deadline_ms=900)
    assert drain(line_of(late, early, second)) == [early, late, second]


def test_a_deadline_gains_nothing_against_other_tenants():
    polite, pushy = ticket("polite"), [ticket("pushy", deadline_ms=1) for _ in range(3)]
    assert drain(line_of(polite, *pushy))[:2] == [polite, pushy[0]]


def test_the_most_urgent_class_goes_first():
    batch, standard, interactive = ticket(service_class=BATCH), ticket(), ticket(service_class=INTERACTIVE)
    assert drain(line_of(batch, standard, interactive)) == [interactive, standard, batch]


def test_a_class_that_waits_gets_its_reserved_share_of_the_work():
    line = Line()
    granted = dict.fromkeys(ServiceClass, 0)
    for service_class in ServiceClass:
        for _ in range(5):
            line.enter(ticket(service_class=service_class, work=10))
    for _ in range(2000):
        one = line.next()
        granted[one.service_class] += one.work
        line.enter(ticket(service_class=one.service_class, work=10))
    assert granted[STANDARD] == pytest.approx(0.10 * 20_000, abs=30)
    assert granted[BATCH] == pytest.approx(0.05 * 20_000, abs=30)


def test_a_class_that_had_the_pool_to_itself_owes_nothing_for_it():
    line = line_of(*(ticket(work=10) for _ in range(1000)))
    for _ in range(900):
        line.next()
    for _ in range(100):
        line.enter(ticket(service_class=INTERACTIVE, work=10))
    first = [line.next().service_class for _ in range(31)]
    assert first.count(STANDARD) == 3, "its reserve, which it is behind as soon as another class is granted something"


def test_what_a_request_did_beyond_its_prediction_is_charged_to_its_tenant_and_user():
    line = line_of(
        *(ticket("wrong", user=user, work=10) for user in "aabb"), *(ticket("right", work=10) for _ in range(4))
    )
    first = line.next()
    assert (first.tenant, first.user) == ("wrong", "a")
    line.settle(first, 25)
    assert [(one.tenant, one.user) for one in drain(line)[:5]] == [
        *(("right", ""), ("right", ""), ("right", ""), ("right", "")),
        ("wrong", "b"),
    ]


def test_the_order_foretells_what_next_gives_and_changes_nothing():
    dice, line = random.Random(3), Line()
    for n in range(300):
        line.enter(
            ticket(
                f"tenant-{dice.randint(0, 9)}",
                dice.choice(list(ServiceClass)),
                user=str(dice.randint(0, 3)),
                work=dice.randint(1, 500),
                deadline_ms=dice.randint(1, 50),
                weight=dice.randint(1, 5),
            )
        )
        if n % 3 == 0:
            line.settle(line.next(), dice.randint(-100, 100))
    foretold = list(line.order())
    assert len(line) == len(foretold) == 200
    assert foretold == drain(line)


def test_a_line_is_restored_with_the_counters_it_had():
    line = line_of(ticket("a", user="u"), ticket("a", user="v"), ticket("b"))
    restored = Line.restore(
        list(line.order()),
        [
            Standing(service_class=STANDARD, tenant="a", counter=500, joined=0),
            Standing(service_class=STANDARD, tenant="a", user="u", counter=900, joined=0),
            Standing(service_class=STANDARD, tenant="a", user="v", counter=100, joined=1),
            Standing(service_class=STANDARD, tenant="b", counter=300, joined=2),
        ],
        {STANDARD: 7},
    )
    assert [(one.tenant, one.user) for one in restored.order()] == [("b", ""), ("a", "v"), ("a", "u")]
    assert restored._owed[STANDARD] == 7


@pytest.mark.parametrize("seed", range(20))
def test_backlogged_tenants_never_differ_by_more_than_one_ticket(seed):
    """The bound of VTC for equal charges, over random arrivals of a hundred tenants that all stay backlogged."""
    dice, line, served = random.Random(seed), Line(), dict.fromkeys(map(str, range(100)), 0)
    tenants = [tenant for tenant in served for _ in range(dice.randint(20, 200))]
    dice.shuffle(tenants)
    for tenant in tenants:
        line.enter(ticket(tenant))
    for _ in range(100 * 20):
        served[line.next().tenant] += 1
        assert max(served.values()) - min(served.values()) <= 1
