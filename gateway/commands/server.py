"""
A gateway's server, from its socket to the last byte of the last answer.

The way down, from SIGTERM: announce (readiness says no, all is served, each answer closes its connection), close the
door (no new connections), drain (what has begun ends), close what is idle, cut what has not ended.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import structlog
import uvicorn

from gateway.app import Gateway
from gateway.serve.protocol import Door, SluiceProtocol
from gateway.settings import Settings

# How long an idle client connection is kept: more than a browser's or an SDK's pause between two turns of a chat.
KEEP_ALIVE_S = 75
POLL_S = 0.05  # how often a server that goes looks whether all has ended
# A connection without a request is closed only after this silence: one may be on its way to it.
SILENCE_S = 1.0
CUT_S = 2.0  # for those that did not end in time to be told so

log = structlog.get_logger()


class GatewayServer(uvicorn.Server):
    """
    uvicorn's server with other signals and another way down, on *listener*.

    uvicorn raises the signal again once its connections are closed, which would end the process before the spool is;
    and it closes connections on which a request may be on its way, and those that the kernel has accepted for it.
    """

    def __init__(self, gateway: Gateway, settings: Settings, listener: socket.socket, backlog: int) -> None:
        self._door = Door()
        protocol = cast("type[SluiceProtocol]", partial(SluiceProtocol, door=self._door))
        super().__init__(
            uvicorn.Config(
                gateway.edge,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                backlog=backlog,
            )
        )
        self._gateway = gateway
        self._announce_s = settings.drain_announce_s
        self._drain_s = settings.drain_s
        self._listener = listener
        self._hurry = asyncio.Event()

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT, and then as long as it takes to go; a second signal hurries."""
        await self.serve(sockets=[self._listener.dup()])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first SIGTERM or SIGINT, hurry at the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: signal.Signals) -> None:
        requests = len(self.server_state.tasks)
        if self.should_exit:
            log.info("hurrying", signal=number.name, requests=requests)
            self._hurry.set()
            return
        log.info("draining", signal=number.name, requests=requests, announce_s=self._announce_s, drain_s=self._drain_s)
        self._gateway.announce_drain()
        self._door.is_closing = True
        for connection in self._connections():
            connection.close_with_answer()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  closed with servers
        """Go, from the announcement to the last connection."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), self._announce_s)
        await self._close_door()
        self._gateway.begin_drain()
        log.info("door_closed", requests=len(self.server_state.tasks))
        await self._drain(time.monotonic() + self._drain_s)
        await self._cut()

    async def _close_door(self) -> None:
        """
        Listen no more, and take in whoever the kernel has let in by then.

        uvicorn has a copy of the socket: the kernel resets who waits to be accepted only when the last one is closed.
        """
        for server in self.servers:
            server.close()
        self._listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.setblocking(False)
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)
        self._listener.close()

    def _protocol(self) -> asyncio.Protocol:
        """Make the protocol of a connection, as uvicorn does at its start."""
        make: Any = self.config.http_protocol_class
        state = self.lifespan.state
        return cast("asyncio.Protocol", make(config=self.config, server_state=self.server_state, app_state=state))

    async def _drain(self, until_s: float) -> None:
        """Wait until all connections have ended, closing those that have been silent; until *until_s* at most."""
        silent_since_s: dict[SluiceProtocol, float] = {}
        while self.server_state.connections or self.server_state.tasks:
            now_s = time.monotonic()
            if now_s >= until_s or self._hurry.is_set():
                return
            idle = [connection for connection in self._connections() if connection.is_idle]
            silent_since_s = {connection: silent_since_s.get(connection, now_s) for connection in idle}
            for connection, since_s in silent_since_s.items():
                if now_s - since_s >= SILENCE_S:
                    connection.transport.close()
            await asyncio.sleep(POLL_S)

    async def _cut(self) -> None:
        """End what has not ended in time: each request is refused, or its stream gets an error event."""
        if tasks := set(self.server_state.tasks):
            log.warning("drain_overdue", requests=len(tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CUT_S)
        for connection in self._connections():
            connection.transport.close()

    def _connections(self) -> list[SluiceProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, SluiceProtocol)]
