"""Budgets: money or tokens per period, or what was paid in advance. Verbs over the Directory and the ledger."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway.control.price_currencies import left_over
from gateway.control.subjects import Subject, Who, find_subject, read_directory, rule_id
from gateway.control.webhook_address import AddressRules, check_address
from gateway.core.budgets import Budget, BudgetKind, Period
from gateway.core.limits import Scope
from gateway.core.liveness import Known, flaw_of, priced
from gateway.core.money import AMOUNT_NANO_MAX, CURRENCY, check_currency, format_nano, parse_nano
from gateway.core.periods import account, calendar
from gateway.core.prices import PriceBook
from gateway.core.spending import Counter, period_ms
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.budgets import BudgetStore
from gateway.ports.directory import DirectoryStore

TOKENS_MAX = 10**15
PERCENT_MAX = 1000
ALERTS_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """
    What a budget grants. *amount* is money as people write it, or a whole number of tokens; none if prepaid.

    *alerts* are percentages with commas between; *webhook* is told of each, once per period.
    """

    kind: str = BudgetKind.MONEY.value
    amount: str = ""
    period: str = Period.MONTH.value
    currency: str = CURRENCY
    is_hard: bool = False
    alerts: str = ""
    webhook: str = ""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget, what it has spent in the present period, and why it counts nothing or wrong; empty if it is live."""

    budget: Budget
    spent: int
    ends_ms: int | None
    flaw: str


def set_budget(
    store: DirectoryStore,
    who: Who,
    terms: Terms,
    rules: AddressRules,
    *,
    zone: str,
    now_ms: int,
    ledger: BudgetStore | None = None,
) -> Budget:
    """
    Grant whom *who* names what *terms* say. Idempotent; other terms for the same kind and period replace them.

    It counts what the present period has spent already, in *zone*. Raises NotFoundError for what does not exist,
    InvalidInput for terms that cannot be, also for a currency that is not that of the prices it would meet, or of what
    *ledger* has of a prepaid balance.
    """
    kind, period = _check_kind(terms, who)
    alerts = _check_alerts(terms.alerts)
    if terms.webhook:
        _check_webhook(terms, alerts, rules)
    subject = find_subject(store, who, now_ms)
    _check_scope(subject, kind)
    identity = rule_id("bud", subject.scope, subject.subject, subject.model, kind.value, period.value)
    budget = Budget(
        id=identity,
        **asdict(subject),
        kind=kind.value,
        period=period.value,
        amount=_amount(kind, terms.amount),
        currency=check_currency(terms.currency),
        is_hard=terms.is_hard,
        alert_percents=alerts,
        webhook_url=terms.webhook,
        zone=zone,
        since_ms=now_ms,
    )
    _check_currency(store, budget, now_ms)
    _check_balance(budget, ledger)
    budget = _continued(store, budget)
    store.put_budget(budget)
    return budget


def remove_budget(store: DirectoryStore, budget_id: str) -> Budget:
    """Have a budget bind nobody from now on; a balance stays as it is. Idempotent. Raises NotFoundError."""
    budget = _find(store, budget_id)
    if budget is None:
        raise NotFoundError(
            f"There is no budget {budget_id!r}. See `sluice budgets list`; a budget's id starts with bud_."
        )
    removed = replace(budget, is_removed=True)
    if removed != budget:
        store.put_budget(removed)
    return removed


def list_budgets(store: DirectoryStore, ledger: BudgetStore, tenant: str | None, now_ms: int) -> list[BudgetState]:
    """Give all budgets that are not removed, or those of a tenant: what each has spent, and whether it is live."""
    snapshot = read_directory(store)
    known = Known.of(snapshot, now_ms)
    found = (each for each in snapshot.budgets.values() if not each.is_removed and tenant in (None, each.tenant))
    shown = sorted(found, key=lambda each: (each.tenant, each.subject, each.model, each.kind, each.period))
    counters = ledger.counters({period_ms(each, now_ms) for each in shown})
    by_account = {account(each.budget, each.period_ms): each for each in counters}
    return [_state(each, by_account, known, now_ms) for each in shown]


def to_json(state: BudgetState) -> dict[str, Any]:
    """Give what is shown of a budget: money in its currency, tokens as they are."""
    budget, is_prepaid = state.budget, state.budget.kind == BudgetKind.PREPAID.value
    left = -state.spent if is_prepaid else budget.amount - state.spent
    names = ("id", "scope", "subject", "tenant", "model", "kind", "period", "zone", "is_hard", "alert_percents")
    return {
        **{name: getattr(budget, name) for name in names},
        "currency": None if budget.kind == BudgetKind.TOKENS.value else budget.currency,
        "amount": None if is_prepaid else shown_amount(budget, budget.amount),
        "spent": None if is_prepaid else shown_amount(budget, state.spent),
        "left": shown_amount(budget, left),
        "ends_ms": state.ends_ms,
        "webhook_url": budget.webhook_url,
        "is_live": not state.flaw,
        "flaw": state.flaw,
    }


def shown_amount(budget: Budget, amount: int) -> str | int:
    """Write an amount of a budget: money as people do, tokens as a number."""
    return amount if budget.kind == BudgetKind.TOKENS.value else format_nano(amount)


def _state(budget: Budget, counters: Mapping[str, Counter], known: Known, now_ms: int) -> BudgetState:
    begins_ms = period_ms(budget, now_ms)
    counter = counters.get(account(budget.id, begins_ms))
    ends_ms = calendar(budget.zone).span(budget.period, now_ms).to_ms
    return BudgetState(budget, counter.spent if counter else 0, ends_ms, flaw_of(budget, known, now_ms))


def _check_kind(terms: Terms, who: Who) -> tuple[BudgetKind, Period]:
    kinds, periods = [each.value for each in BudgetKind], [each.value for each in Period]
    if terms.kind not in kinds:
        raise InvalidInput(f"There is no kind of budget {terms.kind!r}. Choose one of {', '.join(kinds)}.")
    if terms.period not in periods:
        raise InvalidInput(f"There is no period {terms.period!r}. Choose one of {', '.join(periods)}.")
    kind = BudgetKind(terms.kind)
    if kind is BudgetKind.PREPAID and (who.project or who.key or who.model or terms.amount):
        advice = "Name the tenant alone; `sluice balance topup` says how much."
        raise InvalidInput(f"A prepaid balance is a tenant's, for all it uses, and has no amount. {advice}")
    return kind, Period.TOTAL if kind is BudgetKind.PREPAID else Period(terms.period)


def _check_scope(subject: Subject, kind: BudgetKind) -> None:
    if subject.scope == Scope.MODEL.value:
        advice = "Name a tenant too; for everybody together there are limits: `sluice limits set --model …`."
        raise InvalidInput(f"A {kind.value} budget of model {subject.subject!r} is nobody's. {advice}")


def _amount(kind: BudgetKind, text: str) -> int:
    if kind is BudgetKind.PREPAID:
        return 0
    if kind is BudgetKind.MONEY:
        amount, most, shown = parse_nano(text, "amount"), AMOUNT_NANO_MAX, format_nano(AMOUNT_NANO_MAX)
    else:
        amount, most, shown = _whole(text), TOKENS_MAX, str(TOKENS_MAX)
    if not 0 < amount <= most:
        advice = "To refuse everything, suspend the tenant or revoke the key."
        raise InvalidInput(f"amount {text!r} cannot be: a budget is more than 0 and at most {shown}. {advice}")
    return amount


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInput(f"amount {text!r} is not a whole number of tokens. Write it as 10000000.") from error


def _check_alerts(text: str) -> str:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    for part in parts:
        if not part.isascii() or not part.isdigit() or not 1 <= int(part) <= PERCENT_MAX:
            raise InvalidInput(f"alert {part!r} is not a percentage from 1 to {PERCENT_MAX}. Write them as 50,80,100.")
    if len(parts) > ALERTS_MAX:
        raise InvalidInput(f"{len(parts)} alerts are too many. The most is {ALERTS_MAX}.")
    return ",".join(map(str, sorted(set(map(int, parts)))))


def _check_webhook(terms: Terms, alerts: str, rules: AddressRules) -> None:
    if not alerts:
        raise InvalidInput(f"webhook {terms.webhook!r} would never be told anything. Give alerts, such as 50,80,100.")
    check_address(terms.webhook, rules)


def _check_currency(store: DirectoryStore, budget: Budget, now_ms: int) -> None:
    if budget.kind == BudgetKind.TOKENS.value:
        return
    for price in priced(budget, PriceBook.of(store.prices()), now_ms):
        if price.currency != budget.currency:
            what = f"price {price.id!r} of model {price.model!r}, which it would meet, is in {price.currency}"
            advice = (
                f"Declare the budget in {price.currency}, or for a model alone whose prices are in {budget.currency}"
            )
            raise InvalidInput(f"currency {budget.currency!r}: {what}. {advice}.")


def _check_balance(budget: Budget, ledger: BudgetStore | None) -> None:
    """Refuse to take up a balance in another currency: 100 CNY that were left when it was removed are not 100 USD."""
    if budget.kind != BudgetKind.PREPAID.value:
        return
    odd = next((each for each in left_over(ledger, budget.tenant) if each.currency != budget.currency), None)
    if odd:
        advice = f"Declare it in {odd.currency}, settle what is left, remove it and declare it anew"
        raise InvalidInput(f"currency {budget.currency!r}: {odd.what} is in {odd.currency}. {advice}.")


def _continued(store: DirectoryStore, budget: Budget) -> Budget:
    """Keep since when a budget counts that is changed; a new one, or one in another zone, begins now."""
    known = _find(store, budget.id)
    if known is None or known.is_removed or known.zone != budget.zone:
        return budget
    if known.kind == BudgetKind.PREPAID.value and known.currency != budget.currency:
        advice = "Refund what is left, remove the budget and declare it anew."
        raise InvalidInput(f"currency {budget.currency!r}: the balance is in {known.currency}. {advice}")
    return replace(budget, since_ms=known.since_ms)


def _find(store: DirectoryStore, budget_id: str) -> Budget | None:
    return next((each for each in store.budgets() if each.id == budget_id), None)
