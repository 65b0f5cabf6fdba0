"""Every AdmissionQueue against a model that is too simple to be wrong, over random doings of its users."""

import asyncio
from dataclasses import dataclass, field
from itertools import count

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Ticket
from gateway.errors import Refused
from gateway.ports.queue import Occupancy
from gateway.stores.memory import MemoryQueue
from gateway.stores.redis import RedisQueue
from gateway.stores.redis_client import connect
from tests.conformance.queues import Visitor, ticket, until

WAITING_MAX = 8
_pools = count()


@dataclass
class Model:
    """The policy, by looking at everything each time."""

    slots: int = 0
    waiting: list[Ticket] = field(default_factory=list)
    in_flight: set[str] = field(default_factory=set)
    counters: dict[tuple[ServiceClass, str], int] = field(default_factory=dict)
    floors: dict[ServiceClass, int] = field(default_factory=lambda: dict.fromkeys(ServiceClass, 0))

    def enter(self, one: Ticket) -> bool:
        if len(self.waiting) >= WAITING_MAX and len(self.in_flight) >= self.slots:
            return False
        backlogged = {t.tenant for t in self.waiting if t.service_class is one.service_class}
        if one.tenant not in backlogged:
            counters = [self.counters[one.service_class, tenant] for tenant in backlogged]
            smallest = min(counters, default=self.floors[one.service_class])
            own = self.counters.get((one.service_class, one.tenant), 0)
            self.counters[one.service_class, one.tenant] = max(own, smallest)
        self.waiting.append(one)
        self.admit()
        return True

    def leave(self, ticket_id: str) -> None:
        self.in_flight.discard(ticket_id)
        self.waiting = [one for one in self.waiting if one.id != ticket_id]
        self.admit()

    def admit(self) -> None:
        while self.waiting and len(self.in_flight) < self.slots:
            service_class = min(one.service_class for one in self.waiting)
            rivals = [one for one in self.waiting if one.service_class is service_class]
            following = min(rivals, key=lambda one: self.counters[service_class, one.tenant])  # the first of equals
            self.waiting.remove(following)
            self.in_flight.add(following.id)
            self.floors[service_class] = self.counters[service_class, following.tenant]
            self.counters[service_class, following.tenant] += 1


class Users(RuleBasedStateMachine):
    """Users who enter, leave and hang up at one of several gateways, while slots come and go."""

    def __init__(self, url: str | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.names = count()
        self.visitors: dict[str, Visitor] = {}
        self.url = url
        self.redis = self.run(self.connect()) if url else None
        pool = f"pool-{next(_pools)}"
        if self.redis:
            self.queues = [RedisQueue(self.redis, pool, owner=o, waiting_max=WAITING_MAX) for o in ("left", "right")]
        else:
            self.queues = [MemoryQueue(pool, waiting_max=WAITING_MAX)]
        for queue in self.queues:
            self.run(queue.start())

    def run(self, work):
        return self.runner.run(work)

    async def connect(self):
        return connect(self.url)

    @rule(
        tenant=st.sampled_from(["acme", "globex", "initech"]),
        service_class=st.sampled_from([ServiceClass.STANDARD, ServiceClass.STANDARD, ServiceClass.INTERACTIVE]),
        tickets=st.integers(1, 4),
        gateway=st.integers(0, 1),
    )
    def enter(self, tenant, service_class, tickets, gateway):
        for _ in range(tickets):
            self.run(self._enter(ticket(f"t{next(self.names)}", tenant, service_class), gateway))

    async def _enter(self, one, gateway):
        queue = self.queues[gateway % len(self.queues)]
        visitor = Visitor(queue, one)
        await asyncio.sleep(0)
        await queue.occupancy()
        if self.model.enter(one):
            self.visitors[one.id] = visitor
        else:
            with pytest.raises(Refused):
                await visitor.task

    @precondition(lambda self: self.model.in_flight)
    @rule(data=st.data(), tickets=st.integers(1, 6))
    def leave(self, data, tickets):
        for _ in range(min(tickets, len(self.model.in_flight))):
            leaving = data.draw(st.sampled_from(sorted(self.model.in_flight)))
            self.run(self.visitors.pop(leaving).leave())
            self.model.leave(leaving)

    @precondition(lambda self: self.model.in_flight)
    @rule()
    def serve_all(self):
        while self.model.in_flight:
            leaving = min(self.model.in_flight)
            self.run(self.visitors.pop(leaving).leave())
            self.model.leave(leaving)

    @precondition(lambda self: self.visitors)
    @rule(data=st.data())
    def hang_up(self, data):
        leaving = data.draw(st.sampled_from(sorted(self.visitors)))
        self.run(self.visitors.pop(leaving).cancel())
        self.model.leave(leaving)

    @rule(slots=st.sampled_from([0, 1, 1, 2, 3]), gateway=st.integers(0, 1))
    def set_slots(self, slots, gateway):
        for queue in (self.queues[gateway % len(self.queues)], *self.queues):  # all gateways see the same workers
            queue.set_slots(slots)
        self.model.slots = slots
        self.model.admit()

    @precondition(lambda self: self.redis)
    @rule()
    def lose_connections(self):
        with redis.Redis.from_url(self.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    @invariant()
    def all_agree(self):
        self.run(self._agree())

    async def _agree(self):
        for queue in self.queues:
            await queue.occupancy()  # whatever was done at this gateway has arrived
        expected = Occupancy(len(self.model.in_flight), len(self.model.waiting), self.model.slots)
        for queue in self.queues:
            assert await queue.occupancy() == expected
        await until(self._all_heard, within_s=5)

    async def _all_heard(self) -> bool:
        admitted = {name for name, visitor in self.visitors.items() if visitor.admitted.is_set()}
        assert admitted <= self.model.in_flight, "only the model's choice is admitted"
        return admitted == self.model.in_flight

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
    quiet = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(make_users, settings=quiet)


def test_the_queue_in_memory_does_as_the_model():
    check(lambda: Users(None), examples=100)


@pytest.mark.redis
def test_two_gateways_over_redis_do_as_the_model_even_when_connections_break(redis_url):
    check(lambda: Users(redis_url), examples=20)
