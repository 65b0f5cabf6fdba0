"""The admission queue that several gateways share: one line per pool, in Redis, in one order over all of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import islice

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.core.eta import Coming, Place
from gateway.core.refusals import bound_reached
from gateway.core.scheduling import TENANT_SHARE, WAITING_MAX, Bound, Held, LineBounds, Ticket
from gateway.errors import StoreUnavailable
from gateway.ports.queue import Occupancy, Whereabouts
from gateway.stores.lookout import Lookout
from gateway.stores.redis_books import Corrections, Credit, books
from gateway.stores.redis_cadence import Cadence, keep_listening
from gateway.stores.redis_client import RedisClient, redis_answering
from gateway.stores.redis_line import Answer, Books, RedisLine
from gateway.stores.redis_looks import RedisLooks
from gateway.stores.redis_sight import storable
from gateway.stores.waiter import Waiter

BATCH_MAX = 200  # tickets per call: a few ms of Redis's time
BEATS_PER_LEASE = 3  # two may be lost before anyone takes us for dead

log = structlog.get_logger()


class RedisQueue:
    """
    An AdmissionQueue in Redis, owned in part by this gateway: *owner* must be new at every start of a process.

    **Credit.** With nobody waiting, part of the free slots is leased to the gateways (`redis_books.py`), and a request
    starts on one without a round trip. Whoever finds the credit used up asks for a slot by a ticket. As soon as a
    ticket has to wait, all gateways are called upon to give back what they do not use, and it is granted on; from then
    on every slot goes through the line. So what a gateway started past others that waited is at most what it had
    leased and not used, for as long as that call takes: one headroom, for one sync. A ticket that waited only for that
    call counts as one that waited.

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
        redis: RedisClient,
        pool: str,
        *,
        owner: str,
        waiting_max: int = WAITING_MAX,
        tenant_share: float = TENANT_SHARE,
        lease_s: float = 3.0,
        store_timeout_s: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self.is_up = True
        self._bounds = LineBounds(waiting_max=waiting_max, tenant_share=tenant_share)
        self._line = RedisLine(redis, pool, owner, lease_s=lease_s, bounds=self._bounds)
        self._lease_s, self._beat_s = lease_s, lease_s / BEATS_PER_LEASE
        self._store_timeout_s = store_timeout_s
        self._clock = clock
        self._waiting: dict[str, Waiter] = {}
        self._in_flight: dict[str, Held] = {}
        self._entering: dict[str, Waiter] = {}  # not yet told to Redis
        self._leaving: list[str] = []  # not yet told to Redis
        self._asking: list[asyncio.Future[Occupancy]] = []
        self._credit = Credit()
        self._corrections = Corrections()
        self._slots: int | None = None  # this gateway's word
        self._seen = Answer()
        self._lookout = Lookout(pool, clock)
        self._looks = RedisLooks(self._line, self._lookout)
        self._is_in_doubt = True  # until the first claim
        self._cadence = Cadence(self._beat_s)
        self._on_change: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def slot(self, ticket: Ticket, spent: Callable[[], int] | None = None) -> AsyncIterator[None]:
        await self.enter(ticket, spent)
        try:
            yield
        finally:
            self.leave(ticket)

    async def enter(self, ticket: Ticket, spent: Callable[[], int] | None = None, *, is_bounded: bool = True) -> None:
        """Wait for a slot, which `leave` gives back. A ticket that had its place before is let in unbounded."""
        assert not self._has(ticket.id), f"the ticket {ticket.id} is here already"
        ticket = storable(ticket)
        if not self._waiting and self._has_credit:
            self._start(ticket)
            return
        if is_bounded and (refusal := self._lookout.refuse_newcomer(ticket)):
            raise refusal
        waiter = Waiter(Held(ticket, ticket.work, spent), is_bounded)
        self._waiting[ticket.id] = self._entering[ticket.id] = waiter
        self._cadence.hurry()
        try:
            await waiter.granted
        except BaseException:
            self.leave(ticket)  # wherever it is: cancelled in the very instant of the grant, it is in flight
            raise

    def leave(self, ticket: Ticket) -> None:
        """
        Give back the slot or the place in line of *ticket*, if it has one here.

        Redis hears of it at once, or at the next claim if it is away; nobody waits for that. Of a slot had on credit it
        hears at once only if somebody waits.
        """
        if self._credit.give_back(ticket.id):
            self._tell_credit()
        elif held := self._in_flight.pop(ticket.id, None):
            self._corrections.note(held, is_over=True)
            self._tell_left(ticket.id)
        elif self._waiting.pop(ticket.id, None) and not self._entering.pop(ticket.id, None):
            self._tell_left(ticket.id)

    def set_slots(self, slots: int, coming: Iterable[Coming] = ()) -> None:
        self._lookout.forecast.expect(coming)
        if slots != self._slots:
            self._slots = slots
            self._credit.offer()  # what is lent may be more than there is now
            self._want(is_urgent=True)

    def place(self, ticket_id: str) -> Place | None:
        return self._lookout.place(ticket_id) if ticket_id in self._waiting else None

    async def looked(self) -> None:
        await self._lookout.looked()

    async def whereabouts(self, ticket_id: str) -> Whereabouts | None:
        """Find a ticket; one that was had on credit is known at its own gateway alone."""
        held = self._in_flight.get(ticket_id)
        if ticket := held.ticket if held else self._credit.used.get(ticket_id):
            return Whereabouts(ticket.tenant, None, is_waiting=False)
        if waiter := self._waiting.get(ticket_id):
            return Whereabouts(waiter.held.ticket.tenant, self.place(ticket_id), is_waiting=True)
        async with redis_answering(self._store_timeout_s):
            return await self._looks.find(ticket_id)

    async def occupancy(self) -> Occupancy:
        """Count all that hold a slot, by ticket or on credit; of the latter gateways tell with their next call."""
        asking: asyncio.Future[Occupancy] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self._cadence.hurry()
        return await asking

    async def start(self) -> None:
        await self._turn()
        listening = keep_listening(self._line, self._hear, self._lose_track, self._beat_s, self._store_timeout_s)
        looking = self._looks.keep_looking(self.look, lambda: self.is_up and bool(self._waiting))
        self._tasks = [asyncio.create_task(loop) for loop in (self._work(), listening, looking)]

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
        self._credit.start(storable(ticket), _now_s())
        self._is_in_doubt = True
        self._want(is_urgent=True)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have *on_change* called whenever `is_up` changed: when it fell, before those who wait learn of it."""
        self._on_change = on_change

    @property
    def in_flight(self) -> Collection[Ticket]:
        """This gateway's tickets that hold a slot."""
        return [*(held.ticket for held in self._in_flight.values()), *self._credit.used.values()]

    @property
    def waiting(self) -> int:
        """How many of this gateway's tickets wait."""
        return len(self._waiting)

    @property
    def slots_share(self) -> int:
        """This gateway's share of the pool's slots."""
        return self.share_of(self._seen.pool.slots if self._slots is None else self._slots)

    def share_of(self, slots: int) -> int:
        """Share *slots* equally among the gateways last seen alive; at least one slot if there are any."""
        return max(1, slots // self._seen.gateways) if slots else 0

    # Slots on credit.

    @property
    def _has_credit(self) -> bool:
        is_open = self.is_up and not self._is_in_doubt and not self._seen.pool.waiting
        return is_open and self._credit.has_free(_now_s())

    def _start(self, ticket: Ticket) -> None:
        self._credit.start(ticket, _now_s())
        self._tell_credit()

    def _tell_credit(self) -> None:
        if self._seen.pool.waiting or self._credit.has_moved:
            self._want(is_urgent=self._seen.pool.waiting > 0)

    def _start_on_credit(self) -> None:
        """Start those that came while Redis was asked, and it has not heard of."""
        while self._entering and self._has_credit:
            ticket_id, waiter = next(iter(self._entering.items()))
            del self._entering[ticket_id], self._waiting[ticket_id]
            if not waiter.is_gone:
                self._start(waiter.held.ticket)
                waiter.grant()

    def _has(self, ticket_id: str) -> bool:
        return ticket_id in self._waiting or ticket_id in self._in_flight or ticket_id in self._credit.used

    # The lane: the only place where Redis is told anything.

    async def _work(self) -> None:
        while True:
            await self._cadence.due()
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
        self._cadence.rest()
        lease_ends_s = _now_s() + self._lease_s  # by then at the earliest it ends in Redis, too
        said = books(self._slots, self._credit, self._corrections, _now_s())
        if self._is_in_doubt:
            asked, answer = len(self._asking), await self._claim(said)
        else:
            leaving, entering, asked = self._take_outbox()
            answer = await self._line.sync(said, leaving, [(one.held.ticket, one.is_bounded) for one in entering])
            for waiter in entering if answer else ():
                waiter.is_bounded = False
        if answer is None:
            self._is_in_doubt = True
        else:
            self._take_in(answer, lease_ends_s)
            self._tell_occupancy(0 if answer.unknown else asked)
        if self._is_in_doubt or self._leaving or self._entering:
            self._cadence.hurry()

    async def _claim(self, said: Books) -> Answer | None:
        self._is_in_doubt = False  # a doubt that arises from here on wants another claim
        self._entering.clear()
        self._leaving.clear()
        in_flight = [held.ticket for held in self._in_flight.values()]
        return await self._line.claim(said, in_flight, list(self._waiting))

    def _take_outbox(self) -> tuple[list[str], list[Waiter], int]:
        """Take the next batches, and count the askers who shall see all of their own doings in the answer."""
        leaving, self._leaving = self._leaving[:BATCH_MAX], self._leaving[BATCH_MAX:]
        entering = list(islice(self._entering.values(), BATCH_MAX))
        for waiter in entering:
            del self._entering[waiter.held.ticket.id]
        return leaving, entering, 0 if self._leaving or self._entering else len(self._asking)

    def _take_in(self, answer: Answer, lease_ends_s: float) -> None:
        self._seen = answer
        self._corrections.heard()
        self._credit.take(answer.lease, lease_ends_s)
        self._lookout.forecast.observe(self._clock(), answer.pool)
        for ticket_id in answer.started:
            self._grant(ticket_id, is_charged=False)
        for ticket_id in answer.granted:
            self._grant(ticket_id)
        for bound, refused in ((Bound.LINE, answer.line_full), (Bound.SHARE, answer.share_full)):
            for ticket_id in refused:
                self._refuse(ticket_id, bound)
        again = {ticket_id: self._waiting[ticket_id] for ticket_id in answer.unknown if ticket_id in self._waiting}
        self._entering = again | self._entering
        self._start_on_credit()
        self._note_change(is_up=True)

    def _tell_occupancy(self, asked: int) -> None:
        answered, self._asking = self._asking[:asked], self._asking[asked:]
        pool = self._seen.pool
        for asking in answered:
            if not asking.done():
                asking.set_result(Occupancy(pool.in_flight, pool.waiting, pool.slots))

    # What became of a ticket. If its owner has left meanwhile, it is not known any more or its future is done.

    def _grant(self, ticket_id: str, *, is_charged: bool = True) -> None:
        waiter = self._waiting.pop(ticket_id, None)
        if waiter:
            self._in_flight[ticket_id] = waiter.held if is_charged else Held(waiter.held.ticket)
            waiter.grant()

    def _refuse(self, ticket_id: str, bound: Bound) -> None:
        if waiter := self._waiting.pop(ticket_id, None):
            drain_s = self._lookout.forecast.drain_s(self._clock())
            waiter.turn_away(bound_reached(self.pool, waiter.held.ticket.tenant, bound, self._bounds, drain_s))

    def _lose(self, reason: str) -> None:
        """Redis is away: whoever waits learns it, in order of arrival. What is in flight waits for the next claim."""
        waiters, self._waiting = self._waiting, {}
        asking, self._asking = self._asking, []
        self._entering.clear()
        self._is_in_doubt = True
        self._corrections.drop()
        for held in self._in_flight.values():
            held.spent = None  # what was charged for it may be lost, so there is nothing to correct
        self._note_change(is_up=False, reason=reason)
        self._lookout.wake()
        for waiter in waiters.values():
            waiter.turn_away(StoreUnavailable("redis", reason))
        for one in asking:
            if not one.done():
                one.set_exception(StoreUnavailable("redis", reason))

    def _note_change(self, *, is_up: bool, reason: str = "") -> None:
        if is_up != self.is_up:
            self.is_up = is_up
            if is_up:
                log.info("queue_shared_again", pool=self.pool)
            else:
                log.warning("queue_store_lost", pool=self.pool, reason=reason)
            self._on_change()

    def _tell_left(self, ticket_id: str) -> None:
        self._leaving.append(ticket_id)
        self._want(is_urgent=True)

    def _want(self, *, is_urgent: bool) -> None:
        """Have a call made at once or soon; while Redis is away only the heartbeat calls."""
        if self.is_up:
            (self._cadence.hurry if is_urgent else self._cadence.soon)()

    # Wake-ups: grants to our tickets that other gateways' calls made, and calls to give credit back.

    def _hear(self, ticket_ids: list[str]) -> None:
        for ticket_id in ticket_ids:
            self._grant(ticket_id)
        if not ticket_ids:
            self._credit.offer()
            self._want(is_urgent=True)

    def _lose_track(self) -> None:
        """A wake-up may have been lost with its connection."""
        self._is_in_doubt = True
        self._cadence.hurry()

    # The looks at the line.

    async def look(self) -> None:
        """Settle as tokens flow, find out where everyone stands, refuse who is too late. Raises StoreUnavailable."""
        for held in self._in_flight.values():
            if self._corrections.note(held, is_over=False):
                self._want(is_urgent=False)
        await self._looks.look()
        for ticket, refusal in self._lookout.too_late([waiter.held.ticket for waiter in self._waiting.values()]):
            waiter = self._waiting[ticket.id]
            self.leave(ticket)
            waiter.turn_away(refusal)

    def __repr__(self) -> str:
        held = f"{len(self.in_flight)} in flight, {len(self._waiting)} waiting"
        away = "" if self.is_up else ", Redis is away"
        return f"<RedisQueue {self.pool} of {self._line.owner} [{held}, {self._seen.pool.slots} slots{away}]>"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
