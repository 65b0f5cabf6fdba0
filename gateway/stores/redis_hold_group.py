"""The lane of one hash tag: what this gateway has to tell and to ask of its keys, one call at a time."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.holds import Ask, BudgetAsk
from gateway.core.limits import is_rate
from gateway.errors import StoreUnavailable
from gateway.stores.hold_sums import Correction, OwnSums
from gateway.stores.redis_client import RedisClient, drop_idle_connections, redis_answering
from gateway.stores.redis_hold_call import AccountSums, Answered, Asked, HoldCall, forget

SOON_S = 0.15  # from a change that can wait to the call that tells it
ASKS_MAX = 100  # of one call: some ms of Redis's time
CORRECTIONS_MAX = 1000  # of one call

log = structlog.get_logger()


class Shared(Protocol):
    """What the lanes of one gateway have in common."""

    redis: RedisClient
    sums: OwnSums
    owner: str
    lease_s: float
    settled_s: float
    timeout_s: float
    is_up: bool
    calls: asyncio.Semaphore  # as many at once, over all tags: each takes a connection

    def note_up(self, *, is_up: bool, reason: str = "") -> None:
        """Hear whether Redis answered."""


class HoldGroup:
    """
    One lane. Callers change what is to be told; a task tells it, in order, while there is anything to tell.

    *exhausted* are the accounts that had nothing left at the last call.
    """

    def __init__(self, shared: Shared, tag: str) -> None:
        self.tag = tag
        self.exhausted: set[str] = set()
        self._shared = shared
        self._asking: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._corrections: list[Correction] = []
        self._forgetting: set[str] = set()
        self._accounts: dict[str, BudgetAsk | None] = {}  # that this gateway has a part in
        self._running: set[str] = set()
        self._changed: set[str] = set()  # accounts and limits whose sums Redis has not heard
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<HoldGroup {self.tag} [{len(self._asking)} asking, {len(self._changed)} to tell]>"

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that Redis must be told, now or by a heartbeat."""
        is_quiet = not (self._asking or self._corrections or self._forgetting or self._changed or self._task)
        return is_quiet and not (self._accounts or self._running)

    async def ask(self, ask: Ask, *, is_look: bool = False, is_blind: bool = False) -> Answered:
        """
        Have *ask* decided; what it takes is in the own sums when this returns. Raises StoreUnavailable.

        Cancelled, it has taken nothing.
        """
        if not self._shared.is_up:
            raise StoreUnavailable("redis", "it did not answer lately")
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._asking.append((Asked(ask, is_look, is_blind), answer))
        self.hurry()
        return await answer

    def note(self, ask: Ask, corrections: Iterable[Correction] = ()) -> None:
        """Have it told soon that the own sums of what *ask* names have changed, and by what rates are off."""
        self._changed.update(self._know(ask))
        self._corrections.extend(corrections)
        self._soon()

    def note_base(self, account: str) -> None:
        """Have it told that the base of an account has changed, and what is spent beside it."""
        self._accounts.setdefault(account, None)
        self._changed.add(account)
        self.hurry()

    def forget(self, owner: str) -> None:
        """Have a dead owner's sums dropped."""
        self._forgetting.add(owner)
        self.hurry()

    def beat(self) -> None:
        """State all sums again: that renews the lease, and rebuilds what Redis may have lost."""
        self._changed.update(self._accounts, self._running)
        if self._changed or self._forgetting:
            self.hurry()

    def hurry(self) -> None:
        """Have a call made at once, or right after the one that is under way."""
        if self._task is None and self._shared.is_up:
            self._task = asyncio.create_task(self._work(), name=f"holds {self.tag}")

    async def aclose(self) -> None:
        """Tell what there is to tell, once, and stop."""
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._changed.update(self._accounts, self._running)
        if self._changed:
            with suppress(StoreUnavailable):
                await self._turn()

    def _know(self, ask: Ask) -> list[str]:
        """Have a part in what *ask* names, of which there are sums; gives the names."""
        concurrent = [limit.id for limit in ask.limits if not is_rate(limit.metric)]
        self._running.update(concurrent)
        self._accounts.update({budget.account: budget for budget in ask.budgets})
        return concurrent + [budget.account for budget in ask.budgets]

    def _soon(self) -> None:
        if self._task is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SOON_S, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.hurry()

    async def _work(self) -> None:
        try:
            while self._asking or self._corrections or self._changed or self._forgetting:
                await self._turn()
        except StoreUnavailable as error:
            self._lose(error)
        except Exception as error:  # the lane must outlive its bugs: whoever waits is told, the next call starts anew
            log.exception("hold_call_failed", tag=self.tag)
            self._lose(StoreUnavailable("redis", f"a hold could not be told: {type(error).__name__}"))
        finally:
            self._task = None
        if self._asking:
            self.hurry()

    async def _turn(self) -> None:
        """Make one call of what has gathered."""
        shared = self._shared
        async with shared.calls:
            asking, self._asking = self._asking[:ASKS_MAX], self._asking[ASKS_MAX:]
            corrections, self._corrections = self._corrections[:CORRECTIONS_MAX], self._corrections[CORRECTIONS_MAX:]
            changed, self._changed = self._changed, set()
            call = HoldCall(self.tag, shared.sums, shared.owner, shared.lease_s, shared.settled_s)
            call.asked, call.corrections = [asked for asked, _ in asking], corrections
            call.accounts = {name: ask for name, ask in self._accounts.items() if name in changed}
            call.running = self._running & changed
            try:
                await self._make(call, asking)
            except BaseException:
                self._changed |= changed
                for _, answer in asking:
                    if not answer.done():
                        answer.set_exception(StoreUnavailable("redis", "the call was lost"))
                        answer.exception()  # whoever was cancelled does not look
                raise

    async def _make(self, call: HoldCall, asking: list[tuple[Asked, asyncio.Future[Answered]]]) -> None:
        async with redis_answering(self._shared.timeout_s):
            try:
                answers, accounts = await call.run(self._shared.redis)
            except RedisConnectionError:  # a connection may have died unnoticed: a fresh one gets a chance
                await drop_idle_connections(self._shared.redis)
                answers, accounts = await call.run(self._shared.redis)
            await self._tell_forgotten()
        self._shared.note_up(is_up=True)
        self._learn(accounts)
        for (asked, answer), answered in zip(asking, answers, strict=True):
            self._take_in(asked, answer, answered)
        self._tidy()

    async def _tell_forgotten(self) -> None:
        for owner in list(self._forgetting):
            await forget(self._shared.redis, self.tag, owner)
            self._forgetting.discard(owner)

    def _learn(self, accounts: Sequence[AccountSums]) -> None:
        self._shared.sums.learn(each.base for each in accounts if each.base)
        for each in accounts:
            ask = self._accounts.get(each.account)
            if ask is not None and each.leaves(ask.amount) <= 0:
                self.exhausted.add(each.account)
            else:
                self.exhausted.discard(each.account)

    def _take_in(self, asked: Asked, answer: "asyncio.Future[Answered]", answered: Answered) -> None:
        """Count what was granted in the very step in which it is known; what nobody waits for any more goes back."""
        is_taken = not (
            asked.is_look or answered.is_unknown or answered.young_s or answered.verdict.refused is not None
        )
        if is_taken:
            self._shared.sums.take(asked.ask, answered.at_s)
            self._know(asked.ask)
            if answer.done():
                self.note(asked.ask, self._shared.sums.release(asked.ask.id)[1])
        if not answer.done():
            answer.set_result(answered)

    def _tidy(self) -> None:
        """Forget what this gateway has no part in any more, and Redis knows it."""
        sums = self._shared.sums
        for account in [name for name in self._accounts if not (sums.held[name] or sums.spent[name])]:
            if account not in self._changed:
                del self._accounts[account]
                self.exhausted.discard(account)
        self._running = {name for name in self._running if sums.running[name] or name in self._changed}

    def _lose(self, error: StoreUnavailable) -> None:
        self._shared.note_up(is_up=False, reason=error.reason)
        asking, self._asking = self._asking, []
        for _, answer in asking:
            if not answer.done():
                answer.set_exception(error)
