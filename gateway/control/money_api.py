"""/admin/v1/limits, budgets, balances and holds: the same verbs over HTTP, and how it all stands right now."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from gateway.control import balances, budgets, limit_use, limits
from gateway.control.names import NAME_CHARS_MAX
from gateway.control.subjects import Who
from gateway.control.webhook_address import URL_CHARS_MAX, AddressRules
from gateway.core.hold_views import budget_to_json, limit_to_json
from gateway.core.holds import Standings
from gateway.core.money import CURRENCY
from gateway.ports.budgets import BudgetStore, prepaid_account
from gateway.ports.directory import DirectoryStore

_Name = Annotated[str, Field(max_length=NAME_CHARS_MAX)]
_OfTenant = Annotated[str | None, Query()]


@dataclass(frozen=True, slots=True)
class MoneyDesk:
    """
    What these routes work with. *zone* is whose midnights the periods of new budgets begin at.

    *standings* tells how a tenant's limits and budgets stand right now, over all gateways; of the empty name, those of
    models, which are nobody's own.
    """

    directory: DirectoryStore
    ledger: BudgetStore
    addresses: AddressRules
    zone: str
    now_ms: Callable[[], int]
    standings: Callable[[str], Awaitable[Standings]]


class _Bound(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenant: _Name = ""
    project: _Name = ""
    key: _Name = ""
    model: _Name = ""

    def who(self) -> Who:
        """Give whom it names."""
        return Who(tenant=self.tenant, project=self.project, key=self.key, model=self.model)


class NewLimit(_Bound):
    """The body of POST /admin/v1/limits."""

    metric: _Name
    amount: int


class NewBudget(_Bound):
    """The body of POST /admin/v1/budgets; *amount* is a decimal number as text, or a number of tokens as text."""

    kind: _Name = "money"
    amount: _Name = ""
    period: _Name = "month"
    currency: _Name = CURRENCY
    is_hard: bool = False
    alerts: _Name = ""
    webhook: Annotated[str, Field(max_length=URL_CHARS_MAX)] = ""

    def terms(self) -> budgets.Terms:
        """Give what it grants."""
        names = ("kind", "amount", "period", "currency", "is_hard", "alerts", "webhook")
        return budgets.Terms(**{name: getattr(self, name) for name in names})


class NewTransfer(BaseModel):
    """The body of POST /admin/v1/balances/{tenant}/topup and …/refund; said twice with a reference, it counts once."""

    model_config = ConfigDict(extra="forbid")

    amount: _Name
    currency: _Name = CURRENCY
    reference: Annotated[str, Field(max_length=balances.REFERENCE_CHARS_MAX)] = ""


def money_routers(desk: MoneyDesk) -> tuple[APIRouter, ...]:
    """Make the routes."""
    return _limits(desk), _budgets(desk), _holds(desk), _balances(desk)


def _limits(desk: MoneyDesk) -> APIRouter:
    router = APIRouter(prefix="/limits")

    @router.get("")
    async def list_limits(tenant: _OfTenant = None) -> dict[str, Any]:
        states = await run_in_threadpool(limits.list_limits, desk.directory, tenant, desk.now_ms())
        return _listed(await limit_use.with_use(states, desk.standings))

    @router.post("", status_code=201)
    def set_limit(body: NewLimit) -> dict[str, Any]:
        made = limits.set_limit(desk.directory, body.who(), body.metric, body.amount, now_ms=desk.now_ms())
        return limits.to_json(limits.LimitState(made, ""))

    @router.delete("/{limit_id}")
    def remove_limit(limit_id: str) -> dict[str, Any]:
        return asdict(limits.remove_limit(desk.directory, limit_id))

    return router


def _budgets(desk: MoneyDesk) -> APIRouter:
    router = APIRouter(prefix="/budgets")

    def states(tenant: str | None) -> list[budgets.BudgetState]:
        return budgets.list_budgets(desk.directory, desk.ledger, tenant, desk.now_ms())

    @router.get("")
    def list_budgets(tenant: _OfTenant = None) -> dict[str, Any]:
        return _listed(map(budgets.to_json, states(tenant)))

    @router.post("", status_code=201)
    def set_budget(body: NewBudget) -> dict[str, Any]:
        made = budgets.set_budget(
            desk.directory,
            body.who(),
            body.terms(),
            desk.addresses,
            zone=desk.zone,
            now_ms=desk.now_ms(),
            ledger=desk.ledger,
        )
        return budgets.to_json(next(each for each in states(made.tenant) if each.budget.id == made.id))

    @router.delete("/{budget_id}")
    def remove_budget(budget_id: str) -> dict[str, Any]:
        return asdict(budgets.remove_budget(desk.directory, budget_id))

    return router


def _holds(desk: MoneyDesk) -> APIRouter:
    router = APIRouter(prefix="/holds")

    @router.get("")
    async def show_holds(tenant: str) -> dict[str, Any]:
        standings = await desk.standings(tenant)
        return {
            "tenant": tenant,
            "is_shared": standings.is_shared,
            "limits": [limit_to_json(each) for each in standings.limits],
            "budgets": [budget_to_json(each) for each in standings.budgets],
        }

    return router


def _balances(desk: MoneyDesk) -> APIRouter:
    router = APIRouter(prefix="/balances")

    @router.get("")
    def list_balances(tenant: _OfTenant = None) -> dict[str, Any]:
        return _listed(balances.balances(desk.ledger, tenant))

    @router.get("/{tenant}/history")
    def list_transfers(tenant: str, limit: int = 50) -> dict[str, Any]:
        return _listed(balances.history(desk.ledger, tenant, limit))

    @router.post("/{tenant}/topup", status_code=201)
    def top_up(tenant: str, body: NewTransfer) -> dict[str, Any]:
        made = balances.top_up(desk.ledger, tenant, now_ms=desk.now_ms(), **dict(body))
        return balances.to_json(made, prepaid_account(tenant))

    @router.post("/{tenant}/refund", status_code=201)
    def refund(tenant: str, body: NewTransfer) -> dict[str, Any]:
        made = balances.refund(desk.ledger, tenant, now_ms=desk.now_ms(), **dict(body))
        return balances.to_json(made, prepaid_account(tenant))

    return router


def _listed(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(rows)}
