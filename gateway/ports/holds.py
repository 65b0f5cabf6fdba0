"""Holds: what a request may use of limits and budgets, taken before it starts and settled when it is billed."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from gateway.core.holds import Ask, Base, BudgetAsk, Standings
from gateway.core.usage import Usage

# Reads from the Journal the bases of the accounts that are asked about, in their order; an account that nothing was
# spent of has version 0. Bounded in time; raises StoreUnavailable.
ReadBases = Callable[[Sequence[BudgetAsk]], Awaitable[Sequence[Base]]]


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

    def extend(self, request_id: str, nano: int, tokens: int) -> bool:
        """
        Have a request that is under way hold at least so much of its accounts: *nano* of money, *tokens* of others.

        For streams on soft budgets, which take slice by slice. False: an account has nothing left, nothing more is
        held, the stream must end. That is known from the last call (150 ms after the last slice), so a stream passes
        its budget by one slice at most. Absolute, so repeating it changes nothing; never less than before. Never
        blocks. An id without a hold may go on.
        """

    def settle(self, request_id: str, usage: Usage, nano: int, budgets: Sequence[BudgetAsk] = ()) -> None:
        """
        End a hold with what is billed: *usage* and its cost in *nano*. What was held beyond it is free at once.

        Token limits are corrected to what came of the estimate. What was spent counts here until `post` says that the
        Journal has it. Idempotent by *request_id*, as long as it is not posted. Never blocks: the store hears of it
        with the next call (150 ms). A correction of a rate that is lost with its call is not repeated.

        An id without a hold here (a job's that ran elsewhere and is closed here) is spent of *budgets* all the same.
        """

    def release(self, request_id: str) -> None:
        """End a hold as if it had never been, in limits too: it was not answered. Idempotent; what is settled stays."""

    async def post(self, bases: Sequence[Base], shipped: Collection[str]) -> None:
        """
        Take in what a transaction of the Journal has committed: new *bases*, and the ids of events that are in them.

        To be called after each commit, also one that replayed events. Each account loses its part of the *shipped*
        requests from this owner's `spent` in the same step in which it gets its base, so none is counted twice for
        longer than until then, and never less than once. *bases* must name every account of the shipped events;
        a part whose account is not named stays. Idempotent by account and version, and by id. Does not wait for the
        store: while it is away, the newest are kept and told when it is back.
        """

    async def forget(self, owner: str, tenants: Collection[str]) -> None:
        """
        Drop all sums of a dead *owner*: its spool, with events of *tenants*, has been shipped, so the bases have them.

        To be called after the `post` of its last events. Idempotent. While the store is away it is noted for later.
        """

    async def standings(self, asks: Ask) -> Standings:
        """
        Tell how limits and budgets stand without taking anything; quantities do not matter. One call per hash tag.

        While the store is away: how they stand here alone, with `is_shared` false. Raises Refused(BUDGET_UNAVAILABLE)
        if there is a hard budget that nobody has heard of and the Journal does not answer.
        """

    async def start(self) -> None:
        """Begin the heartbeat. Does not fail when the store is away."""

    async def aclose(self) -> None:
        """State what was spent, give back what is held, and stop. Bounded by the store's limit on time."""
