"""The official SDKs of OpenAI wait in the queue, are told so in comments they skip, and raise what ends their wait."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from gateway.serve.wire import ConnectionPool
from tests.path.waiting_clients import QUICK, busy
from tests.waiting import until

SCRIPT = Path(__file__).parents[1] / "node" / "waiting.mjs"
HELD = QUICK | {"hold_s_max": {"standard": 1.0}}


@pytest.fixture
def connections():
    pool = ConnectionPool(connect_timeout_s=5, keep_alive_s=5)
    yield pool
    pool.close()


async def with_python(path):
    content, chunks = "", 0
    async with openai.AsyncOpenAI(base_url=f"{path.url}/v1", api_key=path.key, max_retries=0) as client:
        try:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x"}], max_tokens=5, stream=True
            )
            async for chunk in stream:
                chunks += 1
                content += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            return {"chunks": chunks, "error": type(error).__name__, "code": error.code, "message": error.message}
    return {"chunks": chunks, "content": content}


async def with_node(path):
    process = await asyncio.create_subprocess_exec(
        "node", SCRIPT, f"{path.url}/v1", path.key, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


SDKS = [pytest.param(with_python, id="python"), pytest.param(with_node, id="node", marks=pytest.mark.node)]


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_waits_and_gets_its_whole_answer(start_path, connections, sdk):
    async with start_path(count=1, queue=QUICK) as path:
        async with busy(path, connections):
            seen = asyncio.create_task(sdk(path))
            await until(lambda: any(post._position for post in path.gateway._waiting._told))
        seen = await seen
        [event] = [one for one in (await path.events()).values() if one["outcome"] == "completed"]
    assert seen["content"].split()
    assert event["completion_tokens"] == 5


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_raises_what_ends_its_wait(start_path, sdk):
    async with start_path(count=0, queue=HELD) as path:
        seen = await sdk(path)
    assert (seen["chunks"], seen["error"], seen["code"]) == (0, "APIError", "no_worker")
    assert "No worker of the pool 'tiny'" in seen["message"]


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_that_is_refused_before_sees_the_status(start_path, sdk):
    async with start_path(count=0, queue={"hold_s_max": {"standard": 0.1}}) as path:
        seen = await sdk(path)
    assert (seen["error"], seen["code"]) == ("InternalServerError", "no_worker")
