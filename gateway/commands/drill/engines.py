"""
Simulated workers in one process: `python -m gateway.commands.drill.engines`, started and ended by a drill.

Each engine is workers/engines/sim.py's own and listens on its own port; each is told of by the agents' own beats, to
one of the gateways, which share what they hear. A process per engine and agent would cost more than the burst does.
"""

import argparse
import asyncio
import os
import signal
import time
from functools import partial

import uvloop

from workers.agent.beats import Beater
from workers.agent.status import Status
from workers.agent.worker_state import WorkerState
from workers.engines.sim_batch import Pace
from workers.engines.sim_engine import Engine, SimConfig
from workers.engines.sim_http import Connection
from workers.engines.sim_metrics import render_metrics
from workers.engines.vllm import scrape

TOKEN_VARIABLE = "SLUICE_WORKER_TOKEN"  # noqa: S105  the variable's name
MODEL_LEN_MAX = 65_536
_READ_S = 0.5  # how often an engine's figures are read for the next beat
_BACKLOG = 1024


class SimWorker:
    """An engine that listens, and what is told of it; it joins with `join` and stays until it is cancelled."""

    def __init__(self, name: str, model: str, pace: Pace, gateway: str) -> None:
        self._engine = Engine(SimConfig(models=(model,), max_model_len=MODEL_LEN_MAX, pace=pace))
        self._model = model
        self._started_s = time.time()
        self._status = Status(
            pool=model,
            models=(model,),
            max_seqs=pace.max_num_seqs,
            max_batched_tokens=pace.max_batched_tokens,
            max_model_len=MODEL_LEN_MAX,
            engine="sim",
        )
        self._beater = Beater(gateway, name, os.environ.get(TOKEN_VARIABLE, ""), self._status)

    async def listen(self) -> None:
        """Accept requests on a free port of loopback."""
        serve = partial(Connection, self._engine.serve)
        server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, backlog=_BACKLOG)
        self._status.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def join(self, ready_s: float, load_s: float) -> None:
        """Beat as loading for *load_s*, then as ready, from *ready_s* on at the earliest (time.monotonic())."""
        await _sleep_until(ready_s - load_s)
        ready_s = max(ready_s, time.monotonic() + load_s)
        self._status.change(WorkerState.LOADING)
        beating = asyncio.ensure_future(self._beater.run())
        try:
            await _sleep_until(ready_s)
            self._read()
            self._status.change(WorkerState.READY)
            while True:
                await asyncio.sleep(_READ_S)
                self._read()
        finally:
            beating.cancel()
            await asyncio.wait({beating})
            await self._beater.say_goodbye()
            await self._beater.aclose()

    def _read(self) -> None:
        page = render_metrics(self._engine.batch, self._model, self._started_s)
        self._status.metrics = scrape(page.decode())


async def run(options: argparse.Namespace) -> None:
    """Run the workers until SIGTERM or SIGINT."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine that runs is a task's"
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    pace = Pace(
        prefill_tokens_per_s=options.prefill_tokens_per_s,
        inter_token_s=options.inter_token_ms / 1000,
        max_num_seqs=options.seqs,
    )
    numbers = range(options.first, options.first + options.count)
    gateways = options.gateway
    workers = [SimWorker(f"sim-{n}", options.model, pace, gateways[n % len(gateways)]) for n in numbers]
    for worker in workers:
        await worker.listen()
    await asyncio.gather(*(worker.join(options.ready_at, options.load_s) for worker in workers))


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


def main() -> None:
    """Run simulated workers from the command line."""
    parser = argparse.ArgumentParser(prog="python -m gateway.commands.drill.engines", description=__doc__)
    add = parser.add_argument
    add("--gateway", action="append", required=True, help="a gateway to tell; may be repeated")
    add("--model", required=True, help="the name they serve, and of their pool")
    add("--first", type=int, default=1, help="the number of the first one: sim-1")
    add("--count", type=int, default=1)
    add("--seqs", type=int, default=8, help="requests that each works on at once")
    add("--inter-token-ms", type=float, default=20.0)
    add("--prefill-tokens-per-s", type=float, default=20_000.0)
    add("--load-s", type=float, default=0.0, help="how long each says that it is loading")
    add("--ready-at", type=float, default=0.0, help="time.monotonic() before which none is ready")
    try:
        uvloop.run(run(parser.parse_args()))
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    main()
