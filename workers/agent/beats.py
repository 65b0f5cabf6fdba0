"""
Beats to one gateway: once a second, at once on a change, and a goodbye. A gateway that is away is never fatal.

In its answers a gateway says what it has on the engine, and what an operator has ordered.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import httpx
import structlog

from workers.agent.status import Status

_BEAT_INTERVAL_S = 1.0  # gateways hold a lease of several beats
_AWAY_INTERVAL_S = 0.25  # one that comes back knows no worker until it has heard of it, and refuses requests till then
_TIMEOUT_S = 2.0
_QUOTED_CHARACTERS_MAX = 300

log = structlog.get_logger(__name__)


class Beater:
    """
    Keeps one gateway informed. What is wrong with it is logged when it begins and when it ends, not every second.

    *in_flight* is what it last said that gateways have on this worker, 0 while it is away; *on_order* is told "serve",
    "cordon" or "drain" when its order changes; *on_adapters* the LoRA adapters it is to have, by name, where the pool's
    declaration says so. *ca* is a file with the authority of the gateway's certificate, beside those the system knows.
    """

    def __init__(
        self,
        gateway: str,
        worker: str,
        token: str,
        status: Status,
        on_order: Callable[[str], None] = lambda _: None,
        on_adapters: Callable[[Mapping[str, str]], None] = lambda _: None,
        ca: Path | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(headers=headers, timeout=_TIMEOUT_S, trust_env=False, verify=_trusted(ca))
        self._gateway = gateway.rstrip("/")
        self._path = f"{self._gateway}/internal/v1/workers/{quote(worker, safe='')}"
        self._status = status
        self._changed = asyncio.Event()
        self._trouble = ""
        self._is_away = False
        self._on_order = on_order
        self._on_adapters = on_adapters
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
            self._note(_unreachable(error))
            return False
        self._is_away = False
        self._note(_trouble_in(answer))
        if answer.is_success:
            self._hear(answer)
        return answer.is_success

    async def say_goodbye(self) -> None:
        """Have the gateway strike this worker off; one that is away will do so when the lease ends."""
        try:
            answer = await self._http.delete(self._path)
        except httpx.HTTPError as error:
            self._note(_unreachable(error))
        else:
            self._note(_trouble_in(answer))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    def _hear(self, answer: httpx.Response) -> None:
        """Take what the gateway says; one of an older version says less."""
        said = answer.json()
        self.in_flight = int(said.get("in_flight", 0))
        orders = said.get("orders", {})
        if isinstance(adapters := orders.get("adapters"), dict):
            self._on_adapters(adapters)
        order = str(orders.get("state", "serve"))
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


def _trusted(ca: Path | None) -> ssl.SSLContext:
    trusted = ssl.create_default_context()
    if ca is not None:
        trusted.load_verify_locations(ca)
    return trusted


def _unreachable(error: httpx.HTTPError) -> str:
    """Say so in words that stay the same while it lasts, but for a certificate that is not trusted: which and why."""
    name, text = type(error).__name__, str(error)
    return f"unreachable ({name}: {text})" if "CERTIFICATE" in text.upper() else f"unreachable ({name})"


def _trouble_in(answer: httpx.Response) -> str:
    """Say what is wrong in the gateway's own words, if it has any."""
    if answer.is_success:
        return ""
    try:
        message = str(answer.json()["error"]["message"])[:_QUOTED_CHARACTERS_MAX]
    except (ValueError, LookupError, TypeError):
        message = ""
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        told = message or "give this worker the gateway's token"
        return f"it refuses the worker token (401): {told} See SLUICE_WORKER_TOKEN."
    return f"it answered {answer.status_code}: {message}" if message else f"it answered {answer.status_code}"
