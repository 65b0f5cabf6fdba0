"""What a request asks of limits and budgets before it starts, and how those stand."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitAsk:
    """
    What a request asks of one declared limit: *quantity* of *metric*, of which *amount* is allowed.

    *tenant* is whose keys in a store it is under, empty for the limit of a model; the rest is as in core/limits.py.
    """

    id: str
    scope: str
    subject: str
    tenant: str
    model: str
    metric: str
    amount: int
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAsk:
    """
    What a request asks of one account: *quantity* of its *amount*, in nano-units, or in tokens if *kind* is TOKENS.

    *account* names the period of the budget *id* (`core/periods.account`) that begins at *begins_ms* and ends at
    *ends_ms* (None: never). A hard one must be able to take all of *quantity*; a soft one takes it if it has anything
    left.
    """

    id: str
    account: str
    begins_ms: int
    scope: str
    subject: str
    tenant: str
    model: str
    kind: str
    currency: str
    amount: int
    ends_ms: int | None
    is_hard: bool
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """All that binds one request. *id* is the request's, or the job's whose run it is: one hold per id and owner."""

    id: str
    tenant: str
    limits: tuple[LimitAsk, ...] = ()
    budgets: tuple[BudgetAsk, ...] = ()


@dataclass(frozen=True, slots=True)
class LimitStanding:
    """
    How a limit stands: *used* of its amount in the last 60 s, or at once. *clears_in_s* is when all of it is free.

    *used* may exceed the amount: answers that were longer than foreseen are a debt that time pays. When requests under
    way end is not known: then *clears_in_s* is None.
    """

    ask: LimitAsk
    used: int
    clears_in_s: float | None

    @property
    def remaining(self) -> int:
        """What is left of the amount."""
        return max(0, self.ask.amount - self.used)


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """
    How an account stands: *spent* according to the Journal, *unshipped* settled since, *held* by what is under way.

    The last two are sums over all gateways. What a prepaid account has left is `amount - spent`: what was paid in
    counts as negative spending.
    """

    ask: BudgetAsk
    spent: int
    unshipped: int
    held: int

    @property
    def available(self) -> int:
        """What is neither spent nor held; negative if a soft budget was passed."""
        return self.ask.amount - self.spent - self.unshipped - self.held


@dataclass(frozen=True, slots=True)
class Standings:
    """How everything stands that was asked about, in its order. *is_shared* tells whether all gateways are in it."""

    limits: tuple[LimitStanding, ...] = ()
    budgets: tuple[BudgetStanding, ...] = ()
    is_shared: bool = True


@dataclass(frozen=True, slots=True)
class Base:
    """
    What the Journal says that *account*, of *tenant*, has spent. *version* grows with each transaction that changes it.

    Of two the one with the larger version counts. A prepaid account's is what was spent less what was paid in.
    """

    tenant: str
    account: str
    version: int
    spent: int
