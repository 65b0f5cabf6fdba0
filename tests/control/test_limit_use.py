"""What is used of limits, joined to what is declared."""

import asyncio

import pytest

from gateway.control.limit_use import ASKED_AT_ONCE, join_use, with_use
from gateway.control.limits import LimitState
from gateway.core.holds import LimitAsk, LimitStanding, Standings
from gateway.core.limits import Limit
from gateway.core.outcome import Outcome
from gateway.errors import Refused


def state(tenant="acme", amount=10, **fields):
    every = {"id": f"lim_{tenant}", "scope": "tenant", "subject": tenant, "tenant": tenant, "metric": "requests"}
    return LimitState(Limit(**{**every, "amount": amount, **fields}), "")


def standing(tenant="acme", used=4, amount=10, clears_in_s=1.23456):
    ask = LimitAsk(
        id=f"lim_{tenant}", scope="tenant", subject=tenant, tenant=tenant, model="", metric="requests", amount=amount,
        quantity=1,
    )  # fmt: skip
    return LimitStanding(ask, used, clears_in_s)


def shown(states, ask):
    return asyncio.run(with_use(states, ask))


async def told(tenant):
    return Standings((standing(tenant),))


def test_each_limit_has_the_figures_of_its_own_tenant():
    async def told_of(tenant):
        return Standings((standing(tenant, used=len(tenant)),), is_shared=tenant == "acme")

    found = shown([state("acme"), state("other")], told_of)
    assert [(each["used"], each["left"], each["is_shared"]) for each in found] == [(4, 6, True), (5, 5, False)]
    assert found[0]["clears_in_s"] == 1.235


def test_what_is_left_is_of_the_amount_that_is_declared_now_and_never_below_zero():
    """The gateway may not have heard yet of the other amount."""
    assert [shown([state(amount=amount)], told)[0]["left"] for amount in (3, 4, 100)] == [0, 0, 96]


def test_when_requests_under_way_end_nobody_knows():
    async def told_of(tenant):
        return Standings((standing(clears_in_s=None),))

    assert shown([state()], told_of)[0]["clears_in_s"] is None


def test_a_limit_that_the_gateway_has_not_heard_of_says_so():
    (found,) = shown([state(id="lim_new")], told)
    assert (found["used"], found["left"], found["why_unknown"]) == (
        None, None, "the gateway has not heard of this limit yet",
    )  # fmt: skip


def test_a_tenant_of_whom_nobody_can_tell_hides_nothing_of_another():
    async def told_of(tenant):
        if tenant == "acme":
            raise Refused(Outcome.BUDGET_UNAVAILABLE, "the Journal does not answer")
        return await told(tenant)

    acme, other = shown([state("acme"), state("other")], told_of)
    assert (acme["used"], acme["amount"], acme["why_unknown"]) == (None, 10, "the Journal does not answer")
    assert other["used"] == 4


def test_a_tenant_is_asked_about_once_and_few_at_a_time():
    asked, at_once, most = [], 0, 0

    async def told_of(tenant):
        nonlocal at_once, most
        asked.append(tenant)
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return await told(tenant)

    tenants = [f"t{number:03}" for number in range(10 * ASKED_AT_ONCE)]
    shown([state(tenant, id=f"lim_{tenant}_{number}") for tenant in tenants for number in range(2)], told_of)
    assert sorted(asked) == tenants
    assert 1 < most <= ASKED_AT_ONCE


@pytest.mark.parametrize("told_of", [[], [{"id": "lim_acme", "amount": 10}], [{"id": "lim_other", "used": 1}]])
def test_a_gateway_that_tells_nothing_of_a_limit_leaves_its_use_unknown(told_of):
    (found,) = join_use([state()], told_of, "it is older")
    assert (found["amount"], found["used"], found["why_unknown"]) == (10, None, "it is older")
