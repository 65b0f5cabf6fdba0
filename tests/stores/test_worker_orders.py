"""What gateways tell one another of orders comes to one end, and to an end."""

from itertools import permutations

import pytest

from gateway.core.orders import Order, Ordered
from gateway.stores.worker_orders import KEPT_S, WorkerOrders, read_ordered

HEARD = [Ordered(1, Order.CORDON), Ordered(2, Order.SERVE), Ordered(2, Order.DRAIN), Ordered(3, Order.CORDON)]


@pytest.mark.parametrize("heard", list(permutations(HEARD)))
def test_whatever_is_heard_first_the_same_order_holds(heard):
    orders = WorkerOrders()
    for ordered in heard:
        orders.hear("w1", ordered, 60.0)
    assert orders.of("w1") is Order.CORDON


def test_an_order_of_before_does_not_undo_a_later_one():
    orders = WorkerOrders()
    orders.give("w1", Order.CORDON, 0.0)
    orders.give("w1", Order.SERVE, 1.0)
    assert not orders.hear("w1", Ordered(1, Order.CORDON), 60.0)
    assert orders.of("w1") is Order.SERVE


def test_gateways_do_not_keep_an_order_alive_among_themselves():
    """Its worker has gone without a goodbye, and each tells the other five times a second what it knows."""
    left, right = WorkerOrders(), WorkerOrders()
    left.give("w1", Order.CORDON, 0.0)
    now_s = 0.0
    while len(left) + len(right):
        assert now_s < KEPT_S + 3
        for teller, listener in ((left, right), (right, left)):
            words = list(teller.words(now_s))
            for worker, said, left_ms in zip(words[::3], words[1::3], words[2::3], strict=True):
                listener.hear(worker, read_ordered(said), now_s + 0.002 + left_ms / 1000)  # it took 2 ms
            listener.keep((), now_s)
        now_s += 0.2
    assert now_s >= KEPT_S


def test_an_order_of_a_newer_version_is_passed_over():
    assert read_ordered("7 hibernate") is None
    assert read_ordered("serve") is None
