"""
Rolling updates without an end: every worker replaced and every gateway restarted, again and again, under load.

Clients with the official SDK, which retries nothing, go to the next gateway only when a connection is refused.
`python -m tests.bench.rolling` runs it alone, for some minutes; its short form is tests/chaos/test_rolling.py.
"""

import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.servers.installation import Installation
from tests.servers.redis_server import RedisServer
from tests.servers.rolling import replace_workers, restart
from tests.servers.sdk_clients import Tally, keep_asking_by_sdk

RUNS = 3
CLIENTS, GATEWAYS, WORKERS = 12, 3, 3
SIM = ("--max-num-seqs", "16", "--engine-arg=--inter-token-ms=5", "--engine-arg=--prefill-tokens-per-s=100000")


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives medians over RUNS rounds, with the spread of each."""
    with ExitStack() as stack:
        (folder / "redis").mkdir(parents=True)
        redis = RedisServer(folder / "redis")
        redis.start()
        stack.callback(redis.kill)
        installation = Installation(folder / "home", redis_url=redis.url)
        stack.callback(installation.close)
        for number in range(GATEWAYS):
            installation.add_gateway(own_home=number > 0)
        key = installation.declare()
        for _ in range(WORKERS):
            installation.add_worker("sim", *SIM)
        for worker in installation.workers:
            worker.wait_ready(120)
        runs = [asyncio.run(_round(installation, key, seed)) for seed in range(RUNS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]} | {
        f"{name}_range": max(run[name] for run in runs) - min(run[name] for run in runs) for name in runs[0]
    }


async def _round(installation: Installation, key: str, seed: int) -> dict[str, float]:
    stop, began = asyncio.Event(), time.monotonic()
    urls = [gateway.url for gateway in installation.gateways]
    load = asyncio.create_task(keep_asking_by_sdk(urls, key, clients=CLIENTS, stop=stop, seed=seed))
    try:
        await asyncio.to_thread(replace_workers, installation, installation.gateways[-1], *SIM)
        await asyncio.to_thread(restart, installation.gateways)
    finally:
        stop.set()
        tally = await load
    return _figures(installation, tally, time.monotonic() - began)


def _figures(installation: Installation, tally: Tally, took_s: float) -> dict[str, float]:
    for failure in tally.failures:
        print(f"failed: {failure}")
    installation.wait_shipped(60)
    events = installation.events()
    wrong = [name for name, tokens in tally.tokens.items() if events[name]["completion_tokens"] != tokens]
    return {
        "requests": len(tally.tokens) + len(tally.failures),
        "failed_requests": len(tally.failures),
        "requests_billed_wrongly": len(wrong),
        "round_s": took_s,
    }


if __name__ == "__main__":
    with TemporaryDirectory() as home:
        print(json.dumps(measure(Path(home)), indent=2))
