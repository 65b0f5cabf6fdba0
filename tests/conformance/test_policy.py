"""Both homes of the policy decide as the model does, over long random schedules."""

import random
from collections import Counter
from itertools import count

import pytest

from gateway.core.directory import ServiceClass
from gateway.core.scheduling import Line, LineBounds, Ticket
from gateway.core.scheduling import charge as charge_of
from gateway.stores.redis_client import connect
from gateway.stores.redis_line import Books, RedisLine
from tests.conformance.model import Model
from tests.conformance.queues import POOL, ticket

STEPS = 1500
WEIGHTS = {"acme": 1, "globex": 3, "initech": 7, "umbrella": 100}


class InMemory:
    """The line of one process, with slots."""

    def __init__(self) -> None:
        self._line = Line()
        self._in_flight: set[str] = set()

    async def tell(self, slots: int, entering=(), leaving: Ticket | None = None, correction: int = 0) -> list[str]:
        granted = []
        if leaving:
            self._line.settle(leaving, correction)
            self._in_flight.discard(leaving.id)
            self._line.leave(leaving.id)
        for one in entering:
            if len(self._in_flight) < slots and not len(self._line):
                self._in_flight.add(one.id)
                granted.append(one.id)
            else:
                self._line.enter(one)
        while len(self._in_flight) < slots and (one := self._line.next()):
            self._in_flight.add(one.id)
            granted.append(one.id)
        return granted


class InRedis:
    """The line that gateways share, as one that wants no credit speaks of it."""

    def __init__(self, client) -> None:
        self._line = RedisLine(
            client, POOL, "gateway", lease_s=60.0, bounds=LineBounds(waiting_max=10_000, tenant_share=1.0)
        )
        self._batches = count(1)

    async def claim(self) -> None:
        await self._line.claim(Books(), [], [])

    async def tell(self, slots: int, entering=(), leaving: Ticket | None = None, correction: int = 0) -> list[str]:
        corrections = []
        if correction:
            amount = charge_of(correction, leaving.weight)
            corrections = [(int(leaving.service_class), leaving.tenant, leaving.user, amount)]
        books = Books(slots=slots, batch=next(self._batches), corrections=corrections)
        left = [leaving.id] if leaving else []
        answer = await self._line.sync(books, left, [(one, True) for one in entering])
        assert not answer.unknown
        assert not answer.line_full
        return [*answer.started, *answer.granted]


def random_tickets(chance: random.Random, names) -> list[Ticket]:
    tenant = chance.choice(list(WEIGHTS))
    return [
        ticket(
            f"t{next(names)}",
            tenant,
            chance.choice(list(ServiceClass)),
            user=f"user-{chance.randrange(3)}",
            weight=WEIGHTS[tenant],
            work=chance.choice([1, 10, chance.randrange(1, 10_000)]),
            deadline_ms=4_000_000_000_000 + chance.randrange(5),
        )
        for _ in range(chance.randrange(1, 5))
    ]


async def play(home, seed: int) -> Counter:
    """Let the same happen to the model and to *home* until STEPS are done; count what it was."""
    chance, names, model, done = random.Random(seed), count(), Model(10_000, 10_000), Counter()
    for _ in range(STEPS):
        before = set(model.in_flight)
        act = chance.choice(["enter", "serve", "serve", "hang up", "resize"] if len(model.waiting) < 60 else ["serve"])
        done[act] += 1
        if act == "enter":
            tickets = random_tickets(chance, names)
            for one in tickets:
                (model.start(one) if model.has_free_slot else model.enter(one, chance.randrange(2 * one.work)))
            granted = await home.tell(model.slots, tickets)
        elif act == "serve" and model.in_flight:
            flight = model.in_flight[chance.choice(sorted(model.in_flight))]
            correction = 0 if flight.spent is None else flight.spent - flight.charged
            model.leave(flight.ticket.id)
            granted = await home.tell(model.slots, leaving=flight.ticket, correction=correction)
        elif act == "hang up" and model.waiting:
            one = chance.choice(list(model.waiting.values())).ticket
            model.leave(one.id)
            granted = await home.tell(model.slots, leaving=one)
        else:
            model.slots = chance.randrange(1, 6)
            model.admit()
            granted = await home.tell(model.slots)
        assert granted == [name for name in model.in_flight if name not in before], f"step {done.total()}"
        done["grants out of line"] += sum(model.in_flight[name].charged > 0 for name in granted)
    return done


@pytest.mark.parametrize("seed", range(6))
async def test_the_line_in_memory_decides_as_the_model(seed):
    assert (await play(InMemory(), seed))["grants out of line"] > 200


@pytest.mark.redis
@pytest.mark.parametrize("seed", range(6))
async def test_the_line_in_redis_decides_as_the_model(redis_url, seed):
    client = connect(redis_url)
    home = InRedis(client)
    await home.claim()
    assert (await play(home, seed))["grants out of line"] > 200
    await client.aclose()
