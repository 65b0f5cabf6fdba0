"""Holds: what a request may use of limits and budgets, taken before it starts and settled when it is billed."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.usage import Usage


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

    *account* names a budget's period (`core/periods.account`), which ends at *ends_ms* (None: never). A hard one must
    be able to take all of *quantity*; a soft one takes it if it has anything left.
    """

    id: str
    account: str
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

    *used* may exceed the amount: answers that were longer than foreseen are a debt that time pays.
    """

    ask: LimitAsk
    used: int
    clears_in_s: float


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
    What the Journal says that *account* has spent. *version* grows with every transaction that changes it.

    Of two the one with the larger version counts. A prepaid account's is what was spent less what was paid in.
    """

    account: str
    version: int
    spent: int


# Reads the bases of accounts from the Journal, in their order; an account that nothing was spent of has version 0.
# Bounded in time; raises StoreUnavailable.
ReadBases = Callable[[Sequence[str]], Awaitable[Sequence[Base]]]


class Holds(Protocol):
    """
    Limits and budgets over all gateways that share a store. *owner* is this gateway's process, new at every start.

    A budget's account is `base` (the Journal's), and of every owner its own absolute sums: `held` by requests that are
    under way, `spent` by those that are settled and not in the base yet. Every call to the store states the owner's
    sums whole, so an emptied store is rebuilt by the calls that follow, and a lost call is made good by the next.

    What an owner holds, and its count of requests at once, end when it has been silent for its lease: 4 s and a bit
    after a kill -9. What it spent stays until `forget`.
    """

    @property
    def owner(self) -> str:
        """The name under which this process's sums are kept: that of its spool, by which others find it dead."""

    @property
    def is_up(self) -> bool:
        """Whether the shared store answers; without one, always."""

    async def hold(self, ask: Ask) -> Standings:
        """
        Take all that *ask* asks for, or nothing: every limit and every budget is looked at before any is charged.

        Atomic over all that is the tenant's; the limit of a model is charged after those, which are undone if it
        refuses. Idempotent by `ask.id` at one owner: asked again before it is settled, it gives how things stand. At
        most one call to the store per hash tag is under way; what gathers meanwhile goes into the next. Cancelling the
        wait leaves nothing held. Blocks for the store's limit on time at most, and once per tenant, when the store has
        just come into being and there is a hard budget, until every gateway has stated its sums (1.5 s).

        Raises Refused(LIMITED) naming the limit, whose, how it stands, when it clears; Refused(OVER_BUDGET) likewise.
        If the store does not answer, limits and soft budgets go on here with this gateway's share of the amounts; a
        hard budget is refused: Refused(BUDGET_UNAVAILABLE), Retry-After 5. Never raises StoreUnavailable.
        """

    def extend(self, request_id: str, nano: int, tokens: int) -> None:
        """
        Have a request that is under way hold at least so much of its accounts: *nano* of money, *tokens* of others.

        Absolute, so repeating it changes nothing; never less than before. Never blocks, never refuses: for soft
        budgets, whose streams take slice by slice. Unknown ids are ignored.
        """

    def settle(self, request_id: str, usage: Usage, nano: int, budgets: Sequence[BudgetAsk] = ()) -> None:
        """
        End a hold with what is billed: *usage* and its cost in *nano*. What was held beyond it is free at once.

        Token limits are corrected to what came of the estimate, later debts included; without any tokens the request
        cost nothing, in limits too. What was spent counts here until `post` says that the Journal has it. Idempotent
        by *request_id*, as long as it is not posted. Never blocks: the store hears of it with the next call (150 ms).

        An id without a hold here (a job's that ran elsewhere and is closed here) is spent of *budgets* all the same.
        """

    def release(self, request_id: str) -> None:
        """End a hold as if it had never been: the request was not answered. Idempotent; a settled one stays settled."""

    async def post(self, bases: Sequence[Base], shipped: Collection[str]) -> None:
        """
        Take in what a transaction of the Journal has committed: new *bases*, and the ids of events that are in them.

        To be called after each commit, also one that replayed events. Each account loses its part of the *shipped*
        requests from this owner's `spent` in the same step in which it gets its base, so none is counted twice for
        longer than until then, and never less than once. *bases* must name every account of the shipped events;
        a part whose account is not named stays. Idempotent by account and version, and by id. Does not wait for the
        store: while it is away, the newest are kept and told when it is back.
        """

    async def forget(self, owner: str) -> None:
        """
        Drop all sums of a dead *owner*: its spool has been shipped to its end, so the bases have them.

        To be called after the `post` of its last events. Idempotent. While the store is away it is noted for later.
        """

    async def standings(self, asks: Ask) -> Standings:
        """
        Tell how limits and budgets stand without taking anything; quantities do not matter. One call per hash tag.

        While the store is away: how they stand here alone, with `is_shared` false.
        """

    async def start(self) -> None:
        """Begin the heartbeat. Does not fail when the store is away."""

    async def aclose(self) -> None:
        """State what was spent, give back what is held, and stop. Bounded by the store's limit on time."""
