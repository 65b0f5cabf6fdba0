"""Faults of the simulated engine."""

import asyncio
import json
import subprocess
import sys

import httpx
import pytest

from workers.engines.sim_faults import FaultPlan, Faults


async def test_a_hung_request_is_never_answered_and_the_next_one_is(sim):
    await sim.fault(hang_next=1)
    with pytest.raises(httpx.ReadTimeout):
        await sim.http.post("/v1/completions", json={"prompt": "a"}, timeout=0.2)
    assert (await sim.complete(max_tokens=1)).status_code == 200
    assert [entry["outcome"] for entry in await sim.journal()] == ["hung", "done"]


async def test_so_many_requests_fail_as_were_asked_to(sim):
    await sim.fault(error_next=2, error_status=503)
    assert [(await sim.complete(max_tokens=1)).status_code for _ in range(3)] == [503, 503, 200]


async def test_a_stream_breaks_off_after_so_many_tokens_without_an_end(sim):
    await sim.fault(crash_next=1, crash_after_tokens=3)
    lines = []
    with pytest.raises(httpx.RemoteProtocolError):
        async with sim.http.stream(
            "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 9, "stream": True}
        ) as answer:
            async for line in answer.aiter_lines():
                lines += [line] if line else []
    assert len(lines) == 3
    assert sim.engine.batch.running == 0
    assert [(entry["outcome"], entry["completion_tokens"]) for entry in await sim.journal()] == [("crashed", 3)]


async def test_a_slow_start_answers_503_until_it_is_over(start_sim):
    sim = await start_sim(faults=Faults(slow_start_s=0.3))
    assert (await sim.http.get("/health")).status_code == 503
    assert (await sim.complete(max_tokens=1)).status_code == 503
    async with asyncio.timeout(5):
        while (await sim.http.get("/health")).status_code != 200:
            await asyncio.sleep(0.02)
    assert (await sim.complete(max_tokens=1)).status_code == 200


async def test_a_stalled_engine_holds_requests_and_makes_no_token_until_it_recovers(sim):
    await sim.fault(is_stalled=True)
    answer = asyncio.ensure_future(sim.complete(max_tokens=2))
    await sim.until(lambda: sim.engine.batch.running == 1)
    assert sim.engine.batch.counters.generation_tokens == 0
    await sim.fault(is_stalled=False)
    assert (await answer).json()["usage"]["completion_tokens"] == 2


async def test_an_unknown_fault_is_refused_and_changes_nothing(sim):
    assert (await sim.http.post("/sim/faults", json={"hang_nxt": 1})).status_code == 400
    assert (await sim.http.get("/sim/faults")).json() == Faults().model_dump()


def test_failing_at_random_is_the_same_for_the_same_seed():
    draws = [[FaultPlan(Faults(error_probability=0.3), seed, 0).fails() for _ in range(5)] for seed in (1, 1)]
    plan = FaultPlan(Faults(error_probability=0.3), 7, 0)
    assert draws[0] == draws[1]
    assert 200 < sum(plan.fails() for _ in range(1000)) < 400


def test_the_whole_process_can_crash_in_the_middle_of_an_answer():
    faults = json.dumps({"crash_next": 1, "crash_after_tokens": 2, "crash_exits": True})
    command = [sys.executable, "-m", "workers.engines.sim", "--faults", faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = json.loads(process.stdout.readline())["url"]
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, trust_env=False)
        assert process.wait(10) == 70
