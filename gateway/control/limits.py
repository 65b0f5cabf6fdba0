"""Limits: how much of what may be asked for per minute, or be under way at once. Verbs over the Directory."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway.control.subjects import Who, find_subject, read_directory, rule_id
from gateway.core.limits import Limit, Metric
from gateway.core.liveness import Known, flaw_of
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.directory import DirectoryStore

AMOUNT_MAX = 10**12  # beyond any fleet's minute: a slip of the pen


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit, and why it binds nothing; empty if it does."""

    limit: Limit
    flaw: str


def set_limit(store: DirectoryStore, who: Who, metric: str, amount: int, *, now_ms: int) -> Limit:
    """
    Allow whom *who* names so much of *metric* (a label of core/limits.py). Idempotent; another amount replaces it.

    Raises NotFoundError for what does not exist, InvalidInput for a metric or an amount that cannot be.
    """
    _check_metric(metric)
    if not 1 <= amount <= AMOUNT_MAX:
        advice = "To refuse everything, suspend the tenant or revoke the key."
        raise InvalidInput(f"{metric} {amount} cannot be: a limit is 1 to {AMOUNT_MAX}. {advice}")
    subject = find_subject(store, who, now_ms)
    identity = rule_id("lim", subject.scope, subject.subject, subject.model, metric)
    limit = Limit(id=identity, **asdict(subject), metric=metric, amount=amount)
    store.put_limit(limit)
    return limit


def remove_limit(store: DirectoryStore, limit_id: str) -> Limit:
    """Have a limit bind nobody from now on. Idempotent. Raises NotFoundError."""
    limit = next((each for each in store.limits() if each.id == limit_id), None)
    if limit is None:
        raise NotFoundError(f"There is no limit {limit_id!r}. See `sluice limits list`; a limit's id starts with lim_.")
    removed = replace(limit, is_removed=True)
    if removed != limit:
        store.put_limit(removed)
    return removed


def list_limits(store: DirectoryStore, tenant: str | None, now_ms: int) -> list[LimitState]:
    """Give all limits that are not removed, or those of a tenant, and whether each is live."""
    snapshot = read_directory(store)
    known = Known.of(snapshot, now_ms)
    found = (each for each in snapshot.limits.values() if not each.is_removed and tenant in (None, each.tenant))
    ordered = sorted(found, key=lambda each: (each.scope, each.subject, each.model, each.metric))
    return [LimitState(each, flaw_of(each, known, now_ms)) for each in ordered]


def to_json(state: LimitState) -> dict[str, Any]:
    """Give what is shown of a limit."""
    fields = {name: value for name, value in asdict(state.limit).items() if name != "is_removed"}
    return {**fields, "is_live": not state.flaw, "flaw": state.flaw}


def _check_metric(metric: str) -> None:
    known = [each.value for each in Metric]
    if metric not in known:
        raise InvalidInput(f"There is no metric {metric!r}. Choose one of {', '.join(known)}.")
