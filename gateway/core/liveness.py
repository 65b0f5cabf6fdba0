"""Whether a declared limit or budget binds anything at all: one that names nothing must not look like protection."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from gateway.core.binding import project_subject
from gateway.core.budgets import Budget, BudgetKind
from gateway.core.directory import Key, Model, Snapshot, Tenant
from gateway.core.limits import Limit, Scope
from gateway.core.prices import PriceBook, PriceVersion


@dataclass(frozen=True, slots=True)
class Known:
    """What limits and budgets may name. *keys* are by id, those that work; *projects* are those that have one."""

    tenants: Mapping[str, Tenant]
    keys: Collection[str]
    projects: Collection[str]
    models: Mapping[str, Model]
    prices: PriceBook

    @classmethod
    def of(cls, snapshot: Snapshot, now_ms: int) -> "Known":
        """Gather it from the whole Directory."""
        keys = [key for key in snapshot.keys.values() if key_works(key, now_ms)]
        projects = {project_subject(key.tenant, key.project) for key in keys}
        return cls(snapshot.tenants, {key.id for key in keys}, projects, snapshot.models, snapshot.prices)

    @classmethod
    def of_caller(cls, snapshot: Snapshot, tenant: str, project: str, key: str) -> "Known":
        """Gather it for who has just called with *key*, which therefore works."""
        return cls(snapshot.tenants, {key}, {project_subject(tenant, project)}, snapshot.models, snapshot.prices)


def key_works(key: Key, now_ms: int) -> bool:
    """Tell whether a key is neither revoked nor expired."""
    return not key.is_revoked and (key.expires_ms is None or key.expires_ms > now_ms)


def flaw_of(rule: Limit | Budget, known: Known, now_ms: int) -> str:
    """Say why *rule* binds nothing, or would count wrong; empty if it is live."""
    flaw = _flaw_of_subject(rule, known) or _flaw_of_model(rule.model, known)
    if flaw or isinstance(rule, Limit) or rule.kind == BudgetKind.TOKENS.value:
        return flaw
    return _flaw_of_prices(rule, known.prices, now_ms)


def dead_rules(snapshot: Snapshot, now_ms: int) -> Iterator[tuple[Limit | Budget, str]]:
    """Give the limits and budgets that bind nothing, and why."""
    rules: tuple[Limit | Budget, ...] = (*snapshot.limits.values(), *snapshot.budgets.values())
    declared = [rule for rule in rules if not rule.is_removed]
    known = Known.of(snapshot, now_ms) if declared else None
    for rule in declared:
        if known and (flaw := flaw_of(rule, known, now_ms)):
            yield rule, flaw


def priced(budget: Budget, prices: PriceBook, now_ms: int) -> list[PriceVersion]:
    """Give the versions of prices, of now and later, by which requests that *budget* binds may be rated."""
    return [
        each
        for each in prices.by_id.values()
        if not each.is_withdrawn
        and each.tenant in ("", budget.tenant)
        and budget.model in ("", each.model)
        and (each.to_ms is None or each.to_ms > now_ms)
        and (each.tenant or not prices.is_covered(each, budget.tenant, now_ms))
    ]


def _flaw_of_subject(rule: Limit | Budget, known: Known) -> str:
    if rule.scope == Scope.MODEL.value:
        return _flaw_of_model(rule.subject, known)
    tenant = known.tenants.get(rule.tenant)
    if tenant is None:
        return f"there is no tenant {rule.tenant!r}"
    if tenant.is_suspended:
        return f"tenant {rule.tenant!r} is suspended"
    if rule.scope == Scope.PROJECT.value and rule.subject not in known.projects:
        return f"project {rule.subject!r} has no key that works"
    if rule.scope == Scope.KEY.value and rule.subject not in known.keys:
        return f"key {rule.subject!r} does not work"
    return ""


def _flaw_of_model(name: str, known: Known) -> str:
    model = known.models.get(name)
    if not name or (model and not model.is_retired):
        return ""
    return f"model {name!r} is {'retired' if model else 'not declared'}"


def _flaw_of_prices(budget: Budget, prices: PriceBook, now_ms: int) -> str:
    found = priced(budget, prices, now_ms)
    if not found:
        return "nothing that it binds has a price"
    other = next((each for each in found if each.currency != budget.currency), None)
    return f"price {other.id!r} is in {other.currency}, not in {budget.currency}" if other else ""
