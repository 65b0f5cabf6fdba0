"""Workers: what runs, and what operators order of it. Verbs over the Roster."""

from collections.abc import Callable
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from fastapi import APIRouter

from gateway.core.orders import Order
from gateway.core.outcome import Outcome
from gateway.core.roster import Beat, WorkerState
from gateway.core.worker_figures import WorkerFigures
from gateway.errors import NotFoundError, Refused
from gateway.ports.roster import Roster

NEAR_MAX = 3  # names like one that is not known, in its refusal


def list_workers(roster: Roster, now_ms: int) -> list[dict[str, Any]]:
    """List all workers whose lease holds, by name, with their health as this gateway sees it."""
    figures = {of.worker: of for of in roster.figures()}
    beats = sorted(roster.beats(), key=lambda beat: beat.worker)
    return [_to_json(roster, beat, now_ms) | _health(figures.get(beat.worker), now_ms) for beat in beats]


def order_worker(roster: Roster, worker: str, order: Order, now_ms: int) -> dict[str, Any]:
    """
    Have a worker serve, be passed over, sleep, or end what it has and go; gives it as it is then. Idempotent.

    Raises NotFoundError, and Refused(CONFLICT) if it drains: that cannot be undone.
    """
    beat = _find(roster, worker)
    if beat.state is WorkerState.DRAINING and order is not Order.DRAIN:
        message = f"The worker {worker!r} drains, which cannot be undone: start another one."
        raise Refused(Outcome.CONFLICT, message, code="worker_drains")
    roster.order(worker, order)
    return _to_json(roster, _find(roster, worker), now_ms)


def workers_router(roster: Roster, now_ms: Callable[[], int]) -> APIRouter:
    """Make the routes under /workers."""
    router = APIRouter(prefix="/workers")

    # On the event loop, as the roster is its own; none of these waits for a store.
    @router.get("")
    async def list_all() -> dict[str, Any]:
        return {"object": "list", "data": list_workers(roster, now_ms())}

    @router.post("/{worker:path}/cordon")
    async def cordon(worker: str) -> dict[str, Any]:
        return order_worker(roster, worker, Order.CORDON, now_ms())

    @router.post("/{worker:path}/uncordon")
    async def uncordon(worker: str) -> dict[str, Any]:
        return order_worker(roster, worker, Order.SERVE, now_ms())

    @router.post("/{worker:path}/sleep")
    async def sleep(worker: str) -> dict[str, Any]:
        return order_worker(roster, worker, Order.SLEEP, now_ms())

    @router.post("/{worker:path}/drain")
    async def drain(worker: str) -> dict[str, Any]:
        return order_worker(roster, worker, Order.DRAIN, now_ms())

    return router


def _find(roster: Roster, worker: str) -> Beat:
    beats = {beat.worker: beat for beat in roster.beats()}
    if worker in beats:
        return beats[worker]
    near = get_close_matches(worker, beats, NEAR_MAX)
    advice = f"Is it {' or '.join(map(repr, near))}?" if near else "See `sluice worker list`."
    raise NotFoundError(f"There is no worker {worker!r} now. {advice}")


def _to_json(roster: Roster, beat: Beat, now_ms: int) -> dict[str, Any]:
    """Give what people see of a worker; never the key to its engine."""
    standing = roster.standing(beat.worker)
    shown = {name: value for name, value in asdict(beat).items() if name != "engine_key"}
    return {
        **shown,
        "state": beat.state.value,
        "order": standing.order.label,
        "in_flight": standing.in_flight,
        "since_ms": now_ms - round(standing.state_s * 1000),
    }


def _health(of: WorkerFigures | None, now_ms: int) -> dict[str, Any]:
    """Give how this gateway takes a worker, why and until when, what it would give it and what it counted of it."""
    if of is None:
        return {}
    return {
        "health": of.health.value,
        "health_reason": of.reason,
        "health_until_ms": None if of.left_s is None else now_ms + round(of.left_s * 1000),
        "credit_seqs": of.credit_seqs,
        "faults": {fault.label: count for fault, count in of.faults.items() if count},
        "ejections": of.ejections,
    }
