"""What a price must agree with outside of the book: the models, tenants and budgets of the Directory."""

from collections.abc import Iterable, Mapping, Sequence

from gateway.control.price_entries import PriceEntry
from gateway.core.budgets import Budget, BudgetKind
from gateway.core.directory import Model
from gateway.core.money import shown
from gateway.core.prices import PriceBook
from gateway.errors import InvalidInput
from gateway.ports.directory import DirectoryStore

_IN_MONEY = {BudgetKind.MONEY.value, BudgetKind.PREPAID.value}


def check_entries(
    store: DirectoryStore,
    entries: Sequence[PriceEntry],
    after: PriceBook,
    *,
    allows_unknown_models: bool,
    coming: Iterable[Model] = (),
) -> None:
    """
    Raise InvalidInput for the first of *entries* that names what is not there; *after* is the book to be.

    Models that are *coming* with the same step count as if they were there.
    """
    models = {model.name: model for model in (*store.models(), *coming)}
    tenants = {tenant.id for tenant in store.tenants()}
    budgets = [budget for budget in store.budgets() if budget.kind in _IN_MONEY and not budget.is_removed]
    for entry in entries:
        if not allows_unknown_models:
            _check_model(entry, models)
        if entry.tenant and entry.tenant not in tenants:
            message = f"{entry.where}: tenant {shown(entry.tenant)} does not exist"
            raise InvalidInput(f"{message}. See `sluice tenants list`; leave it out for everybody's price.")
        _check_currency(entry, _met(entry, budgets, after))


def _check_model(entry: PriceEntry, models: Mapping[str, Model]) -> None:
    """Refuse a model or a pool that nobody could ask for: such a price would never be found."""
    advice = "--allow-unknown-models takes it for one that is yet to come."
    known = models.get(entry.model)
    if known is None:
        raise InvalidInput(
            f"{entry.where}: model {shown(entry.model)} does not exist. See `sluice models list`; {advice}"
        )
    if entry.pool not in {"", *known.pools}:
        serving = " and ".join(map(shown, known.pools))
        message = f"{entry.where}: pool {shown(entry.pool)} does not serve {entry.model}, pool {serving} does"
        raise InvalidInput(f"{message}. Leave it out to price all pools; {advice}")


def _met(entry: PriceEntry, budgets: Iterable[Budget], after: PriceBook) -> list[Budget]:
    """Give the budgets that requests at this price are counted against; a tenant's own price shields its budgets."""
    return [
        budget
        for budget in budgets
        if budget.model in {"", entry.model}
        and (
            budget.tenant == entry.tenant
            or (not entry.tenant and (entry.model, "", budget.tenant) not in after.by_scope)
        )
    ]


def _check_currency(entry: PriceEntry, budgets: Iterable[Budget]) -> None:
    for budget in budgets:
        if budget.currency != entry.currency:
            other = f"that of budget {budget.id} of tenant {shown(budget.tenant)}, {budget.currency}"
            advice = f"Price {entry.model} in {budget.currency} for that tenant first, or change the budget."
            raise InvalidInput(f"{entry.where}: currency {shown(entry.currency)} differs from {other}. {advice}")
