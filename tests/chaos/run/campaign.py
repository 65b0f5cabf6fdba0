"""One run from beginning to end: build the world, let clients ask while faults strike, stop, audit the books."""

import asyncio
import resource
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos.run import plan, prices
from tests.chaos.run.clients import Swarm
from tests.chaos.run.evidence import cases
from tests.chaos.run.faults import FAULTS, kills
from tests.chaos.run.ledger import disagreements
from tests.chaos.run.oracle import Books, audit
from tests.chaos.run.world import World

CLIENTS = 64
LONG_REQUESTS = 500_000  # from here on every sixth `database_away`, the first one too, takes minutes, not seconds
LONG_EVERY = 6
HOLD_S = 2.0
AWAY_S, LONG_AWAY_S = 4.0, 120.0
SHIPPED_WITHIN_S = 120


class Campaign:
    """A run of *requests* in *folder*, which must be empty."""

    def __init__(self, folder: Path, requests: int, seed: int, database: str | None, requests_per_fault: int) -> None:
        self._folder = folder
        self._requests = requests
        self._seed = seed
        self._requests_per_fault = requests_per_fault
        self._database = database or ("sqlite" if seed % 2 else "postgres")
        self._struck: Counter[str] = Counter()
        self._now_ms = time.time_ns() // 1_000_000
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(file=sys.stderr))

    def run(self) -> tuple[dict[str, Any], list[str]]:
        """Give the report, and what is wrong, request by request."""
        began = time.monotonic()
        world = World(self._folder, self._database, self._now_ms)
        try:
            with (self._folder / "seen.tsv").open("w") as seen, self._progress:
                ports = [gateway.port for gateway in world.gateways]
                swarm = Swarm(self._seed, self._requests, ports, world.keys, seen)
                asked_s = uvloop.run(self._attack(world, swarm))
                self._settle(world)
            books = self._audit(world)
            wrong = [f"{path} was not shipped" for path in world.leftover()] + disagreements(world.database_url)
        finally:
            world.close()
        return self._report(world, swarm, books, asked_s, time.monotonic() - began), books.offenders + wrong

    async def _attack(self, world: World, swarm: Swarm) -> float:
        """Let the clients ask, and each fault strike once so many were asked; gives how long that took."""
        task = self._progress.add_task("asking", total=self._requests)
        asked = _Counter(self._requests)
        striking = asyncio.create_task(asyncio.to_thread(self._strike, world, asked))
        began = time.monotonic()

        def on_asked(count: int) -> float:
            asked.reach(count)
            if count % 50 == 0:
                self._progress.update(task, completed=count)
            return HOLD_S if asked.is_ahead else 0.0

        try:
            await swarm.run(CLIENTS, on_asked)
        finally:
            asked.end()
        asked_s = time.monotonic() - began
        await striking
        return asked_s

    def _strike(self, world: World, asked: "_Counter") -> None:
        """Do one fault after the other; while one lasts until the next is due, the clients ask slowly."""
        planned = plan.faults(self._seed, self._requests, self._requests_per_fault)
        coming = [fault for fault in planned if fault.kind != "disk_full" or world.has_small_disk]
        for fault, following in zip(coming, [*coming[1:], None], strict=True):
            if not asked.wait_for(fault.at):
                return
            asked.slow_at = following.at if following else self._requests
            self._progress.console.print(f"at {asked.count:>7}: {fault.kind}", highlight=False)
            FAULTS[fault.kind](world, fault.dice, LONG_AWAY_S if self._is_long(fault) else AWAY_S)
            self._struck[fault.kind] += 1
        asked.slow_at = self._requests

    def _is_long(self, fault: plan.Fault) -> bool:
        is_outage = fault.kind == "database_away" and self._requests >= LONG_REQUESTS
        return is_outage and self._struck[fault.kind] % LONG_EVERY == 0

    def _settle(self, world: World) -> None:
        """Wait until the dead gateways' spools are adopted and everything is in the Journal."""
        self._progress.console.print("settling")
        world.installation.wait_shipped(SHIPPED_WITHIN_S)
        world.stop()

    def _audit(self, world: World) -> Books:
        known = cases(self._folder / "evidence.db", world.database_url, world.journals, self._folder / "seen.tsv")
        return audit(known, prices.book(self._now_ms))

    def _report(self, world: World, swarm: Swarm, books: Books, asked_s: float, took_s: float) -> dict[str, Any]:
        tally = swarm.tally
        gateways_cpu_s = sum(gateway.cpu_s for gateway in world.gateways)
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "requests": tally.asked,
            "lost": books.lost,
            "doubled": books.doubled,
            "amount_difference_nano": books.amount_difference_nano,
            "kills": kills(world.gateways),
            "seed": self._seed,
            "database": self._database,
            "amount_nano": books.amount_nano,
            "events": books.events,
            "flags": dict(books.flags),
            "interrupted": books.interrupted,
            "interrupted_unbilled_tokens": books.interrupted_unbilled_tokens,
            "interrupted_unbilled_tokens_max": books.interrupted_unbilled_tokens_max,
            "computed_for_nobody": books.computed_for_nobody,
            "tries": dict(tally.tries),
            "given_up": tally.given_up,
            "faults": dict(self._struck),
            "requests_per_s": round(tally.asked / asked_s, 1),
            "gateways_cpu_ms_per_request": round(1000 * gateways_cpu_s / tally.asked, 3),
            "clients_cpu_ms_per_request": round(1000 * (own.ru_utime + own.ru_stime) / tally.asked, 3),
            "took_s": round(took_s, 1),
        }


class _Counter:
    """How many requests were asked: counted by the clients' thread, waited for by the faults'."""

    def __init__(self, slow_at: int) -> None:
        self.count = 0
        self.slow_at = slow_at
        self._next = 0
        self._has_ended = False
        self._reached = threading.Condition()

    @property
    def is_ahead(self) -> bool:
        """Whether the next fault is due while one still lasts."""
        return self.count > self.slow_at

    def reach(self, count: int) -> None:
        self.count = count
        if count >= self._next:
            with self._reached:
                self._reached.notify_all()

    def end(self) -> None:
        """Wake who waits: no more will be asked."""
        with self._reached:
            self._has_ended = True
            self._reached.notify_all()

    def wait_for(self, count: int) -> bool:
        """Return once so many were asked; False if they never will be."""
        with self._reached:
            self._next = count
            self._reached.wait_for(lambda: self.count >= count or self._has_ended)
            self._next = sys.maxsize
        return self.count >= count
