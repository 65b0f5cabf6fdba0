"""GET /v1/limits: each limit and budget that binds the caller's own key, what is left of it, and when it clears."""

import json
from typing import Any

from gateway.core.budgets import Budget
from gateway.core.hold_views import budget_to_json, limit_to_json
from gateway.core.limits import Limit
from gateway.core.liveness import Known, flaw_of
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
