"""
That prices are in the currency of the money they are counted against: of budgets, and of what was paid in advance.

A budget counts nothing at a price in another currency, so such a price would quietly lift it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.core.budgets import BudgetKind
from gateway.core.money import format_nano, shown
from gateway.core.prices import PriceBook, PriceVersion
from gateway.errors import InvalidInput
from gateway.ports.budgets import BudgetStore, prepaid_account
from gateway.ports.directory import DirectoryStore

NAMED_MAX = 3  # of those concerned: enough to see which tenants it is about
_IN_MONEY = {BudgetKind.MONEY.value, BudgetKind.PREPAID.value}


@dataclass(frozen=True, slots=True)
class Purse:
    """A budget of money or a balance, as *what* says it; *model* narrows it down, empty means all."""

    what: str
    tenant: str
    model: str
    currency: str


Clash = tuple[PriceVersion, Purse]  # a price, and what is counted by it in another currency


def purses(store: DirectoryStore, ledger: BudgetStore | None) -> list[Purse]:
    """Give all budgets of money, and the balances that *ledger* has of tenants without a prepaid budget any more."""
    budgets = [budget for budget in store.budgets() if budget.kind in _IN_MONEY and not budget.is_removed]
    of_budgets = (
        Purse(f"budget {budget.id} of tenant {shown(budget.tenant)}", budget.tenant, budget.model, budget.currency)
        for budget in budgets
    )
    prepaid = {(each.tenant, each.currency) for each in budgets if each.kind == BudgetKind.PREPAID.value}
    of_balances = (each for each in left_over(ledger) if (each.tenant, each.currency) not in prepaid)
    return [*of_budgets, *of_balances]


def left_over(ledger: BudgetStore | None, tenant: str | None = None) -> Iterator[Purse]:
    """Give the balances, or those of *tenant*, that are not zero."""
    prefix = prepaid_account("")
    for account, currency, nano in ledger.balances() if ledger else ():
        whose = account.removeprefix(prefix)
        if account.startswith(prefix) and nano and tenant in (None, whose):
            yield Purse(f"the balance of {format_nano(nano)} of tenant {shown(whose)}", whose, "", currency)


def check_currencies(
    before: PriceBook,
    after: PriceBook,
    found: Sequence[Purse],
    where: Mapping[str, str],
    now_ms: int,
) -> None:
    """
    Raise InvalidInput if *after* has a clash that *before* has not: by a new price, or one that nothing covers now.

    *where* says by id where a version was written; one that is not in it is named by its id.
    """
    clashes = list(_clashes(after, found, now_ms))
    if not clashes:
        return
    known = {(version.id, purse) for version, purse in _clashes(before, found, now_ms)}
    fresh = [(version, purse) for version, purse in clashes if (version.id, purse) not in known]
    if not fresh:
        return
    version = fresh[0][0]
    said = where.get(version.id) or f"version {version.id} of model {shown(version.model)}, which it would uncover"
    raise InvalidInput(_message(said, version, [purse for each, purse in fresh if each is version]))


def _clashes(book: PriceBook, found: Iterable[Purse], now_ms: int) -> Iterator[Clash]:
    odd: dict[str, list[Purse]] = {}
    every = list(found)
    for version in book.by_id.values():
        if version.is_withdrawn or (version.to_ms is not None and version.to_ms <= now_ms):
            continue
        if version.currency not in odd:
            odd[version.currency] = [purse for purse in every if purse.currency != version.currency]
        yield from ((version, purse) for purse in odd[version.currency] if _meets(version, purse, book, now_ms))


def _meets(version: PriceVersion, purse: Purse, book: PriceBook, now_ms: int) -> bool:
    """Tell whether requests at this price are counted in *purse*; prices of the tenant's own may cover it."""
    if purse.model not in {"", version.model} or version.tenant not in {"", purse.tenant}:
        return False
    return bool(version.tenant) or not book.is_covered(version, purse.tenant, now_ms)


def _message(said: str, version: PriceVersion, met: Sequence[Purse]) -> str:
    others = "; ".join(f"{purse.what}, {purse.currency}" for purse in met[:NAMED_MAX])
    more = f"; and {len(met) - NAMED_MAX} more" if len(met) > NAMED_MAX else ""
    theirs = met[0].currency
    advice = (
        f"Price {version.model} in {theirs}, or give that tenant its own price of it in {theirs} for all that time; "
        f"or remove its budgets (and refund what is left) first, and declare them anew in {version.currency}"
    )
    return f"{said}: currency {shown(version.currency)} differs from that of {others}{more}. {advice}."
