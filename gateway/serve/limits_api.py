"""GET /v1/limits: each limit and budget that binds the caller's own key, what is left of it, and when it clears."""

import json
from typing import Any

from gateway.core.budgets import Budget, BudgetKind
from gateway.core.holds import BudgetStanding, LimitStanding
from gateway.core.limits import Limit
from gateway.core.liveness import Known, flaw_of
from gateway.core.money import format_nano
from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane

PATH = "/v1/limits"


async def serve_limits(call: Call, plane: Plane, reply: Reply) -> None:
    """Tell a caller how its limits and budgets stand now. It costs nothing, and leaves no meter event."""
    caller = plane.authn.identify(call.headers)
    standings = await plane.holds.standings(caller, call.arrived_ms)
    snapshot = plane.directory.snapshot
    known = Known.of_caller(snapshot, caller.tenant, caller.project, caller.key)

    def whether_live(rule: Limit | Budget) -> dict[str, Any]:
        flaw = flaw_of(rule, known, call.arrived_ms)
        return {"is_live": not flaw, "flaw": flaw}

    body = {
        "object": "sluice.limits",
        "is_shared": standings.is_shared,
        "limits": [limit_to_json(each) | whether_live(snapshot.limits[each.ask.id]) for each in standings.limits],
        "budgets": [budget_to_json(each) | whether_live(snapshot.budgets[each.ask.id]) for each in standings.budgets],
    }
    await reply.answer(200, json.dumps(body).encode())


def limit_to_json(standing: LimitStanding) -> dict[str, Any]:
    """Give how a limit stands; *clears_in_s* is when all of it is free, None: when what is under way ends."""
    ask, clears_in_s = standing.ask, standing.clears_in_s
    return {
        **{name: getattr(ask, name) for name in ("id", "scope", "subject", "model", "metric")},
        "allowed": ask.amount,
        "used": standing.used,
        "left": standing.remaining,
        "clears_in_s": None if clears_in_s is None else round(clears_in_s, 3),
    }


def budget_to_json(standing: BudgetStanding) -> dict[str, Any]:
    """Give how a budget stands, money in its currency; *ends_ms* is when its next period begins."""
    ask = standing.ask
    is_tokens, is_prepaid = ask.kind == BudgetKind.TOKENS.value, ask.kind == BudgetKind.PREPAID.value

    def shown(amount: int) -> str | int:
        return amount if is_tokens else format_nano(amount)

    return {
        **{name: getattr(ask, name) for name in ("id", "scope", "subject", "model", "kind", "is_hard", "ends_ms")},
        "currency": None if is_tokens else ask.currency,
        "allowed": None if is_prepaid else shown(ask.amount),
        "used": None if is_prepaid else shown(standing.spent + standing.unshipped),
        "held": shown(standing.held),
        "left": shown(standing.available),
    }
