"""Where agents beat: who may, what is refused, and how little of it is written down."""

import httpx
import pytest

from gateway.core.worker_tokens import pool_token
from tests.path.test_pools import apply

BEAT = {
    "pool": "tiny",
    "models": ["tiny"],
    "url": "http://127.0.0.1:9",
    "state": "ready",
    "max_seqs": 4,
    "engine_started_ms": 1_700_000_000_000,
}
HEADERS = {"authorization": "Bearer secret"}


@pytest.fixture
async def agent(start_path):
    """A gateway and a client that beats to it."""
    async with (
        start_path(count=0, upstream={"credit": "adaptive"}, worker_token="secret") as path,
        httpx.AsyncClient(headers=HEADERS) as http,
    ):
        http.base_url = f"{path.url}/internal/v1/workers"
        yield path, http


def readings(path):
    with path.gateway._database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT prompt_tokens FROM engine_readings ORDER BY read_ms")
        return [tokens for (tokens,) in rows]


async def beat(http, **changes):
    return await http.post("/w9/beat", json=BEAT | changes)


async def test_a_beat_lists_the_worker_and_a_goodbye_strikes_it_off(agent):
    path, http = agent
    orders = {"state": "serve", "adapters": None}
    assert (await beat(http)).json() == {"lease_s": 600, "in_flight": 0, "orders": orders}
    assert [view.id for view in path.views] == ["w9"]
    assert (await http.delete("/w9")).status_code == 200
    assert not path.views


async def test_a_beat_that_tells_of_preemptions_costs_the_worker_credit(agent):
    path, http = agent
    await beat(http, max_seqs=20, preemptions_total=3)
    assert [view.credit_seqs for view in path.views] == [20]
    await beat(http, max_seqs=20, preemptions_total=4)
    assert [view.credit_seqs for view in path.views] == [14]
    await beat(http, max_seqs=20)
    assert [view.credit_seqs for view in path.views] == [14], "an agent that does not tell is no news"


async def test_of_many_beats_the_journal_gets_the_first_and_the_last_counters(agent):
    """A table that grows by a row a second and worker would outgrow everything else in the database."""
    path, http = agent
    for tokens in (0, 5, 9, 9, 9):
        await beat(http, prompt_tokens_total=tokens)
    await beat(http, prompt_tokens_total=12, state="draining")
    await beat(http, prompt_tokens_total=12, state="draining")
    await path.gateway.aclose()
    assert readings(path) == [0, 12]


async def test_what_a_newer_agent_says_besides_is_passed_over(agent):
    path, http = agent
    assert (await beat(http, surprise=1)).status_code == 200
    assert [view.id for view in path.views] == ["w9"]


async def test_a_pools_token_speaks_for_workers_of_that_pool_alone(agent):
    _, http = agent
    bound = {"authorization": f"Bearer {pool_token('secret', 'tiny')}"}
    assert (await http.post("/w9/beat", json=BEAT, headers=bound)).status_code == 200
    refused = await http.post("/w8/beat", json=BEAT | {"pool": "other"}, headers=bound)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "worker_token_of_other_pool"
    await http.post("/w7/beat", json=BEAT | {"pool": "other"})
    for answer in (await http.post("/w7/beat", json=BEAT, headers=bound), await http.delete("/w7", headers=bound)):
        assert answer.status_code == 401, "a worker of another pool is neither taken over nor struck off"
        assert "'tiny', not for 'other'" in answer.json()["error"]["message"]
    assert (await http.delete("/w9", headers=bound)).status_code == 200


async def test_adapters_are_told_to_workers_of_a_pool_that_is_declared(agent):
    path, http = agent
    await apply(path, "pools: {tiny: {model: tiny, serves: [tiny], adapters: {poet: Acme/poet-lora}}}")
    assert (await beat(http)).json()["orders"]["adapters"] == {"poet": "Acme/poet-lora"}


@pytest.mark.parametrize(
    ("headers", "change", "status", "word"),
    [
        ({"authorization": "Bearer wrong"}, {}, 401, "token"),
        ({}, {}, 401, "token"),
        (HEADERS, {"state": "happy"}, 400, "state"),
        (HEADERS, {"running": -1}, 400, "running"),
        (HEADERS, {"url": "ftp://x"}, 400, "url"),
    ],
)
async def test_what_is_wrong_with_a_beat_is_said(agent, headers, change, status, word):
    path, http = agent
    answer = await httpx.AsyncClient().post(f"{http.base_url}w9/beat", json=BEAT | change, headers=headers)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]
    assert not path.views
