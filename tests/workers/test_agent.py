"""The agent as a process, with the simulated engine and a receiver for its beats."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise

import httpx
import psutil
import pytest

from tests.workers.gateway_ear import TOKEN, GatewayEar

VERB = "import typer; from workers.commands import worker; typer.run(worker)"


class Agent:
    """`sluice worker` with a simulated engine."""

    def __init__(self, tmp_path, gateways, faults="{}", *options):
        self.log = tmp_path / "agent.log"
        command = [sys.executable, "-c", VERB, "--engine", "sim", "--home", str(tmp_path), "--worker-id", "w 1"]
        command += ["--pool", "pool", "--served-name", "tiny", f"--engine-arg=--faults={faults}", *options]
        for url in gateways:
            command += ["--gateway", url]
        with self.log.open("wb") as log:
            environ = {**os.environ, "SLUICE_WORKER_TOKEN": TOKEN}
            self.process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)

    @property
    def engine(self) -> psutil.Process:
        """The engine's own process, below its guard."""
        [guard] = psutil.Process(self.process.pid).children()
        return guard.children()[0]

    def events(self, name: str) -> list[dict]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def until_logged(self, name: str, within_s: float = 30) -> None:
        deadline = time.monotonic() + within_s
        while not self.events(name):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@pytest.fixture
def ear():
    ear = GatewayEar()
    yield ear
    ear.close()


@pytest.fixture
def start(tmp_path, ear):
    agents = []

    def start(faults=None, *options, gateways=None):
        agents.append(Agent(tmp_path, gateways or [ear.url], json.dumps(faults or {}), *options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


def is_ready(beat):
    return beat["state"] == "ready"


def engine_of(beat):
    headers = {"authorization": f"Bearer {beat['engine_key']}"}
    return httpx.Client(base_url=beat["url"], headers=headers, timeout=30, trust_env=False)


def is_gone(process, within_s=10):
    try:
        process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_worker_is_ready_only_after_a_real_completion_and_tells_its_cost(start, ear):
    start({"slow_start_s": 0.5})
    beat = ear.until(is_ready)
    assert ear.states == ["starting", "loading", "warming", "ready"]
    assert (beat["probe_prompt_tokens"], beat["probe_completion_tokens"]) == (
        beat["prompt_tokens_total"],
        beat["completion_tokens_total"],
    )
    assert beat["probe_completion_tokens"] > 0
    with engine_of(beat) as http:
        [probe] = http.get("/sim/journal").json()["entries"]
    assert probe["completion_tokens"] == beat["probe_completion_tokens"]


def test_a_beat_has_all_that_the_gateways_roster_keeps(start, ear):
    start(None, "--max-num-seqs", "7", "--max-model-len", "2000", "--max-num-batched-tokens", "512")
    beat = ear.until(is_ready)
    assert beat["path"] == "/internal/v1/workers/w%201/beat"
    assert (beat["pool"], beat["models"], beat["engine"]) == ("pool", ["tiny"], "sim")
    assert (beat["max_seqs"], beat["max_model_len"], beat["max_batched_tokens"]) == (7, 2000, 512)
    assert abs(beat["engine_started_ms"] / 1000 - time.time()) < 60
    with engine_of(beat) as http:
        assert http.get("/v1/models").status_code == 200
    assert httpx.get(f"{beat['url']}/v1/models", trust_env=False).status_code == 401


def test_an_engine_that_is_healthy_but_completes_nothing_never_gets_ready(start, ear):
    start({"hang_next": -1}, "--warm-up-s", "1")
    beat = ear.until(lambda beat: beat["state"] == "failed")
    assert "answers /health, but not its first completion (no answer within 1 s)" in beat["cause"]
    assert "ready" not in ear.states


def test_beats_come_every_second_and_at_once_on_a_change(start, ear):
    start()
    ready = ear.until(is_ready)
    ear.until_count(len(ear.beats) + 3)
    times = [beat["at_s"] for beat in ear.beats if beat["state"] == "ready"][:3]
    gaps = [after - before for before, after in pairwise(times)]
    assert all(0.5 < gap < 2.5 for gap in gaps), gaps
    warming = next(beat for beat in ear.beats if beat["state"] == "warming")
    assert ready["let_run_s"] - warming["let_run_s"] < 0.9


def test_counters_in_beats_are_the_engines_own(start, ear):
    start()
    beat = ear.until(is_ready)
    with engine_of(beat) as http:
        http.post("/v1/completions", json={"prompt": [5] * 10, "max_tokens": 30}).raise_for_status()
    wanted = beat["completion_tokens_total"] + 30
    after = ear.until(lambda beat: beat["completion_tokens_total"] == wanted)
    assert after["prompt_tokens_total"] == beat["prompt_tokens_total"] + 10


def test_a_killed_engine_is_started_again_and_the_beat_says_why(start, ear):
    agent = start()
    first = ear.until(is_ready)
    agent.engine.kill()
    failed = ear.until(lambda beat: beat["state"] == "failed")
    assert "was ended by SIGKILL" in failed["cause"]
    assert "started again in 1 s" in failed["cause"]
    assert failed["engine_started_ms"] == failed["completion_tokens_total"] == failed["probe_completion_tokens"] == 0
    second = ear.until(lambda beat: is_ready(beat) and beat["restarts"] == 1)
    assert second["engine_started_ms"] > first["engine_started_ms"]
    assert second["engine_key"] != first["engine_key"]
    assert second["cause"] == ""


def test_an_illegal_instruction_is_called_by_its_name(start, ear):
    agent = start()
    ear.until(is_ready)
    agent.engine.send_signal(signal.SIGILL)
    failed = ear.until(lambda beat: beat["state"] == "failed")
    assert "SIGILL: an illegal instruction: this CPU lacks" in failed["cause"]


def test_an_engine_that_cannot_start_is_tried_again_with_growing_pauses(start, ear):
    agent = start(None, "--engine-arg=--no-such-option")
    ear.until(lambda beat: beat["restarts"] == 3, within_s=60)
    pauses = [event["retry_in_s"] for event in agent.events("engine_failed")]
    assert pauses[:3] == [1, 2, 4]
    assert "exit status 2" in ear.beats[-1]["cause"]


def test_an_engine_that_fails_its_health_is_started_again(start, ear):
    start()
    beat = ear.until(is_ready)
    with engine_of(beat) as http:
        http.post("/sim/faults", json={"slow_start_s": 3600}).raise_for_status()
    failed = ear.until(lambda beat: beat["state"] == "failed", within_s=60)
    assert "failed /health 3 times in a row" in failed["cause"]
    ear.until(lambda beat: is_ready(beat) and beat["restarts"] == 1)


def test_a_drain_lets_requests_finish_tells_the_last_counters_and_says_goodbye(start, ear):
    agent = start()
    beat = ear.until(is_ready)
    engine = agent.engine
    with engine_of(beat) as http:
        body = {"prompt": "a", "max_tokens": 150, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            agent.terminate()
            ear.until(lambda beat: beat["state"] == "draining")
            assert list(lines)[-2:] == ["data: [DONE]", ""]
    assert agent.process.wait(30) == 0
    assert ear.goodbyes == ["/internal/v1/workers/w%201"]
    last = ear.beats[-1]
    assert (last["state"], last["running"]) == ("draining", 0)
    assert last["completion_tokens_total"] == beat["completion_tokens_total"] + 150
    assert is_gone(engine)


def test_a_drain_ends_when_its_time_is_up(start, ear):
    agent = start(None, "--drain-s", "1")
    beat = ear.until(is_ready)
    with engine_of(beat) as http, http.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()  # held: one that is let go closes the stream
        next(lines)
        agent.terminate()
        assert agent.process.wait(20) == 0
    assert agent.events("worker_drained")[0]["is_in_full"] is False
    assert ear.goodbyes


LONG = {"prompt": "a", "max_tokens": 4000, "stream": True}


def test_a_second_sigterm_ends_at_once(start, ear):
    agent = start()
    beat = ear.until(is_ready)
    with engine_of(beat) as http, http.stream("POST", "/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()  # held: one that is let go closes the stream
        next(lines)
        agent.terminate()
        ear.until(lambda beat: beat["state"] == "draining")
        agent.terminate()
        assert agent.process.wait(10) == 0
    assert ear.goodbyes


def test_a_worker_that_is_not_ready_yet_ends_without_a_drain(start, ear):
    agent = start({"slow_start_s": 3600})
    ear.until(lambda beat: beat["state"] == "loading")
    agent.terminate()
    assert agent.process.wait(20) == 0
    assert "ready" not in ear.states
    assert ear.goodbyes


def test_killing_the_agent_leaves_no_engine(start, ear):
    agent = start()
    ear.until(is_ready)
    engine = agent.engine
    agent.process.kill()
    assert is_gone(engine)


def test_killing_the_guard_takes_the_engine_and_it_is_started_again(start, ear):
    agent = start()
    ear.until(is_ready)
    engine = agent.engine
    engine.parent().kill()
    assert is_gone(engine)
    ear.until(lambda beat: is_ready(beat) and beat["restarts"] == 1)


def test_a_gateway_that_is_away_is_logged_once_and_beaten_again_when_it_is_back(start, ear):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    agent = start(gateways=[f"http://127.0.0.1:{port}", ear.url])
    ear.until(is_ready)
    ear.until_count(len(ear.beats) + 2)
    late = GatewayEar(port)
    try:
        late.until(is_ready)
        agent.until_logged("gateway_reached")
    finally:
        late.close()
    troubles = [event["trouble"] for event in agent.events("gateway_trouble") if str(port) in event["gateway"]]
    assert troubles[:1] == ["unreachable (ConnectError)"]


def test_a_refused_token_is_named_once_with_what_to_do(start, ear):
    ear.token = "another"
    agent = start()
    deadline = time.monotonic() + 30
    while not agent.events("worker_ready"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ear.token = TOKEN
    ear.until(is_ready)
    [trouble] = agent.events("gateway_trouble")
    assert "refuses the worker token (401)" in trouble["trouble"]
    assert TOKEN not in agent.log.read_text()


def test_engine_output_goes_to_the_log_file_and_no_secret_does(start, ear, tmp_path):
    agent = start(None, "--log-file", str(tmp_path / "engine" / "out.log"))
    beat = ear.until(is_ready)
    assert '"url"' in (tmp_path / "engine" / "out.log").read_text()
    assert beat["engine_key"] not in agent.log.read_text() + (tmp_path / "engine" / "out.log").read_text()
    assert TOKEN not in " ".join(agent.engine.environ().values())


def test_two_workers_of_one_home_do_not_disturb_each_other(start, ear):
    first, second = start(), start(None, "--worker-id", "w 2")
    ear.until(lambda beat: is_ready(beat) and "w%202" in beat["path"])
    ear.until(lambda beat: is_ready(beat) and "w%201" in beat["path"])
    second.process.kill()
    second.process.wait()
    assert first.engine.is_running()
    assert first.process.poll() is None
