"""
Streams over workers that are killed: how many clients notice, whether the words are right, and what is billed.

`python -m tests.bench.continuation --engine vllm --streams 12 --kills 20` does it on real engines, which takes a minute
or so for each kill, as an engine must have started again before the next one.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gateway.serve.wire import ConnectionPool
from tests.servers.clients import COUNTED, Ending, ask
from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer

RUNS = 3
WORKERS = 3
STREAMS, KILLS = 500, 1  # at once, and in each of RUNS runs
READY_S = 900
GONE_S = 6  # the lease of a dead worker, and some
SIM = ("--max-num-seqs", "256", "--engine-arg=--inter-token-ms=40", "--engine-arg=--prefill-tokens-per-s=1000000")
TOKENS = (150, 250)


@dataclass(frozen=True)
class Plan:
    """So many *streams* at once, so many *kills*, none of them later than *kills_s* after the first."""

    streams: int = STREAMS
    kills: int = KILLS
    kills_s: float = 3600.0


@dataclass
class Campaign:
    """What came of it."""

    endings: list[Ending] = field(default_factory=list)
    kills: int = 0
    may_ask: asyncio.Event = field(default_factory=asyncio.Event)


def measure(folder: Path) -> dict[str, float]:
    """Kill one of three simulated workers under 500 streams, RUNS times over; gives medians and spreads."""
    runs = [asyncio.run(_run(folder / str(number), "sim", SIM, Plan())) for number in range(RUNS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


async def _run(folder: Path, engine: str, options: tuple[str, ...], plan: Plan) -> dict[str, float]:
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    installation = Installation(folder / "home", redis_url=redis.url)
    try:
        gateway = installation.add_gateway()
        key = installation.declare()
        for _ in range(WORKERS):
            await asyncio.to_thread(installation.add_worker(engine, *options).wait_ready, READY_S)
        campaign = await _campaign(installation, gateway.url, key, plan)
        await asyncio.to_thread(installation.wait_shipped, 60)
        events = installation.events()
        continued = [each for each in campaign.endings if events.get(each.request_id, {}).get("continued")]
        others = [each for each in campaign.endings if each.is_finished and each not in continued][: len(continued)]
        differing = (
            await _differing(gateway.url, key, continued, plan.streams),
            await _differing(gateway.url, key, others, plan.streams),
        )
        _tell_noticed(campaign)
        return _figures(campaign, events, continued, differing)
    finally:
        installation.close()
        redis.kill()


async def _campaign(installation: Installation, url: str, key: str, plan: Plan) -> Campaign:
    """
    Keep the streams going while one worker after another is killed, and hold them while it comes again.

    Engines at work would leave a starting one next to nothing of a small machine.
    """
    campaign, stop, ends_s = Campaign(), asyncio.Event(), time.monotonic() + plan.kills_s
    clients = [asyncio.create_task(_client(number, url, key, campaign, stop)) for number in range(plan.streams)]
    campaign.may_ask.set()
    while campaign.kills < plan.kills and time.monotonic() < ends_s:
        worker = installation.workers[campaign.kills % len(installation.workers)]
        await _until_busy(campaign, worker.name, at_least=max(1, plan.streams // 10))
        worker.kill_tree()
        campaign.kills += 1
        print(f"kill {campaign.kills} of {plan.kills}: {len(campaign.endings)} streams so far", file=sys.stderr)
        await asyncio.sleep(GONE_S)  # a worker started again too soon would be taken for the one that is dead
        if campaign.kills < plan.kills:
            campaign.may_ask.clear()
            worker.spawn()
            await asyncio.to_thread(worker.wait_ready, READY_S)
            campaign.may_ask.set()
    stop.set()
    await asyncio.gather(*clients)
    return campaign


async def _until_busy(campaign: Campaign, worker: str, at_least: int) -> None:
    """Wait until *worker* is in the middle of so many streams."""
    async with asyncio.timeout(READY_S):
        while sum(each.worker == worker and each.is_begun_stream for each in campaign.endings) < at_least:
            await asyncio.sleep(0.05)


async def _client(number: int, url: str, key: str, campaign: Campaign, stop: asyncio.Event) -> None:
    connections, turn = ConnectionPool(connect_timeout_s=30, keep_alive_s=30), 0
    while not stop.is_set():
        await campaign.may_ask.wait()
        turn += 1
        await ask(connections, url, key, body(number, turn), campaign.endings)
    connections.close()


async def _differing(url: str, key: str, endings: list[Ending], at_once: int) -> int:
    """
    Ask the same again, undisturbed, so many at once; count the answers that differ.

    On a real engine some may that nobody disturbed: what it computes together is rounded otherwise.
    """
    connections, turns = ConnectionPool(connect_timeout_s=30, keep_alive_s=30), asyncio.Semaphore(at_once)

    async def differs(ending: Ending) -> bool:
        async with turns:
            return (await ask(connections, url, key, ending.asked)).text != ending.text

    differing = sum(await asyncio.gather(*map(differs, endings)))
    connections.close()
    return differing


def _tell_noticed(campaign: Campaign) -> None:
    """Say on stderr what those clients met that noticed something."""
    met = Counter((ending.status, _trouble(ending)) for ending in campaign.endings if not ending.is_finished)
    for (status, trouble), times in met.most_common():
        print(f"{times} clients: status {status}, {trouble}", file=sys.stderr)


def _trouble(ending: Ending) -> str:
    """Say what a client met: an error event, or what became of its connection."""
    told = ending.body.partition(b'data: {"error"')[2].partition(b"\n")[0].decode(errors="replace")
    return re.sub(r"worker \S+|w_?\d+", "worker", told) or ending.trouble or "broken off"


def _figures(
    campaign: Campaign, events: dict[str, dict], continued: list[Ending], differing: tuple[int, int]
) -> dict[str, float]:
    booked = [(ending, events[ending.request_id]) for ending in campaign.endings if ending.request_id]
    off = sum(abs(ending.usage.completion - event["completion_tokens"]) for ending, event in booked)
    return {
        "kills": campaign.kills,
        "streams": len(campaign.endings),
        "clients_that_noticed": sum(not ending.is_finished for ending in campaign.endings),
        "streams_continued": len(continued),
        "texts_that_differ": differing[0],
        "of_as_many_undisturbed": differing[1],
        "tokens_billed_wrong": off,
        "pause_p50_s": statistics.median([ending.pause_s for ending in continued] or [0.0]),
        "pause_max_s": max([ending.pause_s for ending in continued] or [0.0]),
    }


def body(number: int, turn: int) -> dict:
    """Make the request of a client's turn; each is another one."""
    low, high = TOKENS
    said = {"role": "user", "content": f"river gate {number} {turn}"}
    tokens = low + (number * 31 + turn * 17) % (high - low)
    return {
        "model": "tiny",
        "messages": [said],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": COUNTED,
    }


def main() -> None:
    """Run one campaign from the command line and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sim", "vllm"), default="sim")
    parser.add_argument("--model", type=Path, help="a folder for the tiny model, of a real engine")
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument(
        "--seconds", type=float, default=Plan.kills_s, help="no kill later than so long after the first"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = SIM if asked.engine == "sim" else _vllm(asked.model or Path(folder) / "tiny")
        plan = Plan(asked.streams, asked.kills, asked.seconds)
        figures = asyncio.run(_run(Path(folder) / "run", asked.engine, options, plan))
    print(json.dumps(figures, indent=2))


def _vllm(model: Path) -> tuple[str, ...]:
    from workers.hub.tiny import make_tiny  # it imports torch

    # In bfloat16 what an engine computes together decides how it rounds, and with it which of two near words comes.
    exact = ("--engine-arg=--dtype", "--engine-arg=float32")
    return ("--model", str(make_tiny(model)), "--max-num-seqs", "16", "--max-model-len", "2048", *exact)


if __name__ == "__main__":
    main()
