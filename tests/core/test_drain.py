"""Who may wait for its turn at a gateway that goes."""

from math import inf

from gateway.core.drain import Drain


def test_a_gateway_that_stays_lets_everybody_wait():
    drain = Drain()
    assert not drain.is_in_vain(1e9, 0.0)
    drain.announce()
    assert drain.is_announced
    assert not drain.has_begun
    assert drain.wait_left_s(5.0) == inf


def test_a_turn_must_come_in_the_first_half_of_the_drain():
    drain = Drain()
    drain.begin(100.0, 30.0)
    assert drain.has_begun
    assert not drain.is_in_vain(14.9, 100.0)
    assert drain.is_in_vain(15.1, 100.0)
    assert not drain.is_in_vain(None, 114.9), "who does not know may hope"
    assert drain.is_in_vain(None, 115.0)
