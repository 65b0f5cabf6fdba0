"""Nothing of an engine outlives its agent, its guard or its own first process."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from workers.agent.process import EngineProcess, clear_leftovers
from workers.engines.launch import Launch

# An engine as vLLM is one: a first process, a child, and one that left the process group. Each says its id.
TREE = """
import os, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
plain, escaped = subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)
print(os.getpid(), plain.pid, escaped.pid, flush=True)
time.sleep(600)
"""


def launch(code):
    return Launch((sys.executable, "-c", code), dict(os.environ))


async def started(tmp_path, code=TREE):
    engine = await EngineProcess.start(launch(code), tmp_path / "one.engine.json", tmp_path / "log")
    async with asyncio.timeout(20):
        while "\n" not in (text := (tmp_path / "log").read_text()):
            await asyncio.sleep(0.01)
    return engine, [int(number) for number in text.split()]


def are_gone(pids, within_s=10):
    deadline = time.monotonic() + within_s
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_killing_an_engine_takes_all_of_it(tmp_path):
    engine, tree = await started(tmp_path)
    await engine.kill()
    assert are_gone([engine.pid, *tree])
    assert not list(tmp_path.glob("*.engine.json"))


async def test_what_the_first_process_leaves_behind_ends_with_it(tmp_path):
    engine, tree = await started(tmp_path)
    os.kill(tree[0], signal.SIGKILL)
    assert await engine.wait() == -signal.SIGKILL
    assert are_gone(tree)
    await engine.kill()


async def test_an_exit_status_comes_through_the_guard(tmp_path):
    engine, _ = await started(tmp_path, "print(1, flush=True); raise SystemExit(3)")
    assert await engine.wait() == 3
    await engine.kill()


async def test_sigterm_reaches_the_engine(tmp_path):
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print(1, flush=True); signal.pause()"
    engine, _ = await started(tmp_path, code)
    await engine.ask_to_end(10, asyncio.Event())
    assert await engine.wait() == 7
    await engine.kill()


async def test_an_engine_that_ignores_sigterm_is_waited_for_no_longer_than_hurry_allows(tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    engine, _ = await started(tmp_path, code)
    hurry = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, hurry.set)
    async with asyncio.timeout(10):
        await engine.ask_to_end(600, hurry)
        await engine.kill()
    assert await engine.wait() == -signal.SIGKILL


async def test_the_log_tail_is_of_this_start_only(tmp_path):
    for words in ("the first", "the second"):
        engine = await EngineProcess.start(launch(f"print({words!r})"), tmp_path / "one.engine.json", tmp_path / "log")
        await engine.wait()
        assert engine.log_tail().strip() == words
        await engine.kill()


# An agent in a process of its own, which can be killed.
AGENT = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.workers.test_engine_process import started
async def main():
    engine, tree = await started(Path(sys.argv[2]))
    print(json.dumps([engine.pid, *tree]), flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def agent(tmp_path, request):
    command = [sys.executable, "-c", AGENT, str(request.config.rootpath), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.tree = json.loads(process.stdout.readline())
        yield process
        process.kill()


def test_killing_the_agent_takes_the_engine(agent):
    agent.kill()
    assert are_gone(agent.tree)


def test_an_engine_whose_agent_lives_is_no_leftover(agent, tmp_path):
    assert clear_leftovers(tmp_path) == []
    assert all(_is_alive(pid) for pid in agent.tree)


def test_the_next_start_kills_what_is_left_when_agent_and_guard_were_killed_together(agent, tmp_path):
    guard, first, plain, _ = agent.tree
    psutil.Process(guard).suspend()  # so that it cannot react to the agent's end
    agent.kill()
    agent.wait()
    os.kill(guard, signal.SIGKILL)
    assert are_gone([guard, first]), "the first process dies with the guard"
    assert _is_alive(plain), "and its child, like vLLM's EngineCore, does not"
    assert clear_leftovers(tmp_path) == [guard]
    assert are_gone([plain])
    assert clear_leftovers(tmp_path) == []
    os.kill(agent.tree[3], signal.SIGKILL)  # one that left the group is beyond a record's reach


def test_a_record_of_another_boot_is_forgotten_and_nobody_is_killed(agent, tmp_path):
    record = next(tmp_path.glob("*.engine.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "agent": 1, "namespace": "another"}))
    assert clear_leftovers(tmp_path) == []
    assert all(_is_alive(pid) for pid in agent.tree)
    assert not record.exists()
