"""The bounds that core/scheduling.py states hold in random schedules; `make bench` plays a million of them."""

import pytest

from tests.core.fairness import Schedule


@pytest.fixture(scope="module")
def margins():
    return {seed: Schedule(seed).play() for seed in range(2000)}


def test_two_tenants_that_wait_never_differ_by_more_than_the_bound(margins):
    assert not [seed for seed, margin in margins.items() if margin.tenants > 1]


def test_two_users_of_a_tenant_that_wait_never_differ_by_more_than_the_bound(margins):
    assert not [seed for seed, margin in margins.items() if margin.users > 1]


def test_a_class_that_waits_gets_its_reserve_up_to_the_bound(margins):
    assert not [seed for seed, margin in margins.items() if margin.classes > 1]


def test_the_schedules_come_near_the_bounds(margins):
    """Else the tests above would say little."""
    assert max(margin.tenants for margin in margins.values()) > 0.6
    assert max(margin.users for margin in margins.values()) > 0.4
    assert max(margin.classes for margin in margins.values()) > 0.4
