"""Every AdmissionQueue against a model that is too simple to be wrong, over random doings of its users."""

import asyncio
from itertools import count

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.directory import ServiceClass
from gateway.errors import Refused
from gateway.ports.queue import Occupancy
from gateway.stores.memory import MemoryQueue
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from tests.conformance.model import Model
from tests.conformance.queues import Visitor, ticket, until

WAITING_MAX, TENANT_SHARE = 10, 0.6
BOUNDS = {"waiting_max": WAITING_MAX, "tenant_share": TENANT_SHARE}
WEIGHTS = {"acme": 1, "globex": 3, "initech": 1}
IN_2100_MS = 4_102_444_800_000
_pools = count()


class Users(RuleBasedStateMachine):
    """
    Users who enter, leave and hang up at one of several gateways, while slots come and go.

    Over Redis a free slot may lie with another gateway as credit; then a ticket waits until it is called back, and
    counts as one that waited. The model cannot know that, so it is told; that such a ticket gets its slot it insists.
    """

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model(WAITING_MAX, int(WAITING_MAX * TENANT_SHARE))
        self.names = count()
        self.visitors: dict[str, Visitor] = {}
        self.homes: dict[str, int] = {}
        self.url = url
        self.redis = self.run(self.connect()) if url else None
        pool = f"pool-{next(_pools)}"
        if self.redis:
            self.queues = [RedisQueue(self.redis, pool, owner=owner, **BOUNDS) for owner in ("left", "right")]
        else:
            self.queues = [MemoryQueue(pool, **BOUNDS)]
        for queue in self.queues:
            self.run(self.start(queue))

    def run(self, work):
        return self.runner.run(work)

    async def connect(self):
        return connect(self.url)

    async def start(self, queue):
        """Start it, but for its looks: here they are taken when a rule says so."""
        await queue.start()
        looking = queue._tasks[-1] if self.redis else queue._looking
        looking.cancel()

    @rule(
        tenant=st.sampled_from(sorted(WEIGHTS)),
        user=st.sampled_from(["", "ann", "bob\0"]),
        service_class=st.sampled_from(ServiceClass),
        work=st.sampled_from([1, 7, 100, 123_456_789]),
        spent=st.sampled_from([None, 0, 5, 250]),
        deadline_ms=st.sampled_from([IN_2100_MS, IN_2100_MS + 1, 2**53 - 1]),
        head_start_ms=st.sampled_from([0, 0, 1]),
        tickets=st.integers(1, 4),
        gateway=st.integers(0, 1),
    )
    def enter(self, tenant, service_class, spent, tickets, gateway, **fields):
        for _ in range(tickets):
            one = ticket(f"t{next(self.names)}", tenant, service_class, weight=WEIGHTS[tenant], **fields)
            self.run(self._enter(one, spent, gateway % len(self.queues)))

    async def _enter(self, one, spent, gateway):
        queue, has_free_slot = self.queues[gateway], self.model.has_free_slot
        visitor = Visitor(queue, one, spent=spent)
        await asyncio.sleep(0)
        await queue.occupancy()
        if not has_free_slot and (code := self.model.refusal(one)):
            with pytest.raises(Refused) as refusal:
                await visitor.task
            assert refusal.value.code == code
            return
        self.visitors[one.id], self.homes[one.id] = visitor, gateway
        if has_free_slot:
            async with asyncio.timeout(5):
                await visitor.admitted.wait()
        if has_free_slot and not self._had_to_wait(queue, one.id):
            self.model.start(one)
        else:
            self.model.enter(one, spent)

    def _had_to_wait(self, queue, ticket_id) -> bool:
        held = queue._in_flight.get(ticket_id)
        had_to_wait = held is not None and held.charged > 0
        assert self.redis or not had_to_wait, "in one process nobody waits for a free slot"
        return had_to_wait

    @precondition(lambda self: self.model.in_flight)
    @rule(data=st.data(), tickets=st.integers(1, 6))
    def leave(self, data, tickets):
        for _ in range(min(tickets, len(self.model.in_flight))):
            self._leave(data.draw(st.sampled_from(sorted(self.model.in_flight))))

    @precondition(lambda self: self.model.in_flight)
    @rule()
    def serve_all(self):
        while self.model.in_flight:
            self._leave(min(self.model.in_flight))

    def _leave(self, ticket_id):
        self.run(self.visitors.pop(ticket_id).leave())
        self.run(self._tell())
        self.model.leave(ticket_id)

    @precondition(lambda self: self.visitors)
    @rule(data=st.data())
    def hang_up(self, data):
        leaving = data.draw(st.sampled_from(sorted(self.visitors)))
        self.run(self.visitors.pop(leaving).cancel())
        self.model.leave(leaving)

    @rule(slots=st.sampled_from([0, 1, 1, 2, 3, 12]), gateway=st.integers(0, 1))
    def set_slots(self, slots, gateway):
        for queue in (self.queues[gateway % len(self.queues)], *self.queues):  # all gateways see the same workers
            queue.set_slots(slots)
        self.model.slots = slots
        self.model.admit()

    @precondition(lambda self: self.model.waiting)
    @rule(gateway=st.integers(0, 1))
    def look(self, gateway):
        """The first look settles what is in flight; the second sees the line as that has left it."""
        self.run(self._look(gateway % len(self.queues)))

    async def _look(self, gateway):
        queue, ours = self.queues[gateway], {name for name, home in self.homes.items() if home == gateway}
        await queue.look()
        await queue.occupancy()
        self.model.look(ours)
        await queue.look()
        for position, name in enumerate(self.model.order(), start=1):
            assert (queue.place(name).position if name in ours else position) == position
            found = await queue.whereabouts(name)
            assert found.is_waiting
            assert found.place.position == position

    @precondition(lambda self: self.redis)
    @rule()
    def lose_connections(self):
        with redis.Redis.from_url(self.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    @invariant()
    def all_agree(self):
        self.run(self._tell())
        self.run(self._agree())

    async def _tell(self):
        """Have all that was done at any gateway arrive."""
        for queue in self.queues:
            await queue.occupancy()

    async def _agree(self):
        await until(self._all_heard, within_s=5)
        await self._tell()
        expected = Occupancy(len(self.model.in_flight), len(self.model.waiting), self.model.slots)
        for queue in self.queues:
            assert await queue.occupancy() == expected

    async def _all_heard(self) -> bool:
        admitted = {name for name, visitor in self.visitors.items() if visitor.admitted.is_set()}
        assert admitted <= self.model.in_flight.keys(), "only the model's choice is admitted"
        return admitted == self.model.in_flight.keys()

    def teardown(self):
        self.run(self._close())
        self.runner.close()

    async def _close(self):
        await asyncio.gather(*(visitor.cancel() for visitor in self.visitors.values()))
        for queue in self.queues:
            assert "[0 in flight, 0 waiting" in repr(queue)
            await queue.aclose()
        if self.redis:
            await self.redis.aclose()


def check(make_users, examples: int) -> None:
    quiet = settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(make_users, settings=quiet)


def test_the_queue_in_memory_does_as_the_model():
    check(lambda: Users(None), examples=100)


@pytest.mark.redis
def test_two_gateways_over_redis_do_as_the_model_even_when_connections_break(redis_url):
    check(lambda: Users(redis_url), examples=20)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == [], "the last to go leaves nothing"
