"""The admission queue that several gateways share: one line per pool, in Redis, in one order over all of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import DrainRate, Ticket, line_full, one_each
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Occupancy
from gateway.stores.redis_client import Script, redis_answering

BATCH_MAX = 200  # tickets per call: some 5 ms of Redis's time
BEATS_PER_LEASE = 3  # two may be lost before anyone takes us for dead
RECONNECT_S_MIN, RECONNECT_S_MAX = 0.02, 1.0
UNBOUNDED = -1

_VERBS = {verb: Script("line", verb) for verb in ("claim", "enter", "leave", "sync", "retire")}

log = structlog.get_logger()


@dataclass(slots=True)
class _Waiter:
    """A ticket in line here, and whom to tell."""

    ticket: Ticket
    waiting_max: int
    granted: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Picture:
    """What the last answer said of all gateways together."""

    in_flight: int = 0
    waiting: int = 0
    slots: int = 0
    granted: int = 0
    gateways: int = 1


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
        self._redis = redis
        self._owner = owner
        self._waiting_max = waiting_max
        self._lease_ms = int(lease_s * 1000)
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._store_timeout_s = store_timeout_s
        self._keys = _keys(pool)
        self._waiting: dict[str, _Waiter] = {}
        self._in_flight: dict[str, Ticket] = {}
        self._entering: dict[str, _Waiter] = {}  # not yet told to Redis
        self._leaving: list[str] = []  # not yet told to Redis
        self._asking: list[asyncio.Future[Occupancy]] = []
        self._slots_word: int | None = None
        self._picture = _Picture()
        self._drain = DrainRate()
        self._epoch = 0
        self._is_in_doubt = True  # until the first claim
        self._sync_due = 0.0
        self._is_wanted = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def slot(self, ticket: Ticket) -> AsyncIterator[None]:
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
            if self.is_up:
                self._is_wanted.set()

    def set_slots(self, slots: int) -> None:
        if slots != self._slots_word:
            self._slots_word = slots
            self._sync_due = 0.0
            if self.is_up:
                self._is_wanted.set()

    async def occupancy(self) -> Occupancy:
        asking: asyncio.Future[Occupancy] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self._sync_due = 0.0
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
                    await self._call("retire")
        self._lose("this gateway is closing")

    def adopt(self, ticket: Ticket) -> None:
        """Count a ticket that was granted elsewhere as in flight here, until it leaves."""
        self._in_flight[ticket.id] = ticket
        self._is_in_doubt = True
        if self.is_up:
            self._is_wanted.set()

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
        slots = self._picture.slots if self._slots_word is None else self._slots_word
        return max(1, slots // self._picture.gateways) if slots else 0

    # The lane: the only place where Redis is told anything.

    async def _work(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._sync_due):
                    await self._is_wanted.wait()
            await self._turn()

    async def _turn(self) -> None:
        """Tell Redis what there is to tell; if that fails, everyone who waits learns it."""
        try:
            async with redis_answering(self._store_timeout_s):
                try:
                    await self._exchange()
                except RedisConnectionError:  # a connection may have died unnoticed: a fresh one gets a chance
                    self._doubt()
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
            await self._call("leave", *leaving)
        if entering:
            await self._call("enter", *(field for w in entering for field in _fields(w.ticket, w.waiting_max)))
        if asked or self._sync_due <= _now_s():
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
        self._epoch += 1
        self._sync_due = _now_s() + self._beat_s
        self._entering.clear()
        self._leaving.clear()
        in_flight = [field for ticket in self._in_flight.values() for field in _fields(ticket)]
        waiting = [field for waiter in self._waiting.values() for field in _fields(waiter.ticket)]
        await self._call("claim", self._spoken_slots, len(self._in_flight), *in_flight, *waiting)
        if not self.is_up and not self._is_in_doubt:
            self.is_up = True
            log.info("queue_shared_again", pool=self.pool)
            self._on_change()

    async def _sync(self, asked: int) -> None:
        self._sync_due = _now_s() + self._beat_s
        if await self._call("sync", self._spoken_slots):
            answered, self._asking = self._asking[:asked], self._asking[asked:]
            picture = self._picture
            for asking in answered:
                if not asking.done():
                    asking.set_result(Occupancy(picture.in_flight, picture.waiting, picture.slots))

    async def _call(self, verb: str, *args: str | int) -> bool:
        """Run *verb*, take in its answer; tell whether it was of the epoch that Redis knows."""
        header = (self._owner, self._epoch, self._lease_ms)
        reply = await _VERBS[verb].run(self._redis, self._keys, (*header, *args))
        if reply[0] == "stale":  # we were reaped, or Redis was emptied
            self._epoch = max(self._epoch, reply[1])
            self._doubt()
            return False
        _, granted, refused, *numbers = reply
        self._picture = _Picture(*numbers)
        self._drain.observe(_now_s(), self._picture.granted)
        for ticket_id in granted:
            self._grant(ticket_id)
        for ticket_id in refused:
            self._refuse(ticket_id)
        return True

    # What became of a ticket. Those whose owner has left meanwhile are not known any more, or their future is done.

    def _grant(self, ticket_id: str) -> None:
        waiter = self._waiting.pop(ticket_id, None)
        if waiter:
            self._in_flight[ticket_id] = waiter.ticket
            if not waiter.granted.done():
                waiter.granted.set_result(None)

    def _refuse(self, ticket_id: str) -> None:
        waiter = self._waiting.pop(ticket_id, None)
        if waiter and not waiter.granted.done():
            retry_after_s = self._drain.retry_after_s(_now_s(), self._picture.granted, self._picture.waiting)
            waiter.granted.set_exception(line_full(self.pool, self._waiting_max, retry_after_s))

    def _lose(self, reason: str) -> None:
        """Redis is away: whoever waits learns it, in order of arrival. What is in flight waits for the next claim."""
        waiters, self._waiting = self._waiting, {}
        asking, self._asking = self._asking, []
        self._entering.clear()
        self._is_in_doubt = True
        self._is_wanted.clear()
        if self.is_up:
            self.is_up = False
            log.warning("queue_store_lost", pool=self.pool, reason=reason)
            self._on_change()
        futures: list[asyncio.Future[Any]] = [*(waiter.granted for waiter in waiters.values()), *asking]
        for future in futures:
            if not future.done():
                future.set_exception(StoreUnavailable("redis", reason))

    def _doubt(self) -> None:
        self._is_in_doubt = True
        self._is_wanted.set()

    @property
    def _spoken_slots(self) -> str | int:
        return "" if self._slots_word is None else self._slots_word

    # Wake-ups: grants to our tickets that other gateways' calls made.

    async def _listen(self) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                await self._hear()
                pause_s = RECONNECT_S_MIN
            except StoreUnavailable:
                self._doubt()  # a wake-up may have been lost with the connection
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _hear(self) -> None:
        async with redis_answering(self._beat_s + self._store_timeout_s):
            popped = await self._redis.blpop([f"{self._keys[0]}:wake:{self._owner}"], timeout=self._beat_s)
        if popped:
            epoch, *ticket_ids = str(popped[1]).split()
            if int(epoch) == self._epoch:
                for ticket_id in ticket_ids:
                    self._grant(ticket_id)

    def __repr__(self) -> str:
        held = f"{len(self._in_flight)} in flight, {len(self._waiting)} waiting"
        away = "" if self.is_up else ", Redis is away"
        return f"<RedisQueue {self.pool} of {self._owner} [{held}, {self._picture.slots} slots{away}]>"


def _keys(pool: str) -> tuple[str, ...]:
    """The keys of a pool, as lua/line.lua lists them; the braces keep them together in a Redis Cluster."""
    prefix = f"sluice:{{{pool}}}"
    names = ("tickets", "waiting", "owned", "owners", "epochs")
    rounds = (f"{kind}:{c.label}" for kind in ("round", "idle") for c in ServiceClass)
    return (prefix, *(f"{prefix}:{name}" for name in (*names, *rounds)))


def _fields(ticket: Ticket, waiting_max: int = UNBOUNDED) -> Sequence[str | int]:
    """The fields of a ticket, as lua/line.lua reads them."""
    return ticket.id, int(ticket.service_class), ticket.tenant, one_each(ticket), waiting_max


def _now_s() -> float:
    return asyncio.get_running_loop().time()
