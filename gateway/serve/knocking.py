"""
Knocks at the door of ejected workers before a request is sent to try them.

A worker that is stopped or cut off costs the request that tries it a whole limit's time. So shortly before an ejection
ends, GET /health is asked, away from any request: no answer, or a 5xx, and the ejection goes on, longer. Any other
answer proves little (an engine may be stuck behind a live HTTP server), so it is a request that proves the worker.
"""

import asyncio

from gateway.core.health import WorkerFault
from gateway.core.routing import WorkerView
from gateway.ports.roster import Roster
from gateway.serve.loops import repeat
from gateway.serve.wire import ConnectionBroken, ConnectionPool, TookTooLong, TooManyConnections

EVERY_S = 0.25  # how often workers whose ejection ends soon are looked for


class Knocking:
    """Keeps workers ejected that do not even answer. A knock takes *timeout_s* at most, before the ejection's end."""

    def __init__(self, roster: Roster, connections: ConnectionPool, *, timeout_s: float) -> None:
        self._roster = roster
        self._connections = connections
        self._timeout_s = timeout_s
        self._knocks: dict[str, asyncio.Task[None]] = {}  # by worker; the last of each while its ejection lasts
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Knocking [{sum(not knock.done() for knock in self._knocks.values())} under way]>"

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(repeat("knocking", EVERY_S, self._round), name="knocking")

    async def aclose(self) -> None:
        """Stop, in the middle of a knock if need be."""
        tasks = {*self._knocks.values(), *([self._task] if self._task else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _round(self) -> None:
        due = {view.id: view for view in self._roster.returning(self._timeout_s + EVERY_S)}
        for worker in self._knocks.keys() - due.keys():
            if self._knocks[worker].done():
                del self._knocks[worker]
        for worker, view in due.items():
            if worker not in self._knocks:
                self._knocks[worker] = asyncio.create_task(self._knock(view), name=f"knock-{worker}")

    async def _knock(self, view: WorkerView) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._ask(view)
        except ConnectionBroken:
            self._roster.keep_ejected(view.id, WorkerFault.UNREACHABLE)
        except (TimeoutError, TookTooLong):
            self._roster.keep_ejected(view.id, WorkerFault.FIRST_BYTE)
        except TooManyConnections:
            return  # that is no news of the worker
        else:
            if status >= 500:
                self._roster.keep_ejected(view.id, WorkerFault.STATUS)

    async def _ask(self, view: WorkerView) -> int:
        connection = await self._connections.connect(view.url)
        try:
            host = view.url.split("://", 1)[1]
            connection.send(f"GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            return await connection.head(self._timeout_s)
        finally:
            connection.close()
