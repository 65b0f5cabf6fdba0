"""Places in line and places in flight: which pool's queue a request enters, and how many slots each pool has."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.core.directory import Model
from gateway.core.outcome import Outcome
from gateway.core.routing import slots
from gateway.core.scheduling import Ticket
from gateway.errors import Refused
from gateway.ports.queue import AdmissionQueue
from gateway.ports.roster import Roster
from gateway.serve.metering import MeterRecord

RETRY_WHEN_DRAINING_S = 1


class Admission:
    """
    The queues of all pools, made as pools appear.

    A pool has as many slots as its ready workers take requests at once; `resize` keeps the queues told.
    """

    def __init__(self, make_queue: Callable[[str], AdmissionQueue], roster: Roster, now_ms: Callable[[], int]) -> None:
        self._make_queue = make_queue
        self._now_ms = now_ms
        self._roster = roster
        self.queues: dict[str, AdmissionQueue] = {}
        self.is_draining = False

    @asynccontextmanager
    async def enter(self, model: Model, record: MeterRecord) -> AsyncIterator[None]:
        """
        Hold a slot of the model's pool while the block runs, after waiting for it.

        Raises Refused: NO_WORKER if the pool has no ready worker, QUEUE_FULL, DRAINING.
        """
        assert record.caller is not None, "a caller is identified before it is admitted"
        assert record.request is not None, "a request is parsed before it is admitted"
        if self.is_draining:
            message = "This gateway is shutting down. Retry at once: another one answers."
            raise Refused(Outcome.DRAINING, message, retry_after_s=RETRY_WHEN_DRAINING_S)
        queue = await self._sized_queue(model.pool)
        ticket = Ticket(
            id=record.id,
            tenant=record.caller.tenant,
            service_class=record.caller.service_class,
            work=record.request.work,
        )
        began_ms = self._now_ms()
        async with queue.slot(ticket):
            record.queue_ms = self._now_ms() - began_ms
            yield

    def resize(self) -> None:
        """Tell every queue how many slots its pool has now."""
        for pool, queue in self.queues.items():
            queue.set_slots(slots(self._roster.views(pool)))

    async def _sized_queue(self, pool: str) -> AdmissionQueue:
        """Give the pool's queue, told how many slots there are; made and started at the pool's first request."""
        count = slots(self._roster.views(pool))
        if count == 0:
            message = f"No worker of the pool {pool!r} is ready at the moment. Retry in a few seconds."
            raise Refused(Outcome.NO_WORKER, message, retry_after_s=5)
        queue = self.queues.get(pool)
        is_new = queue is None
        if queue is None:
            queue = self.queues[pool] = self._make_queue(pool)
        queue.set_slots(count)
        if is_new:
            await queue.start()  # its first word to a shared store carries the slots: what stands there may be old
        return queue

    async def aclose(self) -> None:
        """Close every queue."""
        for queue in self.queues.values():
            await queue.aclose()
