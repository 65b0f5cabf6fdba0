"""What budgets have spent, what was paid in advance, and who is to be told: kept beside the Journal."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.spending import Counter

REVENUE = "revenue"


def cash_account(tenant: str) -> str:
    """Name the account that a tenant's money comes from."""
    return f"cash:{tenant}"


def prepaid_account(tenant: str) -> str:
    """Name the account of what a tenant paid in advance and has not spent."""
    return f"prepaid:{tenant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """
    Money from the account *debit* to the account *credit*. Never changed; a mistake is corrected by another one.

    *reference* is unique for ever, and may come from outside: the number of a payment.
    """

    id: str
    at_ms: int
    debit: str
    credit: str
    amount_nano: int
    currency: str
    reason: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A counter that is not what the events say: *found* should be *expected*. *what* is spent or posted."""

    budget: str
    period_ms: int
    what: str
    found: int
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """That *percent* of a budget were spent: *spent* of *amount*. *attempts* counts how often it was sent or tried."""

    budget: str
    period_ms: int
    percent: int
    spent: int
    amount: int
    noted_ms: int
    attempts: int = 0


class BudgetStore(Protocol):
    """
    Counters and transfers. Blocking: call it from a thread. All raise StoreUnavailable within their time limit.

    Counters are caches: the Journal raises them in the transaction that appends events. Every change of a counter
    raises its version, also that of one which was lost and made anew.
    """

    def counters(
        self, periods: Collection[int] | None = None, budgets: Collection[str] | None = None
    ) -> Sequence[Counter]:
        """Give the counters of the periods that begin at these moments, of these budgets; None: of all."""

    def transfer(self, transfer: Transfer) -> Transfer:
        """
        Write a transfer, and change the counter of the prepaid budget it touches, in one transaction.

        Idempotent by *reference*: gives the transfer that has it. AlreadyExists if that one is about other accounts or
        another amount; InvalidInput if it would take out of a prepaid account more than there is; NotFoundError if the
        tenant has no prepaid budget.
        """

    def transfers(self, account: str, limit: int) -> Sequence[Transfer]:
        """Give the last transfers from or to *account*, newest first."""

    def balances(self) -> Sequence[tuple[str, str, int]]:
        """Sum all transfers: account, currency, and what came in less what went out. Over all accounts it is zero."""

    def prove(self) -> Sequence[Difference]:
        """Count everything anew from the Journal's events and compare; nobody waits for it. Empty: all is equal."""

    def rebuild(self) -> Sequence[Difference]:
        """
        Count everything anew and write it; gives what differed. Appending waits meanwhile.

        Counters are overwritten, postings of prepaid accounts corrected by further transfers.
        """


class AlertStore(Protocol):
    """Alerts that have to be told, once for all gateways. Blocking, as above."""

    def note(self, alerts: Sequence[Alert], due_ms: int | None) -> Sequence[Alert]:
        """
        Note alerts, once per budget, period and percent; gives those that are new.

        They become due at *due_ms*; None: nobody is to be told.
        """

    def take_due(self, now_ms: int, count: int) -> Sequence[Alert]:
        """Take up to *count* that are due, attempts raised. What is not settled within a minute is due again."""

    def settle(self, alert: Alert, now_ms: int, retry_in_s: float | None) -> None:
        """Have it sent again in *retry_in_s*; None if it was received, or nobody shall try again."""
