"""The admission queue that several gateways share: one line per pool, in Redis, in one order over all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.refusals import line_full
from gateway.core.scheduling import DrainRate, Ticket
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Occupancy
from gateway.stores.redis_client import redis_answering
from gateway.stores.redis_line import UNBOUNDED, Answer, Place, RedisLine

BATCH_MAX = 200  # tickets per call: a few ms of Redis's time
BEATS_PER_LEASE = 3  # two may be lost before anyone takes us for dead
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.02, 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class _Waiter:
    """A ticket in line here, and whom to tell. Once Redis has given it its place, no bound applies to it."""

    ticket: Ticket
    waiting_max: int
    granted: asyncio.Future[None]

    @property
    def place(self) -> Place:
        return self.ticket, self.waiting_max


class RedisQueue:
    """
    An AdmissionQueue in Redis, owned in part by this gateway: *owner* must be new at every start of a process.

    **One lane.** Callers only change what this object holds; one task tells Redis, in order, with as many tickets per
    call as have gathered. So a caller can be cancelled at any instant without a half-done call, nobody waits to leave,
    and no call overtakes another.

    **Epochs.** Whenever the two sides may differ (a lost answer or wake-up, a lease that ran out, an emptied Redis),
    the next call is a *claim*: it begins a new epoch and states all that is held here; Redis makes its side equal.
    Calls of older epochs that are still on their way are then refused there.

    **Leases.** A heartbeat every third of *lease_s* renews ours and reaps those that ran out: a gateway killed right
    after its heartbeat is gone after lease_s × (1 + 1/3), plus one call: 4.0 s and a bit with the default of 3 s.

    While Redis is away, `is_up` is false and the heartbeat goes on as the probe.
    """

    def __init__(
        self,
        redis: Redis,
        pool: str,
        *,
        owner: str,
        waiting_max: int = 10_000,
        lease_s: float = 3.0,
        store_timeout_s: float = 0.5,
    ) -> None:
        self.pool = pool
        self.is_up = True
        self._line = RedisLine(redis, pool, owner, lease_s)
        self._waiting_max = waiting_max
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._store_timeout_s = store_timeout_s
        self._waiting: dict[str, _Waiter] = {}
        self._in_flight: dict[str, Ticket] = {}
        self._entering: dict[str, _Waiter] = {}  # not yet told to Redis
        self._leaving: list[str] = []  # not yet told to Redis
        self._asking: list[asyncio.Future[Occupancy]] = []
        self._slots: int | None = None  # this gateway's word
        self._seen = Answer()
        self._drain = DrainRate()
        self._is_in_doubt = True  # until the first claim
        self._sync_due_s = 0.0
        self._is_wanted = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def slot(self, ticket: Ticket, spent: Callable[[], int] | None = None) -> AsyncIterator[None]:
        await self.enter(ticket)
        try:
            yield
        finally:
            self.leave(ticket)

    async def enter(self, ticket: Ticket, *, is_bounded: bool = True) -> None:
        """Wait for a slot, which `leave` gives back. A ticket that had its place before is let in unbounded."""
        assert ticket.id not in self._waiting, f"the ticket {ticket.id} is in line already"
        assert ticket.id not in self._in_flight, f"the ticket {ticket.id} is in flight already"
        granted = asyncio.get_running_loop().create_future()
        waiter = _Waiter(ticket, self._waiting_max if is_bounded else UNBOUNDED, granted)
        self._waiting[ticket.id] = self._entering[ticket.id] = waiter
        self._is_wanted.set()
        try:
            await granted
        except BaseException:
            self.leave(ticket)  # wherever it is: cancelled in the very instant of the grant, it is in flight
            raise

    def leave(self, ticket: Ticket) -> None:
        """
        Give back the slot or the place in line of *ticket*, if it has one here.

        Redis hears of it at once, or at the next claim if it is away; nobody waits for that.
        """
        is_ours = self._waiting.pop(ticket.id, None) or self._in_flight.pop(ticket.id, None)
        if is_ours and not self._entering.pop(ticket.id, None):
            self._leaving.append(ticket.id)
            self._want_if_up()

    def set_slots(self, slots: int, coming: object = ()) -> None:
        if slots != self._slots:
            self._slots = slots
            self._sync_due_s = 0.0
            self._want_if_up()

    async def occupancy(self) -> Occupancy:
        asking: asyncio.Future[Occupancy] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self._is_wanted.set()
        return await asking

    async def start(self) -> None:
        await self._turn()
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._listen())]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        was_up, self.is_up, self._on_change = self.is_up, False, lambda: None
        if was_up:
            with suppress(StoreUnavailable):  # then our lease runs out and another gateway reaps us
                async with redis_answering(self._store_timeout_s):
                    await self._line.retire()
        self._lose("this gateway is closing")

    def adopt(self, ticket: Ticket) -> None:
        """Count a ticket that was granted elsewhere as in flight here, until it leaves."""
        self._in_flight[ticket.id] = ticket
        self._is_in_doubt = True
        self._want_if_up()

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have *on_change* called whenever `is_up` changed: when it fell, before those who wait learn of it."""
        self._on_change = on_change

    @property
    def in_flight(self) -> Collection[Ticket]:
        """This gateway's tickets that hold a slot."""
        return self._in_flight.values()

    @property
    def waiting(self) -> int:
        """How many of this gateway's tickets wait."""
        return len(self._waiting)

    @property
    def slots_share(self) -> int:
        """An equal share of the slots among the gateways last seen alive; at least one slot if there are any."""
        slots = self._seen.slots if self._slots is None else self._slots
        return max(1, slots // self._seen.gateways) if slots else 0

    # The lane: the only place where Redis is told anything.

    async def _work(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._sync_due_s):
                    await self._is_wanted.wait()
            await self._turn()

    async def _turn(self) -> None:
        """Tell Redis what there is to tell; if that fails, everyone who waits learns it."""
        try:
            async with redis_answering(self._store_timeout_s):
                try:
                    await self._exchange()
                except RedisConnectionError:  # a connection may have died unnoticed: a fresh one gets a chance
                    self._is_in_doubt = True
                    await self._line.drop_idle_connections()
                    await self._exchange()
        except StoreUnavailable as error:
            self._lose(error.reason)
        except Exception as error:  # the lane must outlive its bugs: the line is every request's way in
            log.exception("queue_failed", pool=self.pool)
            self._lose(f"{type(error).__name__}: {error}")

    async def _exchange(self) -> None:
        self._is_wanted.clear()
        if self._is_in_doubt:
            await self._claim()
        leaving, entering, asked = self._take_outbox()
        if leaving:
            self._take_in(await self._line.leave(leaving))
        if entering:
            self._take_in(await self._line.enter([waiter.place for waiter in entering]), entering)
        if asked or self._sync_due_s <= _now_s():
            await self._sync(asked)
        if self._is_in_doubt or self._leaving or self._entering:
            self._is_wanted.set()

    def _take_outbox(self) -> tuple[list[str], list[_Waiter], int]:
        """Take the next batches, and count the askers who shall see all of their own doings in the answer."""
        leaving, self._leaving = self._leaving[:BATCH_MAX], self._leaving[BATCH_MAX:]
        entering = list(islice(self._entering.values(), BATCH_MAX))
        for waiter in entering:
            del self._entering[waiter.ticket.id]
        return leaving, entering, 0 if self._leaving or self._entering else len(self._asking)

    async def _claim(self) -> None:
        self._is_in_doubt = False  # a doubt that arises from here on wants another claim
        self._sync_due_s = _now_s() + self._beat_s
        self._entering.clear()
        self._leaving.clear()
        waiting = list(self._waiting.values())
        places = [waiter.place for waiter in waiting]
        if self._take_in(await self._line.claim(self._slots, self._in_flight.values(), places), waiting):
            self._note_change(is_up=True)

    async def _sync(self, asked: int) -> None:
        self._sync_due_s = _now_s() + self._beat_s
        if self._take_in(await self._line.sync(self._slots)):
            answered, self._asking = self._asking[:asked], self._asking[asked:]
            for asking in answered:
                if not asking.done():
                    asking.set_result(Occupancy(self._seen.in_flight, self._seen.waiting, self._seen.slots))

    def _take_in(self, answer: Answer | None, told: Collection[_Waiter] = ()) -> bool:
        """Act on the answer to a call that told of some who wait; tell whether it was of Redis's epoch."""
        if answer is None:
            self._is_in_doubt = True
            return False
        self._seen = answer
        self._drain.observe(_now_s(), answer.granted_total)
        for ticket_id in answer.granted:
            self._grant(ticket_id)
        for ticket_id in answer.refused:
            self._refuse(ticket_id)
        for waiter in told:
            waiter.waiting_max = UNBOUNDED
        return True

    # What became of a ticket. If its owner has left meanwhile, it is not known any more or its future is done.

    def _grant(self, ticket_id: str) -> None:
        waiter = self._waiting.pop(ticket_id, None)
        if waiter:
            self._in_flight[ticket_id] = waiter.ticket
            if not waiter.granted.done():
                waiter.granted.set_result(None)

    def _refuse(self, ticket_id: str) -> None:
        waiter = self._waiting.pop(ticket_id, None)
        if waiter and not waiter.granted.done():
            retry_after_s = self._drain.retry_after_s(_now_s(), self._seen.granted_total, self._seen.waiting)
            waiter.granted.set_exception(line_full(self.pool, self._waiting_max, retry_after_s))

    def _lose(self, reason: str) -> None:
        """Redis is away: whoever waits learns it, in order of arrival. What is in flight waits for the next claim."""
        waiters, self._waiting = self._waiting, {}
        asking, self._asking = self._asking, []
        self._entering.clear()
        self._is_in_doubt = True
        self._is_wanted.clear()
        self._note_change(is_up=False, reason=reason)
        futures: list[asyncio.Future[Any]] = [*(waiter.granted for waiter in waiters.values()), *asking]
        for future in futures:
            if not future.done():
                future.set_exception(StoreUnavailable("redis", reason))

    def _note_change(self, *, is_up: bool, reason: str = "") -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            if is_up:
                log.info("queue_shared_again", pool=self.pool)
            else:
                log.warning("queue_store_lost", pool=self.pool, reason=reason)
            self._on_change()

    def _want_if_up(self) -> None:
        if self.is_up:
            self._is_wanted.set()

    # Wake-ups: grants to our tickets that other gateways' calls made.

    async def _listen(self) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                async with redis_answering(self._beat_s + self._store_timeout_s):
                    ticket_ids = await self._line.hear(self._beat_s)
            except StoreUnavailable:
                self._is_in_doubt = True  # a wake-up may have been lost with the connection
                self._is_wanted.set()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_S_MAX)
            else:
                pause_s = RECONNECT_S_MIN
                for ticket_id in ticket_ids:
                    self._grant(ticket_id)

    def __repr__(self) -> str:
        held = f"{len(self._in_flight)} in flight, {len(self._waiting)} waiting"
        away = "" if self.is_up else ", Redis is away"
        return f"<RedisQueue {self.pool} of {self._line.owner} [{held}, {self._seen.slots} slots{away}]>"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
