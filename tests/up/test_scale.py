"""`sluice up --scale`: workers come with the first request, drain when nobody asks, and nobody is lost on the way."""

import asyncio
import json
import re
import subprocess

import httpx
import pytest

from gateway.commands.local.scaling import Range, parse_range
from gateway.errors import InvalidInput
from tests.servers.process import SLUICE, Process, free_port

LAST_LINE = "Ctrl-C stops everything"
CLIENTS = 24


def test_a_range_is_read_and_what_is_none_is_told_how_to_write_one():
    assert parse_range("0..4") == Range(0, 4)
    for wrong in ("4", "3..2", "0..0", "a..b", "-1..2"):
        with pytest.raises(InvalidInput, match=re.escape(f"--scale is {wrong!r}; it must be LEAST..MOST")):
            parse_range(wrong)


@pytest.fixture
def up(tmp_path):
    home = tmp_path / "home"
    argv = [SLUICE, "up", "--home", str(home), "--port", str(free_port()), "--engine", "sim", "--scale", "0..2"]
    argv += ["--max-num-seqs", "4", '--engine-arg=--faults={"slow_start_s": 1}', "--engine-arg=--inter-token-ms=5"]
    short = {"SLUICE_SCALE__IDLE_S": "2", "SLUICE_SCALE__DOWN_S": "2"}
    up = Process("up", argv, home.with_name("up.log"), short)
    up.home = home
    up.spawn()
    yield up
    if up.is_running:
        up.kill_tree()


def scale(up) -> dict:
    done = subprocess.run(
        [SLUICE, "scale", "status", "--home", str(up.home), "--format", "json"], capture_output=True, check=True
    )
    return json.loads(done.stdout)["pools"][0]


def workers(up, url: str) -> list[dict]:
    token = json.loads((up.home / "credentials.json").read_text())["admin_token"]
    return httpx.get(f"{url}/admin/v1/workers", headers={"authorization": f"Bearer {token}"}, timeout=9).json()["data"]


def status(up) -> dict:
    done = subprocess.run(
        [SLUICE, "status", "--home", str(up.home), "--format", "json"], check=False, capture_output=True
    )
    return json.loads(done.stdout)


async def ask(url: str, key: str) -> str:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 200, "stream": True}
    async with (
        httpx.AsyncClient(timeout=200, trust_env=False) as http,
        http.stream(
            "POST", f"{url}/v1/chat/completions", json={**body, "ignore_eos": True}, headers={"authorization": key}
        ) as answer,
    ):
        return "".join([part async for part in answer.aiter_text()])


async def ask_all(url: str, key: str) -> list[str]:
    return await asyncio.gather(*(ask(url, f"Bearer {key}") for _ in range(CLIENTS)))


@pytest.mark.redis
@pytest.mark.timeout(280)
def test_workers_come_with_requests_and_go_without(up):
    up.wait_until("up", lambda: LAST_LINE in up.log.read_text(), 90)
    said = up.log.read_text()
    assert "worker-1 starts: a request is there and no worker: the first one starts" in said
    url = re.search(r"http://127\.0\.0\.1:\d+", said).group()
    key = re.search(r"sk-sluice-\w+", said).group()
    up.wait_until("down to zero", lambda: "worker-1 leaves: no request for" in up.log.read_text(), 60)
    up.wait_until("gone", lambda: not workers(up, url), 60)
    assert scale(up)["reason"].startswith("no request for")
    asleep = status(up)
    assert asleep["ready"], "a request would be served: it starts a worker"
    assert asleep["scale"][0]["desired"] == 0

    answers = asyncio.run(ask_all(url, key))

    assert all(answer.rstrip().endswith("data: [DONE]") for answer in answers), "nobody is lost"
    told = [re.search(r"^: queue.*$|^: .*position.*$", answer, re.MULTILINE) for answer in answers]
    assert any(told), answers[0][:300]
    assert "worker-2 starts: " in up.log.read_text()
    up.wait_until("down to zero", lambda: up.log.read_text().count("worker-1 leaves: no request for") == 2, 60)
    up.wait_until("gone", lambda: not workers(up, url), 60)
    assert up.stop() == 0
