"""
What is used of limits right now. Only gateways know: it is in Redis, or in the memory of the one gateway there is.

Every limit has one subject (a tenant, a project, a key, or a model for everybody) and one count, which all requests
that it binds share; so each has one figure, whoever sent them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.control.limits import LimitState, to_json
from gateway.core.holds import LimitStanding, Standings
from gateway.core.limits import Limit
from gateway.errors import Refused

ASKED_AT_ONCE = 16  # tenants: a list of thousands shall not crowd out requests' own calls to Redis
NOT_HEARD = "the gateway has not heard of this limit yet"

USE = ("used", "left", "clears_in_s", "is_shared", "why_unknown")


@dataclass(frozen=True, slots=True)
class _Told:
    """What was told of a tenant's limits, by id; *why* says why one is not among them."""

    by_id: Mapping[str, LimitStanding]
    is_shared: bool
    why: str


async def with_use(states: Sequence[LimitState], ask: Callable[[str], Awaitable[Standings]]) -> list[dict[str, Any]]:
    """Give what is shown of limits and of their use; *ask* tells how those of one tenant stand, "" those of models."""
    turns = asyncio.Semaphore(ASKED_AT_ONCE)
    tenants = sorted({state.limit.tenant for state in states})
    answers = await asyncio.gather(*(_told(tenant, ask, turns) for tenant in tenants))
    told = dict(zip(tenants, answers, strict=True))
    return [to_json(state) | _use(state.limit, told[state.limit.tenant]) for state in states]


def join_use(states: Iterable[LimitState], told: Iterable[Mapping[str, Any]], why: str) -> list[dict[str, Any]]:
    """Give what is shown of limits, and of their use what a gateway *told*; *why* of those that it did not tell of."""
    by_id = {each["id"]: {name: each[name] for name in USE} for each in told if set(USE) <= each.keys()}
    return [to_json(state) | by_id.get(state.limit.id, _unknown(why)) for state in states]


async def _told(tenant: str, ask: Callable[[str], Awaitable[Standings]], turns: asyncio.Semaphore) -> _Told:
    async with turns:
        try:
            standings = await ask(tenant)
        except Refused as refusal:  # a hard budget that no gateway has heard of, while the Journal is away
            return _Told({}, is_shared=False, why=str(refusal))
    return _Told({each.ask.id: each for each in standings.limits}, standings.is_shared, NOT_HEARD)


def _use(limit: Limit, told: _Told) -> dict[str, Any]:
    standing = told.by_id.get(limit.id)
    if standing is None:
        return _unknown(told.why)
    clears_in_s = standing.clears_in_s
    return {
        "used": standing.used,
        "left": max(0, limit.amount - standing.used),
        "clears_in_s": None if clears_in_s is None else round(clears_in_s, 3),
        "is_shared": told.is_shared,
        "why_unknown": "",
    }


def _unknown(why: str) -> dict[str, Any]:
    return {**dict.fromkeys(USE), "why_unknown": why}
