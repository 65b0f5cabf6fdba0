"""
Workers started and drained on this machine, as many as the gateway decides: what `sluice up --scale` adds.

A worker that goes is told by SIGTERM: its agent takes no new work, lets its engine finish, and ends. It counts towards
the most that may run until it has ended, for it still holds its memory.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.commands.local.children import Child, Program, Say
from gateway.commands.local.gateway_client import GatewayClient
from gateway.errors import InvalidInput
from gateway.scaler.follow import Follower, Target

LOOK_S = 1.0  # how often what runs is held against what should, beside every change of that
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the most workers."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}..{self.most}"


def parse_range(text: str, option: str = "--scale") -> Range:
    """Read "0..4". Raises InvalidInput."""
    match = _RANGE.fullmatch(text.strip())
    if not match or int(match[2]) < max(1, int(match[1])):
        raise InvalidInput(f"{option} is {text!r}; it must be LEAST..MOST, with 1 or more at most, such as 0..4.")
    return Range(int(match[1]), int(match[2]))


class LocalScaler:
    """Keeps as many workers of *pool* running as *follower* is told; *make* gives a worker's program by its name."""

    def __init__(
        self,
        pool: str,
        of: Range,
        names: list[str],
        make: Callable[[str], Program],
        follower: Follower,
        client: GatewayClient,
        say: Say,
        hurry: asyncio.Event,
    ) -> None:
        self._pool = pool
        self._of = of
        self._names = names
        self._make = make
        self._follower = follower
        self._client = client
        self._say = say
        self._hurry = hurry
        self._staying: dict[str, Child] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<LocalScaler {self._pool} {self._of} [{len(self._staying)} run, {len(self._leaving)} leave]>"

    @contextlib.asynccontextmanager
    async def stopping(self) -> AsyncIterator[None]:
        """Stop every worker that is left when the block ends, and wait for that."""
        try:
            yield
        finally:
            await asyncio.gather(*(child.stop() for child in self._staying.values()), *self._leaving.values())

    async def run(self) -> None:
        """Start and drain workers until cancelled."""
        following = asyncio.create_task(self._follower.run(), name="follow decisions")
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._follower.until(self._wants_other)
                await self._step()
        finally:
            following.cancel()
            await asyncio.wait({following})

    def _wants_other(self, targets: dict[str, Target]) -> bool:
        """Tell whether something can be done now about workers that are too few or too many."""
        wanted = self._wanted(targets)
        return wanted < len(self._staying) or (wanted > len(self._staying) and bool(self._free))

    def _wanted(self, targets: dict[str, Target]) -> int:
        target = targets.get(self._pool)
        known = len(self._staying) if target is None else target.desired
        return min(max(known, self._of.least), self._of.most)

    @property
    def _free(self) -> list[str]:
        return [name for name in self._names if name not in self._staying and name not in self._leaving]

    async def _step(self) -> None:
        order = await self._least_busy()
        wanted = self._wanted(self._follower.targets)
        target = self._follower.targets.get(self._pool)
        why = target.reason if target else f"at least {self._of.least} run"
        for name in self._free[: max(0, wanted - len(self._staying))]:
            self._say(f"{name} starts: {why}")
            child = self._staying[name] = Child(self._make(name), self._say, self._hurry)
            await child.start()
        for name in order[: max(0, len(self._staying) - wanted)]:
            self._say(f"{name} leaves: {why}")
            self._leaving[name] = asyncio.create_task(self._leave(name, self._staying.pop(name)), name=f"drain {name}")

    async def _leave(self, name: str, child: Child) -> None:
        try:
            await child.stop()
        finally:
            del self._leaving[name]

    async def _least_busy(self) -> list[str]:
        """Order the workers by who should go first: who is not ready yet, then who has the fewest requests."""
        if len(self._staying) <= self._wanted(self._follower.targets):
            return []
        try:
            workers = {worker["worker"]: worker for worker in await self._client.workers()}
        except httpx.HTTPError:
            workers = {}
        return sorted(self._staying, key=lambda name: (_busy(workers.get(name)), -self._names.index(name)))


def _busy(worker: dict[str, Any] | None) -> int:
    if worker is None or worker["state"] != "ready":
        return -1
    return int(worker["running"]) + int(worker["waiting"])
