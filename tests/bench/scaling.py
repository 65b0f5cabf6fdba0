"""
A pool that sleeps, woken by a crowd: real engines, started and drained on this machine by `sluice up --scale 0..2`.

No worker runs, CLIENTS come at once. Measured: how soon a worker is started, whether what the clients are told of their
wait is true, how many are lost, and how long after the last answer the workers are gone. Beside it, in virtual time, a
step of 300 times the load under this scaler and under Kubernetes' autoscaler (planner/scalers.py).

`python -m tests.bench.scaling` runs both and prints their figures; the engines take some minutes.
"""

import asyncio
import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import httpx

from gateway.core.scheduling import LineBounds
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Crowd, Load, draw_load, populate
from gateway.planner.quantities import Goal, Spike
from gateway.planner.report import Report
from gateway.planner.scalers import SCALERS
from gateway.planner.simulation import Plan, Simulation
from tests.servers.process import SLUICE, Process, free_port

RUNS = 1
CLIENTS, TOKENS = 50, 64
IDLE_S = 20.0
START_S_MAX, STOP_S_MAX = 900.0, 240.0
STEP, LENGTH_S, STEP_AT_S = 300.0, 2400.0, 600.0
COLD_START_S = 60.0
ETA = re.compile(r"eta_s=([\d.]+)")


def measure(_: Path) -> dict[str, float]:
    """Run the comparison in virtual time; ranges are 0, since nothing is left to chance."""
    figures = {f"{name.replace('-', '_')}_{of}": value for name in SCALERS for of, value in step(name).items()}
    return figures | {f"{name}_range": 0.0 for name in figures}


def step(scaler: str, seed: int = 1) -> dict[str, float]:
    """Let a load of 0.1 requests/s step up 300 times, on workers that take a minute to start."""
    load = Load(length_s=LENGTH_S, rps=0.1, spike=Spike(STEP, STEP_AT_S, LENGTH_S - STEP_AT_S))
    plan = Plan(
        size=Size(workers=1, workers_max=200, cold_start_s=COLD_START_S),
        pace=Pace(prefill_tokens_per_s=8000, inter_token_s=0.02, max_num_seqs=64),
        bounds=LineBounds(waiting_max=20_000, tenant_share=1.0),
        scale=scaler,
        seed=seed,
    )
    course = Simulation(populate(draw_load(load, seed), Crowd(), seed), plan).run()
    report = Report(course=course, plan=plan, goal=Goal("wait", 0.95, 10.0), workers_needed=None, spike_s=STEP_AT_S)
    found = report.to_json()
    names = ("worker_seconds", "over_provisioned_share", "drained_after_s", "workers_most")
    return {name: found[name] for name in names} | {"wait_p99_s": found["wait_s"]["p99"]}


@dataclass
class Client:
    """One of the crowd: when it came, what it was first told, when its answer began."""

    came_s: float
    told_s: float = 0.0
    eta_s: float | None = None
    first_s: float = 0.0
    is_whole: bool = False
    worker: str = ""
    etas: list[tuple[float, float]] = field(default_factory=list)

    def hear(self, text: str) -> None:
        now_s = time.monotonic()
        if match := ETA.search(text):
            self.etas.append((now_s, float(match[1])))
        if not self.first_s and '"delta"' in text:
            self.first_s = now_s
        self.is_whole = self.is_whole or "data: [DONE]" in text


class Up(Process):
    """`sluice up --scale 0..2`; what it says comes with the time."""

    def __init__(self, home: Path) -> None:
        argv = [SLUICE, "up", "--home", str(home), "--port", str(free_port()), "--scale", "0..2"]
        environ = {"SLUICE_SCALE__IDLE_S": str(IDLE_S), "SLUICE_SCALE__DOWN_S": "15"}
        super().__init__("up", [*argv, "--max-num-seqs", "16"], home.with_name("up.log"), environ)

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def count(self, words: str) -> int:
        return self.text.count(words)


def wake(folder: Path) -> dict[str, float]:
    """Put a pool to sleep and let a crowd wake it."""
    up = Up(folder / "home")
    up.spawn()
    try:
        up.wait_until("up", lambda: "Ctrl-C stops everything" in up.text, START_S_MAX)
        _until_asleep(up)
        return asyncio.run(_wake(up))
    finally:
        if up.is_running:
            up.stop(STOP_S_MAX)


def _until_asleep(up: Up) -> float:
    """Wait until no worker's process is left; give when."""
    up.wait_until("asleep", lambda: up.count(" leaves: ") == up.count(" starts: "), STOP_S_MAX)
    home = up.argv[up.argv.index("--home") + 1]
    url, token = _place(Path(home))
    headers = {"authorization": f"Bearer {token}"}

    def is_gone() -> bool:
        with suppress(httpx.HTTPError):
            return not httpx.get(f"{url}/admin/v1/workers", headers=headers, timeout=5).json()["data"]
        return False

    up.wait_until("gone", is_gone, STOP_S_MAX)
    return time.monotonic()


def _place(home: Path) -> tuple[str, str]:
    place, secrets = (json.loads((home / name).read_text()) for name in ("up.json", "credentials.json"))
    return f"http://127.0.0.1:{place['port']}", secrets["admin_token"]


async def _wake(up: Up) -> dict[str, float]:
    url = re.search(r"http://127\.0\.0\.1:\d+", up.text).group()
    key = re.search(r"sk-sluice-\w+", up.text).group()
    started = up.count(" starts: ")
    watching = asyncio.create_task(_first_start(up, started))
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=600, trust_env=False, limits=limits) as http:  # one: each reads certificates
        began_s = time.monotonic()
        clients = await asyncio.gather(*(_ask(http, url, key) for _ in range(CLIENTS)))
    activation_s = await watching - began_s
    answered_s = time.monotonic()
    gone_s = await asyncio.to_thread(_until_asleep, up)
    return _figures(clients, began_s, activation_s, gone_s - answered_s, up.count(" starts: ") - started)


async def _first_start(up: Up, before: int) -> float:
    while up.count(" starts: ") == before:
        await asyncio.sleep(0.01)
    return time.monotonic()


async def _ask(http: httpx.AsyncClient, url: str, key: str) -> Client:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": TOKENS}
    client = Client(time.monotonic())
    async with http.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json={**body, "stream": True, "ignore_eos": True},
        headers={"authorization": f"Bearer {key}"},
    ) as answer:
        async for line in answer.aiter_lines():
            client.hear(line)
    return client


def _figures(
    clients: list[Client], began_s: float, activation_s: float, gone_s: float, starts: int
) -> dict[str, float]:
    waits_s = [client.first_s - client.came_s for client in clients if client.first_s]
    told = [(client, *client.etas[0]) for client in clients if client.etas and client.first_s]
    errors = [abs(eta_s - (client.first_s - told_s)) / (client.first_s - told_s) for client, told_s, eta_s in told]
    first = min((client for client in clients if client.first_s), key=lambda one: one.first_s)
    first_told_s, first_eta_s = first.etas[0] if first.etas else (began_s, float("nan"))
    return {
        "clients": len(clients),
        "lost": sum(not client.is_whole for client in clients),
        "activation_s": activation_s,
        "workers_started": starts,
        "first_eta_s": first_eta_s,
        "first_wait_from_then_s": first.first_s - first_told_s,
        "told_eta": len(told),
        "eta_error_mean": mean(errors) if errors else float("nan"),
        "eta_error_median": median(errors) if errors else float("nan"),
        "wait_p50_s": median(waits_s),
        "wait_max_s": max(waits_s),
        "gone_after_last_answer_s": gone_s,
    }


def main() -> None:
    with TemporaryDirectory() as folder:
        figures = {} if "--step" in sys.argv else wake(Path(folder))
    if "--wake" not in sys.argv:
        figures |= {name: value for name, value in measure(Path()).items() if not name.endswith("_range")}
    for name, value in figures.items():
        print(f"{name:40} {value:12.3f}")


if __name__ == "__main__":
    main()
