"""GET /v1/limits: the limits and budgets of the caller's key, project and tenant, and what is left of each, now."""

import json
from typing import Any

from gateway.core.budgets import BudgetKind
from gateway.core.holds import BudgetStanding, LimitStanding
from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane

PATH = "/v1/limits"


async def serve_limits(call: Call, plane: Plane, reply: Reply) -> None:
    """
    Answer a caller about its own. It takes nothing, costs nothing and leaves no meter event.

    Limits of a model as a whole are not told: what is used of them is other tenants' business. Raises Refused: 401, and
    503 while nobody can tell what a hard budget has left.
    """
    caller = plane.authn.identify(call.headers)
    standings = await plane.holds.standings(caller, call.arrived_ms)
    body = {
        "object": "sluice.limits",
        "tenant": caller.tenant,
        "project": caller.project,
        "key": caller.key,
        "is_shared": standings.is_shared,
        "limits": [_limit(standing) for standing in standings.limits],
        "budgets": [_budget(standing) for standing in standings.budgets],
    }
    await reply.answer(200, json.dumps(body).encode())


def _limit(standing: LimitStanding) -> dict[str, Any]:
    ask, clears_in_s = standing.ask, standing.clears_in_s
    return {
        "id": ask.id,
        "scope": ask.scope,
        "subject": ask.subject,
        "model": ask.model,
        "metric": ask.metric,
        "amount": ask.amount,
        "used": standing.used,
        "remaining": standing.remaining,
        "clears_in_s": None if clears_in_s is None else round(clears_in_s, 1),
    }


def _budget(standing: BudgetStanding) -> dict[str, Any]:
    """Give amounts in nano-units of the currency; of a quota, which has none, in tokens."""
    ask = standing.ask
    return {
        "id": ask.id,
        "scope": ask.scope,
        "subject": ask.subject,
        "model": ask.model,
        "kind": ask.kind,
        "is_hard": ask.is_hard,
        "currency": None if ask.kind == BudgetKind.TOKENS.value else ask.currency,
        "begins_at": ask.begins_ms // 1000,
        "ends_at": None if ask.ends_ms is None else ask.ends_ms // 1000,
        "amount": ask.amount,
        "spent": standing.spent + standing.unshipped,
        "held": standing.held,
        "available": standing.available,
    }
