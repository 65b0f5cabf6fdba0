"""
Beats to one gateway: once a second, at once on a change, and a goodbye. A gateway that is away is never fatal.

In its answers a gateway says what it has on the engine, and what an operator has ordered.
"""

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import quote

import httpx
import structlog

from workers.agent.status import Status

_BEAT_INTERVAL_S = 1.0  # gateways hold a lease of several beats
_AWAY_INTERVAL_S = 0.25  # one that comes back knows no worker until it has heard of it, and refuses requests till then
_TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)


class Beater:
    """
    Keeps one gateway informed. What is wrong with it is logged when it begins and when it ends, not every second.

    *in_flight* is what it last said that gateways have on this worker, 0 while it is away; *on_order* is told "serve",
    "cordon" or "drain" when its order changes.
    """

    def __init__(
        self, gateway: str, worker: str, token: str, status: Status, on_order: Callable[[str], None] = lambda _: None
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        self._gateway = gateway.rstrip("/")
        self._path = f"{self._gateway}/internal/v1/workers/{quote(worker, safe='')}"
        self._status = status
        self._changed = asyncio.Event()
        self._trouble = ""
        self._is_away = False
        self._on_order = on_order
        self._order = "serve"
        self.in_flight = 0

    async def run(self) -> None:
        """Beat until cancelled."""
        self._status.listeners.add(self._changed)
        try:
            while True:
                self._changed.clear()
                await self.beat()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait(), _AWAY_INTERVAL_S if self._is_away else _BEAT_INTERVAL_S
                    )
        finally:
            self._status.listeners.discard(self._changed)

    async def beat(self) -> bool:
        """Send one beat; tell whether the gateway took it."""
        try:
            answer = await self._http.post(f"{self._path}/beat", json=self._status.beat())
        except httpx.HTTPError as error:
            self._is_away, self.in_flight = True, 0
            self._note(f"unreachable ({type(error).__name__})")
            return False
        self._is_away = False
        self._note(_trouble_in(answer.status_code))
        if answer.is_success:
            self._hear(answer)
        return answer.is_success

    async def say_goodbye(self) -> None:
        """Have the gateway strike this worker off; one that is away will do so when the lease ends."""
        try:
            answer = await self._http.delete(self._path)
        except httpx.HTTPError as error:
            self._note(f"unreachable ({type(error).__name__})")
        else:
            self._note(_trouble_in(answer.status_code))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    def _hear(self, answer: httpx.Response) -> None:
        """Take what the gateway says; one of an older version says less."""
        said = answer.json()
        self.in_flight = int(said.get("in_flight", 0))
        order = str(said.get("orders", {}).get("state", "serve"))
        if order != self._order:
            self._order = order
            log.info("ordered", gateway=self._gateway, order=order)
            self._on_order(order)

    def _note(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            log.warning("gateway_trouble", gateway=self._gateway, trouble=trouble)
        else:
            log.info("gateway_reached", gateway=self._gateway)


def _trouble_in(status: int) -> str:
    if status == httpx.codes.UNAUTHORIZED:
        return "it refuses the worker token (401): give this worker the gateway's token in SLUICE_WORKER_TOKEN"
    return "" if httpx.codes.is_success(status) else f"it answered {status}"
