"""
How soon a ticket is gone after its client hung up: asked of a gateway that did not hold it, until it says so.

`GET /v1/queue/{id}` must first tell that the request waits; then the client closes, and the question is repeated until
the ticket is no longer in line. The time ends with the answer, so it includes up to one POLL_S and one round trip: it
is never too short. Where no gateway knows the ticket, nothing is measured, and nothing is claimed.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from gateway.commands.drill.client import Client
from gateway.serve.wire import ConnectionBroken, ConnectionPool, TookTooLong

POLL_S = 0.01
GONE_S_MAX = 10.0  # a ticket that is still there then counts as that late
_TIMEOUT_S = 5.0


class Probes:
    """Measures leavings; `removal_ms` has one figure for each that could be measured."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.removal_ms: list[float] = []
        self._urls = urls
        self._connections = ConnectionPool(connect_timeout_s=_TIMEOUT_S, keep_alive_s=60)

    async def watch_leaving(self, client: Client, key: str) -> None:
        """Have *client* hang up, and measure until its ticket is gone."""
        story = client.story
        url = self._urls[(story.gateway + 1) % len(self._urls)]
        was_in_line = bool(story.request_id) and await self._is_in_line(url, story.request_id, key)
        if not client.is_waiting:
            return
        client.leave()
        closed_s = time.monotonic()
        if not was_in_line:
            return
        while await self._is_in_line(url, story.request_id, key):
            if time.monotonic() - closed_s > GONE_S_MAX:
                break
            await asyncio.sleep(POLL_S)
        self.removal_ms.append(1000 * (time.monotonic() - closed_s))

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    async def _is_in_line(self, url: str, request_id: str, key: str) -> bool:
        try:
            connection = self._connections.take_idle(url) or await self._connections.connect(url)
        except (ConnectionBroken, TookTooLong):
            return False
        try:
            host = urlsplit(url).netloc
            head = f"GET /v1/queue/{request_id} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\r\n"
            connection.send(head.encode())
            status = await connection.head(_TIMEOUT_S)
            body = b""
            while part := await connection.read(_TIMEOUT_S):
                body += part
            return status == 200 and _says_waiting(body)
        except (ConnectionBroken, TookTooLong):
            return False
        finally:
            self._connections.give_back(url, connection)


def _says_waiting(body: bytes) -> bool:
    said: dict[str, Any] = json.loads(body)
    return bool(said.get("status") == "queued")
