"""Follows what gateways decide on pools, and holds on to it: a gateway's restart or absence lowers nothing."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import httpx
import structlog

POLL_S = 20.0  # a long poll: a change is told within it at once
TIMEOUT_S = 5.0  # beyond that, for the answer itself
AWAY_S = 0.5  # before the next gateway is asked when one does not answer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Target:
    """How many workers a pool should have, why, and what its gateway said of it besides."""

    desired: int
    reason: str
    facts: dict[str, Any]


class Follower:
    """
    The decisions of any of *gateways*, by long polls; all know the same. *name* tells them who scales.

    A gateway that has just begun to look may raise a pool, not lower it; with no gateway in reach the last word stands.
    A pool of which nothing certain was heard has no target.
    """

    def __init__(self, gateways: Sequence[str], admin_token: str, name: str) -> None:
        self.targets: dict[str, Target] = {}
        self._gateways = cycle(gateways)
        self._headers = {"Authorization": f"Bearer {admin_token}"}
        self._name = name
        self._changed = asyncio.Event()
        self._trouble = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with httpx.AsyncClient(headers=self._headers, timeout=POLL_S + TIMEOUT_S, trust_env=False) as http:
            for gateway in self._gateways:
                try:
                    await self._follow(http, gateway.rstrip("/"))
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    self._note(gateway, f"{type(error).__name__}: {error}")
                    await asyncio.sleep(AWAY_S)

    async def until(self, is_so: Callable[[dict[str, Target]], bool]) -> None:
        """Wait until *is_so* of the targets."""
        while not is_so(self.targets):
            await self._changed.wait()

    async def _follow(self, http: httpx.AsyncClient, gateway: str) -> None:
        version = None
        while True:
            asked: dict[str, str | float] = {
                "scaler": self._name,
                "wait_s": POLL_S,
                **({"after": version} if version else {}),
            }
            answer = await http.get(f"{gateway}/admin/v1/scale", params=asked)
            said = answer.raise_for_status().json()
            version = said["version"]
            self._take(said["pools"])
            self._note(gateway, "")

    def _take(self, pools: Sequence[dict[str, Any]]) -> None:
        before = {name: target.desired for name, target in self.targets.items()}
        self.targets = self.targets | {pool["pool"]: target for pool in pools if (target := self._target(pool))}
        if before != {name: target.desired for name, target in self.targets.items()}:
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    def _target(self, pool: dict[str, Any]) -> Target | None:
        known, desired = self.targets.get(pool["pool"]), int(pool["desired"])
        if not pool["is_settled"] and known and known.desired > desired:
            return Target(known.desired, f"kept at {known.desired} while its gateway has just started", pool)
        if not pool["is_settled"] and not known and not desired:
            return None
        return Target(desired, pool["reason"], pool)

    def _note(self, gateway: str, trouble: str) -> None:
        """Log a trouble when it begins and when it ends, not every time."""
        if trouble and trouble != self._trouble:
            log.warning("gateway_away", gateway=gateway, trouble=trouble)
        elif self._trouble and not trouble:
            log.info("gateway_followed", gateway=gateway)
        self._trouble = trouble

    def __repr__(self) -> str:
        return f"<Follower {self._name} [{', '.join(f'{name} {one.desired}' for name, one in self.targets.items())}]>"
