"""The clients of a run: they ask, hang up, ask again where another gateway is, and write down what they saw."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

from tests.chaos.run.plan import Ask, Leaving, ask
from tests.chaos.run.wire import Connection, Ending

TIMEOUT_S = 60.0
TRIES_MAX = 400  # some 80 s of refusals
PAUSE_S = 0.2
AGAIN = {"cut", "refused", "failed", "late"}


@dataclass(slots=True)
class Tally:
    """How a run stands: requests asked for the first time and ended for good, tries by how they ended."""

    asked: int = 0
    served: int = 0
    left: int = 0
    given_up: int = 0
    tries: Counter[str] = field(default_factory=Counter)


class Swarm:
    """*at_once* clients that ask request after request of the plan, at the gateways that listen on *ports*."""

    def __init__(self, seed: int, requests: int, ports: list[int], keys: dict[str, str], seen: TextIO) -> None:
        self.tally = Tally()
        self._seed = seed
        self._numbers = iter(range(requests))
        self._ports = ports
        self._heads = {tenant: _head(key) for tenant, key in keys.items()}
        self._seen = seen

    async def run(self, at_once: int, on_asked: Callable[[int], float]) -> None:
        """Ask all; *on_asked* is told how many were asked, before each, and says for how many seconds to hold it."""
        await asyncio.gather(*(self._client(on_asked) for _ in range(at_once)))

    async def _client(self, on_asked: Callable[[int], float]) -> None:
        connections: dict[int, Connection] = {}
        for number in self._numbers:
            self.tally.asked += 1
            if hold_s := on_asked(self.tally.asked):
                await asyncio.sleep(hold_s)
            await self._serve(ask(self._seed, number), connections)
        for connection in connections.values():
            connection.close()

    async def _serve(self, wanted: Ask, connections: dict[int, Connection]) -> None:
        data = json.dumps(wanted.body, separators=(",", ":")).encode()
        request = self._heads[wanted.account.tenant] % len(data) + data
        leaving = wanted.leaving
        for tried, port in enumerate(self._round(wanted)):
            ending = await _try(connections, port, request, leaving)
            self._note(wanted, ending)
            if ending.why == "finished":
                self.tally.served += 1
                return
            if ending.why not in AGAIN and not wanted.comes_again:
                self.tally.left += 1
                return
            leaving = None
            if ending.why in AGAIN and tried:
                await asyncio.sleep(PAUSE_S)
        self.tally.given_up += 1

    def _round(self, wanted: Ask) -> Iterator[int]:
        for tried in range(TRIES_MAX):
            yield self._ports[(wanted.gateways + tried) % len(self._ports)]

    def _note(self, wanted: Ask, ending: Ending) -> None:
        """Write down a try that was told its id; without one the client saw nothing of an answer."""
        self.tally.tries[f"refused_{ending.status}" if ending.why == "refused" else ending.why] += 1
        if ending.request_id:
            usage = ending.usage if ending.why == "finished" else None
            told = f"{usage.prompt},{usage.cached},{usage.completion}" if usage else ""
            begun = int(ending.has_begun)
            self._seen.write(
                f"{ending.request_id}\t{wanted.account.tenant}\t{ending.why}\t{begun}\t{ending.words}\t{told}\n"
            )


async def _try(connections: dict[int, Connection], port: int, request: bytes, leaving: Leaving | None) -> Ending:
    connection = connections.get(port)
    if connection is None or not connection.is_open:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        except OSError:
            return Ending("refused", 0, "", b"")
        connections[port] = connection
    return await connection.exchange(request, leaving, TIMEOUT_S)


def _head(key: str) -> bytes:
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        "content-length: %d",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
