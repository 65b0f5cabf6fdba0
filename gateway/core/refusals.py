"""What a line says to those it cannot serve: which limit, whose, how it stands, and when to come again."""

from math import ceil
from typing import Any

from gateway.core.directory import ServiceClass
from gateway.core.outcome import Outcome
from gateway.core.scheduling import Bound, LineBounds, Ticket
from gateway.errors import Refused

RETRY_AFTER_S_MIN, RETRY_AFTER_S_MAX = 1, 60  # OpenAI's Node SDK obeys no more than 60 s


def line_full(pool: str, waiting_max: int, drain_s: float | None) -> Refused:
    """Refuse a ticket that finds *waiting_max* others waiting; *drain_s* is when they will have been granted."""
    message = f"The line of the pool {pool!r} is full: {waiting_max} requests wait, and no more may."
    limit = _limit("queue_full", "pool", pool, current=waiting_max, allowed=waiting_max, clears_in_s=drain_s)
    return _refuse(Outcome.QUEUE_FULL, message, limit)


def share_full(pool: str, tenant: str, allowed: int, drain_s: float | None) -> Refused:
    """Refuse a ticket whose tenant has *allowed* others waiting already."""
    message = f"The tenant {tenant!r} has {allowed} requests waiting in the line of the pool {pool!r}, its share of it."
    limit = _limit("tenant_queue_full", "tenant", tenant, current=allowed, allowed=allowed, clears_in_s=drain_s)
    return _refuse(Outcome.QUEUE_FULL, message, limit, code="tenant_queue_full")


def bound_reached(pool: str, tenant: str, bound: Bound, bounds: LineBounds, drain_s: float | None) -> Refused:
    """Refuse a ticket of *tenant* that *bound* keeps out of the line; *drain_s* as above."""
    if bound is Bound.LINE:
        return line_full(pool, bounds.waiting_max, drain_s)
    return share_full(pool, tenant, bounds.of_tenant_max, drain_s)


def wait_too_long(pool: str, ticket: Ticket, eta_s: float, allowed_s: float) -> Refused:
    """Refuse a ticket that would wait longer than its class or its client allows."""
    message = (
        f"A slot of the pool {pool!r} is expected in {eta_s:.0f} s; this request may wait {max(0.0, allowed_s):.0f} s "
        f"(X-Request-Deadline-Ms, or the limit of the class {ticket.service_class.label})."
    )
    limit = _limit("wait", "request", ticket.id, current=eta_s, allowed=allowed_s, clears_in_s=eta_s - allowed_s)
    limit["eta_s"] = round(eta_s, 1)
    return _refuse(Outcome.WAIT_TOO_LONG, message, limit)


def waited_too_long(pool: str, ticket: Ticket, waited_s: float) -> Refused:
    """Refuse a ticket whose time is over."""
    message = (
        f"No slot of the pool {pool!r} came free within {waited_s:.0f} s, which is how long this request may wait "
        f"(X-Request-Deadline-Ms, or the limit of the class {ticket.service_class.label})."
    )
    limit = _limit("wait", "request", ticket.id, current=waited_s, allowed=waited_s, clears_in_s=None)
    return _refuse(Outcome.WAIT_TOO_LONG, message, limit)


def no_worker(pool: str, service_class: ServiceClass, hold_s_max: float, eta_s: float | None) -> Refused:
    """Refuse a request of a pool without a ready worker: one is expected in *eta_s*, or it has been held so long."""
    limit = _limit("hold", "pool", pool, current=eta_s or hold_s_max, allowed=hold_s_max, clears_in_s=eta_s)
    if eta_s is None:
        message = f"No worker of the pool {pool!r} became ready within {hold_s_max:.0f} s, which is how long a request"
    else:
        limit["eta_s"] = round(eta_s, 1)
        message = (
            f"A worker of the pool {pool!r} is expected to be ready in {eta_s:.0f} s; {hold_s_max:.0f} s a request"
        )
    return _refuse(Outcome.NO_WORKER, f"{message} of the class {service_class.label} may wait for one.", limit)


def draining() -> Refused:
    """Send a request to another gateway, as this one goes before its turn would come."""
    message = (
        "This gateway is shutting down before this request's turn would come. Retry at once: another gateway answers, "
        "and knows how long it has waited."
    )
    return Refused(Outcome.DRAINING, message, retry_after_s=RETRY_AFTER_S_MIN, should_retry=True)


def _limit(
    name: str, scope: str, of: str, *, current: float, allowed: float, clears_in_s: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "scope": scope,
        "of": of,
        "current": round(current, 1),
        "allowed": round(max(0.0, allowed), 1),
        "clears_in_s": None if clears_in_s is None else round(max(0.0, clears_in_s), 1),
    }


def _refuse(outcome: Outcome, message: str, limit: dict[str, Any], code: str | None = None) -> Refused:
    """Advise to retry within what clients obey; where the wait is longer than that, advise against it."""
    clears_in_s = limit["clears_in_s"]
    if clears_in_s is not None and clears_in_s > RETRY_AFTER_S_MAX:
        message += f" That will take about {clears_in_s:.0f} s: come again then."
        return Refused(outcome, message, code=code, should_retry=False, limit=limit)
    retry_after_s = RETRY_AFTER_S_MAX if clears_in_s is None else max(RETRY_AFTER_S_MIN, ceil(clears_in_s))
    return Refused(
        outcome, f"{message} Retry in {retry_after_s} s.", code=code, retry_after_s=retry_after_s, limit=limit
    )
