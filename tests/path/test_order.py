"""What the path tells the line of a request: who, how urgent, how much work; and that a retry keeps its age."""

import asyncio
import json

import pytest

from gateway.core.request import parse_chat
from gateway.serve.wire import ConnectionPool
from tests.path.waiting_clients import BODY, busy, until_waiting, waits

LONG = BODY | {"max_tokens": 4000}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


def request(text, **fields):
    return BODY | {"messages": [{"role": "user", "content": text}]} | fields


async def order_of(path, clients):
    """Give the names of *clients* in the order in which they got their slots."""
    await asyncio.gather(*(client.done for client in clients.values()))
    events = await path.events()
    names = {client.id: name for name, client in clients.items()}
    ended = {names[id_]: event["arrived_ms"] + event["queue_ms"] for id_, event in events.items() if id_ in names}
    return sorted(ended, key=ended.get)


@pytest.mark.parametrize("by", ["body", "idempotency_key"])
async def test_a_request_that_hung_up_and_comes_again_goes_before_those_who_came_meanwhile(start_path, connections, by):
    async with start_path(count=1) as path, busy(path, connections, tokens=1500):
        headers = {"idempotency_key": "k1"} if by == "idempotency_key" else {}
        first = waits(path, request("one"), **headers)
        await until_waiting(path, 1)
        first.done.cancel()
        await until_waiting(path, 0)
        clients = {"two": waits(path, request("two", max_tokens=100))}
        await until_waiting(path, 1)
        again = request("one" if by == "body" else "one, in other words", max_tokens=5 if by == "body" else 6)
        clients["one"] = waits(path, again, **headers)
        await until_waiting(path, 2)
        assert await order_of(path, clients) == ["one", "two"]
        assert not len(path.gateway._admission._returns)


async def test_a_retry_has_all_the_time_that_its_class_allows(start_path, connections):
    """Its age counts for its place in line alone: a refusal as too late must not make the next one likelier."""
    async with (
        start_path(count=1, queue={"wait_s_max": {"standard": 4}}) as path,
        busy(path, connections, tokens=4000) as taking,
    ):
        first = waits(path, request("one"))
        await first.done
        assert first.status == 429
        again = waits(path, request("one"))
        await until_waiting(path, 1)
        for _ in range(2):
            await path.gateway._admission.queues["tiny"].looked()
        assert not again.done.done()
        taking.cancel()
        await again.done
    assert again.status == 200


async def test_end_users_of_a_tenant_take_turns(start_path, connections):
    async with start_path(count=1) as path, busy(path, connections, tokens=700):
        clients = {}
        for number in range(3):
            clients[f"a{number}"] = waits(path, request(f"a{number}", user="a", max_tokens=100))
            await until_waiting(path, number + 1)
        clients["b"] = waits(path, request("b", user="b", max_tokens=100))
        await until_waiting(path, 4)
        assert (await order_of(path, clients)).index("b") == 1


async def test_the_more_urgent_class_goes_first(start_path, connections):
    async with start_path(count=1) as path, busy(path, connections, tokens=700):
        clients = {"batch": waits(path, request("x", max_tokens=100), x_sluice_class="batch")}
        await until_waiting(path, 1)
        clients["standard"] = waits(path, request("y", max_tokens=100))
        await until_waiting(path, 2)
        assert await order_of(path, clients) == ["standard", "batch"]


async def test_the_sooner_deadline_of_a_user_goes_first(start_path, connections):
    async with start_path(count=1) as path, busy(path, connections, tokens=700):
        clients = {"later": waits(path, request("x", max_tokens=100))}
        await until_waiting(path, 1)
        clients["sooner"] = waits(path, request("y", max_tokens=100), x_request_deadline_ms="60000")
        await until_waiting(path, 2)
        assert await order_of(path, clients) == ["sooner", "later"]


async def test_answers_teach_what_the_next_one_will_cost(start_path):
    async with start_path(count=1) as path:
        for number in range(8):
            await waits(path, request(f"x{number}", max_tokens=20)).done
        predicted = path.gateway._predictor.foresee("acme", parse_chat(json.dumps(BODY | {"n": 2}).encode(), None))
        unbounded = path.gateway._predictor.foresee("acme", parse_chat(json.dumps(LONG).encode(), None))
    assert predicted.work == predicted.prompt_tokens + 2 * 5 * 2
    assert 20 < unbounded.answer_tokens < 150
