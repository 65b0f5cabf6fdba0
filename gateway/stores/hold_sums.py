"""What one gateway holds, has spent and has under way: its own sums, in memory, and the only truth about them."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.core.budgets import spending
from gateway.core.hold_refusals import OverLimit, limited, over_budget
from gateway.core.holds import Ask, Base, BudgetAsk, LimitAsk, Standings
from gateway.core.limits import Metric, counted, is_rate
from gateway.core.usage import Usage

BASES_MAX = 20_000  # accounts that are remembered though nobody here uses them: some 5 MB
SETTLED_MAX = 10_000  # ids that are known as settled for good: a job is closed again within seconds, if ever


@dataclass(frozen=True, slots=True)
class Correction:
    """By how much what was taken of a rate at *taken_s* differs from what came of it."""

    limit: LimitAsk
    by: int
    taken_s: float


@dataclass(slots=True)
class Hold:
    """A request under way: what it was let in with, and what it *holds* of each of its budgets by now."""

    ask: Ask
    taken_s: float
    is_charged: bool  # its rates were charged in the store that all gateways share
    holds: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided: how all stands, and which limit or budget *refused*, counted through, and for how long."""

    standings: Standings
    refused: int | None = None
    wait_s: float | None = None

    def check(self, now_ms: int) -> Standings:
        """Give how things stand; raise OverLimit if something refused."""
        if self.refused is None:
            return self.standings
        limits = self.standings.limits
        if self.refused < len(limits):
            raise OverLimit(limited(limits[self.refused], self.wait_s), self.standings)
        raise OverLimit(over_budget(self.standings.budgets[self.refused - len(limits)], now_ms), self.standings)


class OwnSums:
    """
    The sums of this owner. All methods decide without awaiting.

    What is settled stays in `spent`, and its id known, until the Journal has it: some 300 bytes a request.
    """

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.running: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.bases: dict[str, Base] = {}
        self._unshipped: dict[str, list[tuple[str, int]]] = {}
        self._settled: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<OwnSums [{len(self.holds)} under way, {len(self._unshipped)} unshipped]>"

    def take(self, ask: Ask, taken_s: float, *, is_charged: bool = True) -> None:
        """Begin a hold."""
        hold = self.holds[ask.id] = Hold(ask, taken_s, is_charged, [budget.quantity for budget in ask.budgets])
        for budget, quantity in zip(ask.budgets, hold.holds, strict=True):
            self.held[budget.account] += quantity
        self.running.update(limit.id for limit in _concurrent(ask))

    def lacks(self, request_id: str, nano: int, tokens: int) -> Iterator[tuple[int, BudgetAsk, int]]:
        """Tell of which of its budgets a hold has less than that: which it is, and how much more it needs."""
        hold = self.holds[request_id]
        for at, budget in enumerate(hold.ask.budgets):
            lack = spending(budget.kind, nano, tokens) - hold.holds[at]
            if lack > 0:
                yield at, budget, lack

    def add(self, request_id: str, at: int, more: int) -> None:
        """Have a hold hold more of one of its budgets."""
        hold = self.holds[request_id]
        hold.holds[at] += more
        self.held[hold.ask.budgets[at].account] += more

    def settle(
        self, request_id: str, usage: Usage, nano: int, budgets: Sequence[BudgetAsk]
    ) -> tuple[Hold | None, list[Correction]]:
        """End a hold with what it came to; gives it, and by what its rates are to be corrected."""
        hold = self._drop(request_id)
        asks = hold.ask.budgets if hold else budgets
        if asks and self._is_first(request_id):
            parts = [(budget.account, spending(budget.kind, nano, usage.total)) for budget in asks]
            self._unshipped[request_id] = parts
            for account, part in parts:
                self.spent[account] += part
        return hold, list(_corrections(hold, usage)) if hold else []

    def release(self, request_id: str) -> tuple[Hold | None, list[Correction]]:
        """End a hold as if it had never been; gives the same."""
        hold = self._drop(request_id)
        return hold, [Correction(limit, -limit.quantity, hold.taken_s) for limit in _rates(hold.ask)] if hold else []

    def learn(self, bases: Iterable[Base]) -> None:
        """Take in bases; of each account the newest counts."""
        for base in bases:
            known = self.bases.get(base.account)
            if known is None or base.version > known.version:
                self.bases[base.account] = base
        if len(self.bases) > BASES_MAX:
            self._forget_idle()

    def post(self, bases: Sequence[Base], shipped: Collection[str]) -> None:
        """Take in what the Journal committed: each account named loses its part of the shipped requests."""
        self.learn(bases)
        named = {base.account for base in bases}
        for request_id in shipped:
            parts = self._unshipped.pop(request_id, None)
            if parts is None:
                continue
            for account, part in parts:
                if account in named:
                    self.spent[account] -= part
            if kept := [part for part in parts if part[0] not in named]:
                self._unshipped[request_id] = kept

    def _is_first(self, request_id: str) -> bool:
        """Tell whether a request is settled for the first time."""
        if request_id in self._settled:
            return False
        self._settled[request_id] = None
        if len(self._settled) > SETTLED_MAX:
            del self._settled[next(iter(self._settled))]
        return request_id not in self._unshipped

    def _forget_idle(self) -> None:
        for counter in (self.running, self.held, self.spent):
            for name in [name for name, count in counter.items() if not count]:
                del counter[name]
        self.bases = {name: base for name, base in self.bases.items() if name in self.held or name in self.spent}

    def _drop(self, request_id: str) -> Hold | None:
        hold = self.holds.pop(request_id, None)
        if hold is not None:
            for budget, quantity in zip(hold.ask.budgets, hold.holds, strict=True):
                self.held[budget.account] -= quantity
            self.running.subtract(limit.id for limit in _concurrent(hold.ask))
        return hold


def _concurrent(ask: Ask) -> Iterator[LimitAsk]:
    return (limit for limit in ask.limits if not is_rate(limit.metric))


def _rates(ask: Ask) -> Iterator[LimitAsk]:
    return (limit for limit in ask.limits if is_rate(limit.metric))


def _corrections(hold: Hold, usage: Usage) -> Iterator[Correction]:
    for limit in _rates(hold.ask):
        by = counted(limit.metric, usage) - limit.quantity
        if by and limit.metric != Metric.REQUESTS.value:
            yield Correction(limit, by, hold.taken_s)
