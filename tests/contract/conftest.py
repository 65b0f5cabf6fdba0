"""Two engines under one contract: the simulated one and a real vLLM, started with the same options."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
import psutil
import pytest

from tests.path.conftest import start_path
from tests.servers.sim_engines import start_sim
from workers.agent import guard
from workers.agent.engine import free_port
from workers.engines import sim_launch, vllm
from workers.engines.launch import EngineOptions

__all__ = ["start_path", "start_sim"]

API_KEY = "contract-key"
CORE_NICENESS = 10
CONTEXT_TOKENS = 4096  # room for answers that take seconds, so that a client can leave in the middle of one
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")  # else vLLM refuses requests with tools
START_S_MAX = 600  # a loaded machine with two cores takes minutes
# A first prompt of twenty tokens or more makes vLLM's AMX kernels usable: see workers/agent/client.py.
FIRST_PROMPT = [300 + number for number in range(40)]


@contextmanager
def running(launch, port, log):
    """Run an engine under its guard, so that nothing of it outlives the tests; gives a client for it."""
    with log.open("wb") as output:
        command = [sys.executable, "-I", "-S", guard.__file__, *launch.argv]
        process = subprocess.Popen(
            command, env=dict(launch.env), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    headers = {"authorization": f"Bearer {API_KEY}"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as http:
            _wait_healthy(http, process, log)
            warm_up = {"prompt": FIRST_PROMPT, "max_tokens": 2}
            http.post("/v1/completions", json=warm_up).raise_for_status()
            _let_the_server_keep_up(process.pid)
            yield http
    finally:
        process.stdin.close()
        process.wait(30)


def _let_the_server_keep_up(pid):
    """
    Have a real engine's core give way to its HTTP server.

    The tiny model's steps take 2 ms. On a busy machine such a core fills its server's inbox faster than it is read, and
    a server that always has something to read neither sends a frame nor tells its figures before the answer is made.
    """
    for child in psutil.Process(pid).children(recursive=True):
        if child.name().startswith("VLLM::"):
            for thread in child.threads():
                os.setpriority(os.PRIO_PROCESS, thread.id, CORE_NICENESS)


def _wait_healthy(http, process, log):
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the engine ended: {log.read_text(errors='replace')[-2000:]}"
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the engine is not up after {START_S_MAX} s: {log.read_text(errors='replace')[-2000:]}")


def options(model, port):
    return EngineOptions(
        model=str(model),
        served_names=("tiny", "other"),
        host="127.0.0.1",
        port=port,
        api_key=API_KEY,
        max_num_seqs=4,
        max_batched_tokens=2048,
        max_model_len=CONTEXT_TOKENS,
    )


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    port = free_port("127.0.0.1")
    with running(sim_launch.launch(options("tiny", port)), port, tmp_path_factory.mktemp("sim") / "log") as http:
        yield http


@contextmanager
def running_vllm(folder, extra_args=()):
    model = folder / "tiny"
    subprocess.run([sys.executable, "-m", "workers.hub.tiny", str(model)], check=True, capture_output=True)
    port = free_port("127.0.0.1")
    launch = vllm.launch(replace(options(model, port), extra_args=extra_args))
    with running(launch, port, folder / "log") as http:
        yield http


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    with running_vllm(tmp_path_factory.mktemp("vllm")) as http:
        yield http


@pytest.fixture(scope="module")
def real_with_tools(tmp_path_factory):
    """One that takes tools; its streams have frames that others have not, so it is not the one compared with."""
    with running_vllm(tmp_path_factory.mktemp("tools"), TOOLS) as http:
        yield http


@pytest.fixture(params=["simulated", "real"])
def engine(request):
    """Each engine in turn, for what must be so on both."""
    return request.getfixturevalue(request.param)
