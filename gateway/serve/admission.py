"""
Places in line and places on workers: which pool's line a request enters, what its ticket says, how long it may wait.

A request that has its turn when no worker can serve it (the last one has just gone) goes back in line and waits on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext

from gateway.core.affinity import Chain
from gateway.core.chain import of_session
from gateway.core.directory import Model, ServiceClass
from gateway.core.drain import Drain
from gateway.core.eta import Place
from gateway.core.outcome import Outcome
from gateway.core.prediction import Predictor
from gateway.core.refusals import draining, no_worker
from gateway.core.returns import Returns, mark
from gateway.core.scheduling import Ticket
from gateway.core.starts import Starts
from gateway.errors import Refused, StoreUnavailable
from gateway.ports.queue import AdmissionQueue, Whereabouts
from gateway.ports.returns import ReturnStore
from gateway.ports.roster import Roster
from gateway.serve.class_limits import ClassLimits
from gateway.serve.lines import PoolLine
from gateway.serve.metering import MeterRecord
from gateway.serve.placement import Place as WorkerPlace
from gateway.serve.placement import Placement
from gateway.serve.work_meter import WorkMeter

AGAIN_S = 0.25  # before a request that no worker could serve takes its turn again: as often as pools are counted anew
CLIENT_ID_HEADER = b"x-client-request-id"
CLIENT_ID_BYTES_MAX = 512  # as OpenAI has it; a longer one is not remembered
IDEMPOTENCY_HEADER = b"idempotency-key"
SESSION_HEADER = b"x-session-id"
LEARN_EVERY = 4  # countings between two looks at workers that start

_NAMELESS = nullcontext()


class Admission:
    """
    The lines of all pools, made as pools appear.

    A pool has as many slots as its ready workers take requests at once; `resize` keeps the lines told.
    """

    def __init__(
        self,
        make_queue: Callable[[str], AdmissionQueue],
        roster: Roster,
        placement: Placement,
        predictor: Predictor,
        limits: ClassLimits,
        now_ms: Callable[[], int],
        starts: Starts | None = None,
        meter: WorkMeter | None = None,
        returns: ReturnStore | None = None,
    ) -> None:
        self._make_queue = make_queue
        self._roster = roster
        self._placement = placement
        self._predictor = predictor
        self._limits = limits
        self._now_ms = now_ms
        self._lines: dict[str, PoolLine] = {}
        self._waiting: dict[str, PoolLine] = {}  # by request id; those that wait here
        self._ids: dict[tuple[str, bytes], str] = {}  # what callers call the requests that they have here
        self._returns = Returns() if returns is None else returns
        self._starts = starts or Starts()
        self._meter = meter or WorkMeter(time.monotonic)
        self._countings = 0
        self.drain = Drain()

    @property
    def queues(self) -> Mapping[str, AdmissionQueue]:
        """Every pool's queue that there is so far."""
        return {pool: line.queue for pool, line in self._lines.items()}

    @asynccontextmanager
    async def enter(self, model: Model, record: MeterRecord) -> AsyncIterator[WorkerPlace]:
        """
        Hold a slot of the model's pool, and a place on one of its workers, while the block runs; wait for both.

        Raises Refused: QUEUE_FULL, WAIT_TOO_LONG, NO_WORKER if no worker came within the class's limit, DRAINING,
        SPOOL_UNAVAILABLE at once if what it costs could not be recorded.
        """
        record.check()
        line = await self._line(model.pool)
        with self._named(record) if CLIENT_ID_HEADER in record.headers else _NAMELESS:
            async with AsyncExitStack() as stack:
                place = await self._wait(stack, line, record)
                try:
                    yield place
                finally:
                    self._meter.leave(record.id)
                    self._predictor.learn(record.admitted.tenant, record.parsed, record.seen)
                    self._placement.learn(place, record.seen)

    async def _wait(self, stack: AsyncExitStack, line: PoolLine, record: MeterRecord) -> WorkerPlace:
        """Wait for a slot and a place on a worker, with a new ticket; a request that goes away may come again."""
        ticket = self._ticket(record, line.pool)
        self._waiting[record.id] = line
        self._meter.enter(line.pool, ticket)
        try:
            place = await self._place(stack, line, ticket, record)
        except BaseException as error:
            self._meter.leave(ticket.id)
            self._returns.note(_mark(record), ticket.arrived_ms - ticket.head_start_ms)
            if isinstance(error, Refused) and self._is_by_drain(error):
                raise draining() from error
            raise
        finally:
            del self._waiting[record.id]
        self._meter.start(ticket.id, lambda: record.spent)
        record.granted_ms = self._now_ms()
        record.queue_ms = max(0, record.granted_ms - ticket.arrived_ms)  # the clock may have been set back
        return place

    async def _place(self, stack: AsyncExitStack, line: PoolLine, ticket: Ticket, record: MeterRecord) -> WorkerPlace:
        """Enter a slot and then a place on a worker into *stack*, as often as it takes."""
        service_class = ticket.service_class
        self._check_start(line, service_class)
        async with line.hold(ticket, self._limits.of(line.pool).hold_s_max[service_class]) as hold:
            while True:
                await stack.enter_async_context(line.queue.slot(ticket, lambda: record.spent))
                try:
                    place = self._placement.place(line.pool, record.parsed, record.id, _session_chain(record))
                    return await stack.enter_async_context(place)
                except Refused:  # no worker that is ready has the model
                    await stack.aclose()
                    hold.begin()
                    await asyncio.sleep(AGAIN_S)

    def _check_start(self, line: PoolLine, service_class: ServiceClass) -> None:
        """Refuse at once who would be held in vain: the next worker is known to be ready later than that."""
        if line.has_capacity:
            return
        now_s, allowed_s = self._now_ms() / 1000, self._limits.of(line.pool).hold_s_max[service_class]
        at_s = min((coming.at_s for coming in self._starts.coming(line.pool, now_s)), default=now_s)
        if at_s - now_s > allowed_s:
            raise no_worker(line.pool, service_class, allowed_s, at_s - now_s)

    # Tickets.

    def _ticket(self, record: MeterRecord, pool: str) -> Ticket:
        caller, wishes, request = record.admitted, record.wished, record.parsed
        now_ms = self._now_ms()
        wait_s_max = self._limits.of(pool).wait_s_max[wishes.service_class]
        if wishes.wait_s_max is not None:
            wait_s_max = min(wait_s_max, wishes.wait_s_max)
        wait_s_max = max(0.0, min(wait_s_max, self.drain.wait_left_s(time.monotonic())))
        return Ticket(
            id=record.id,
            tenant=caller.tenant,
            service_class=wishes.service_class,
            user=request.user or caller.key,
            work=request.work,
            weight=caller.weight,
            deadline_ms=now_ms + int(wait_s_max * 1000),
            arrived_ms=now_ms,
            head_start_ms=max(0, now_ms - self._first_arrival_ms(record, now_ms)),
        )

    def _first_arrival_ms(self, record: MeterRecord, now_ms: int) -> int:
        """Tell when this request came for the first time: a job long ago, a retry when it was refused."""
        known_ms = self._returns.take(_mark(record), now_ms) if len(self._returns) else None
        return record.arrived_ms if known_ms is None else min(known_ms, record.arrived_ms)

    # The way out.

    def begin_drain(self, drain_s: float) -> None:
        """
        Send away whoever's turn will not come in time; the others go on, and have *drain_s* to end in all.

        What still comes, on connections that are open, is treated alike. Everyone keeps its age, at other gateways too.
        """
        self.drain.begin(time.monotonic(), drain_s)
        self._send_away()

    def _send_away(self) -> None:
        now_s = time.monotonic()
        for line in self._lines.values():
            line.send_away(lambda place: self.drain.is_in_vain(place.eta_s if place else None, now_s))

    def _is_by_drain(self, refusal: Refused) -> bool:
        """Tell whether a wait was too long for a gateway that goes, and for no other."""
        return self.drain.has_begun and refusal.outcome is Outcome.WAIT_TOO_LONG

    # Who asks where a request stands.

    def is_waiting(self, request_id: str) -> bool:
        """Tell whether a request of this gateway waits: in line, or for a worker."""
        return request_id in self._waiting

    def place(self, request_id: str) -> Place | None:
        """Tell where a request of this gateway stands in line, from memory; None if that is not known."""
        line = self._waiting.get(request_id)
        return line.queue.place(request_id) if line else None

    async def find(self, tenant: str, name: str, pools: Iterable[str]) -> tuple[str, Whereabouts] | None:
        """
        Find a request of *tenant* at any gateway by its id, or at this one by what its caller calls it.

        *pools* are all that there are: this gateway may not have had a request for some of them.
        """
        request_id = self._ids.get((tenant, name.encode()), name)
        here = self._waiting.get(request_id)
        for pool in [here.pool] if here else pools:
            line = await self._line(pool)
            try:
                found = await line.queue.whereabouts(request_id)
            except StoreUnavailable:  # then this gateway knows its own requests only
                continue
            if found and found.tenant == tenant:
                return request_id, found
        return None

    @contextmanager
    def _named(self, record: MeterRecord) -> Iterator[None]:
        """Know a request by its caller's own name for it while the block runs."""
        name = record.headers[CLIENT_ID_HEADER]
        key = record.admitted.tenant, name
        if len(name) > CLIENT_ID_BYTES_MAX:
            yield
            return
        self._ids[key] = record.id
        try:
            yield
        finally:
            if self._ids.get(key) == record.id:  # the latest of several of one name has it
                del self._ids[key]

    # The lines.

    def resize(self) -> None:
        """Tell every line how many slots its pool has now, and which workers are starting. Four times a second."""
        if self._countings % LEARN_EVERY == 0:
            self._starts.look(self._roster.beats(), self._now_ms() / 1000)
        self._countings += 1
        for line in self._lines.values():
            self._resize(line)
        if self.drain.has_begun:
            self._send_away()

    def _resize(self, line: PoolLine) -> None:
        line.resize(self._roster.views(line.pool), self._starts.coming(line.pool, self._now_ms() / 1000))

    async def _line(self, pool: str) -> PoolLine:
        """Give the pool's line, told how many slots there are; made and started at the pool's first request."""
        line = self._lines.get(pool)
        is_new = line is None
        if line is None:
            line = self._lines[pool] = PoolLine(pool, self._make_queue(pool))
        if not line.has_capacity:
            self._resize(line)
        if is_new:
            await line.queue.start()  # its first word to a shared store carries the slots: what stands there may be old
        return line

    async def aclose(self) -> None:
        """Close every queue."""
        for line in self._lines.values():
            await line.queue.aclose()


def _session_chain(record: MeterRecord) -> Chain | None:
    """Give the prompt's chain with the key of the session that its caller names; None without a name."""
    session = record.headers.get(SESSION_HEADER)
    return of_session(record.parsed.chain, record.admitted.tenant, session) if session else None


def _mark(record: MeterRecord) -> bytes:
    return mark(record.admitted.key, record.parsed.body, record.headers.get(IDEMPOTENCY_HEADER, b""))
