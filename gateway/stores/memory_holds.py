"""Holds in this process's memory: of a gateway that is alone, and of one whose shared store is away."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from gateway.core.budgets import admits
from gateway.core.gcra import Rate
from gateway.core.holds import Ask, Base, BudgetAsk, BudgetStanding, LimitAsk, LimitStanding, Standings
from gateway.core.limits import is_rate
from gateway.core.usage import Usage
from gateway.ports.holds import ReadBases
from gateway.stores.hold_bases import BaseReading
from gateway.stores.hold_sums import Correction, OwnSums, Verdict

KEPT_MIN = 1000  # limits and accounts; above twice the number in use, idle ones are forgotten


class LocalBook:
    """
    The decisions, by what this process knows. *share* is by how many gateways amounts are shared: 1 when alone.

    Of a budget what is left by its base is shared; of a limit its amount, at least 1.
    """

    def __init__(self, sums: OwnSums, clock: Callable[[], float]) -> None:
        self._sums = sums
        self._clock = clock
        self._rates: dict[str, Rate] = {}
        self._tidy_at = KEPT_MIN

    def take(self, ask: Ask, *, share: int = 1, is_charged: bool = True) -> Verdict:
        """Take all that *ask* asks for, or nothing."""
        now_s = self._clock()
        waits = [self._wait_s(limit, share, now_s) for limit in ask.limits]
        refusing = (at for at, wait_s in enumerate(waits) if wait_s != 0)
        spent_up = (len(waits) + at for at, budget in enumerate(ask.budgets) if not self._admits(budget, share))
        refused = next(refusing, next(spent_up, None))
        if refused is not None:
            wait_s = waits[refused] if refused < len(waits) else None
            return Verdict(self.standings(ask, share), refused, wait_s)
        for limit in ask.limits:
            if is_rate(limit.metric):
                self._rate(limit).take(_share(limit.amount, share), limit.quantity, now_s)
        self._sums.take(ask, now_s, is_charged=is_charged)
        self._tidy()
        return Verdict(self.standings(ask, share))

    def extend(self, request_id: str, nano: int, tokens: int) -> bool:
        """Have a hold hold so much; False if an account has nothing left."""
        if request_id not in self._sums.holds:
            return True
        lacks = list(self._sums.lacks(request_id, nano, tokens))
        if any(self.available(budget) <= 0 for _, budget, _ in lacks):
            return False
        for at, _, more in lacks:
            self._sums.add(request_id, at, more)
        return True

    def correct(self, corrections: Iterable[Correction], share: int = 1) -> None:
        """Correct rates that were charged here."""
        now_s = self._clock()
        for each in corrections:
            self._rate(each.limit).correct(_share(each.limit.amount, share), each.by, each.taken_s, now_s)

    def standings(self, ask: Ask, share: int = 1, *, is_shared: bool = True) -> Standings:
        """Tell how all stands that *ask* asks about."""
        now_s = self._clock()
        limits = tuple(self._limit(limit, share, now_s) for limit in ask.limits)
        return Standings(limits, tuple(self.budget(budget) for budget in ask.budgets), is_shared)

    def budget(self, ask: BudgetAsk) -> BudgetStanding:
        """Tell how an account stands, by what is known here."""
        base = self._sums.bases.get(ask.account)
        spent, held = self._sums.spent[ask.account], self._sums.held[ask.account]
        return BudgetStanding(ask, base.spent if base else 0, spent, held)

    def available(self, ask: BudgetAsk, share: int = 1) -> int:
        """Tell what is left of an account: of this gateway's share of what its base leaves."""
        standing = self.budget(ask)
        left = ask.amount - standing.spent
        return (left // share if left > 0 else left) - standing.unshipped - standing.held

    def _admits(self, ask: BudgetAsk, share: int) -> bool:
        return admits(self.available(ask, share), ask.quantity, is_hard=ask.is_hard)

    def _wait_s(self, ask: LimitAsk, share: int, now_s: float) -> float | None:
        """Tell when there is room in a limit; 0: now, None: nobody knows."""
        amount = _share(ask.amount, share)
        if is_rate(ask.metric):
            return self._rate(ask).wait_s(amount, ask.quantity, now_s)
        return 0 if self._sums.running[ask.id] + ask.quantity <= amount else None

    def _limit(self, ask: LimitAsk, share: int, now_s: float) -> LimitStanding:
        if not is_rate(ask.metric):
            running = self._sums.running[ask.id]
            return LimitStanding(ask, running, None if running else 0.0)
        rate, amount = self._rates.get(ask.id, Rate()), _share(ask.amount, share)
        return LimitStanding(ask, rate.used(amount, now_s), rate.clears_in_s(amount, now_s))

    def _rate(self, ask: LimitAsk) -> Rate:
        return self._rates.setdefault(ask.id, Rate())

    def _tidy(self) -> None:
        """Forget rates that are as if they had never been used."""
        if len(self._rates) > self._tidy_at:
            now_s = self._clock()
            self._rates = {name: rate for name, rate in self._rates.items() if not rate.is_idle(now_s)}
            self._tidy_at = max(KEPT_MIN, 2 * len(self._rates))


class MemoryHolds:
    """`Holds` of a gateway without a shared store."""

    is_up = True

    def __init__(
        self,
        owner: str,
        read_bases: ReadBases,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.owner = owner
        self._now_ms = now_ms
        self._sums = OwnSums()
        self._book = LocalBook(self._sums, clock)
        self._bases = BaseReading(self._sums, read_bases)

    def __repr__(self) -> str:
        return f"<MemoryHolds {self._sums!r}>"

    async def hold(self, ask: Ask) -> Standings:
        if self._bases.lacks(ask):
            await self._bases.make_known(ask)
        if ask.id in self._sums.holds:
            return self._book.standings(ask)
        return self._book.take(ask).check(self._now_ms())

    def extend(self, request_id: str, nano: int, tokens: int) -> bool:
        return self._book.extend(request_id, nano, tokens)

    def settle(self, request_id: str, usage: Usage, nano: int, budgets: Sequence[BudgetAsk] = ()) -> None:
        self._book.correct(self._sums.settle(request_id, usage, nano, budgets)[1])

    def release(self, request_id: str) -> None:
        self._book.correct(self._sums.release(request_id)[1])

    async def post(self, bases: Sequence[Base], shipped: Collection[str]) -> None:
        self._sums.post(bases, shipped)

    async def forget(self, owner: str, tenants: Collection[str]) -> None:
        """Nothing of other processes is known here: their spending is in the bases once it is shipped."""

    async def standings(self, asks: Ask) -> Standings:
        if self._bases.lacks(asks):
            await self._bases.make_known(asks)
        return self._book.standings(asks)

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


def _share(amount: int, share: int) -> int:
    return min(amount, max(1, amount // share))
