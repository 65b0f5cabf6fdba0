"""
HTTP/1.1 to the engines: one connection, and a pool of them per engine.

Our own client because the relay is what Sluice exists for: several chunks that arrive together wake the reader once and
leave as one. httptools parses; nothing here knows of retries, usage or SSE.
"""

import asyncio
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools

# A network that is cut says nothing: after so long without a word the kernel asks whether the engine's host is there,
# so often, so many times. After 3 + 3 × 2 s the connection is lost, however long the engine may think.
_SILENCE_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 9_000),  # the same for what we sent and it does not acknowledge
)
# A reader that is slower than the engine stops the engine's socket at this many bytes, and starts it again at none.
UNREAD_BYTES_MAX = 256 << 10


class ConnectionBroken(Exception):  # noqa: N818
    """The engine's connection could not be made, closed early, or spoke no HTTP; says which."""


class TookTooLong(Exception):  # noqa: N818
    """The engine did not send what was waited for within the limit."""


class TooManyConnections(Exception):  # noqa: N818
    """This gateway has as many connections to the engine as it may; no fault of the engine's."""


class Connection(asyncio.Protocol):
    """
    One connection to an engine, used for one exchange at a time.

    After `send`: `head` waits for the status, `read` gives what has arrived since the last call, b"" at the end. Only
    an exchange that was read to its end leaves the connection usable for the next one (`is_reusable`).
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._error: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._is_paused = False
        self._has_head = False
        self._is_complete = True
        self._keeps_alive = False
        self.bytes_received = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    # What a user of the connection calls.

    def send(self, request: bytes) -> None:
        """Begin an exchange by sending *request*, head and body."""
        assert self._transport is not None, "send before the connection was made"
        self._reset()
        self._is_complete = False
        self._transport.write(request)

    async def head(self, timeout_s: float) -> int:
        """
        Wait for the status line and headers; gives the status. Raises ConnectionBroken, TookTooLong.

        The limit is for the whole head: an engine that sends it byte by byte gets no more time.
        """
        ends_s = time.monotonic() + timeout_s
        while not self._has_head:
            await self._wait(ends_s - time.monotonic())
        return self.status

    async def read(self, timeout_s: float) -> bytes:
        """Give all body bytes that are there, waiting for some; b"" at the end. Raises as `head` does."""
        ends_s = 0.0
        while not self._chunks:
            if self._is_complete:
                return b""
            ends_s = ends_s or time.monotonic() + timeout_s
            await self._wait(ends_s - time.monotonic())
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return body

    def close(self) -> None:
        """Drop the connection at once; an engine takes that as the caller's leaving and stops generating."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_reusable(self) -> bool:
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and self._error is None and self._is_complete and self._keeps_alive and not self._chunks

    async def _wait(self, timeout_s: float) -> None:
        if self._error is not None:
            raise ConnectionBroken(self._error)
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(timeout_s, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        self._error = self._error or reason
        self._wake()

    @property
    def is_lost(self) -> bool:
        return self._error is not None

    @property
    def is_gone(self) -> bool:
        """It has no socket any more."""
        return self._transport is None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        to_engine = transport.get_extra_info("socket")
        for option in _SILENCE_OPTIONS:
            to_engine.setsockopt(*option)

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("it sent something that is not HTTP")
            self.close()
        self._wake()

    def eof_received(self) -> None:
        if self._has_head and b"content-length" not in self.headers and b"transfer-encoding" not in self.headers:
            self._is_complete = True  # HTTP/1.0 style: the end of the connection is the end of the body
        self._fail("it closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("it closed the connection" if exc is None else f"the connection was lost ({exc})")
        if self.on_lost is not None:
            self.on_lost()

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._unread += len(body)
        if self._unread > UNREAD_BYTES_MAX and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self._is_complete = True
        self._keeps_alive = self._parser.should_keep_alive()


def _trusting(ca: Path | None) -> ssl.SSLContext:
    trusted = ssl.create_default_context()
    if ca is not None:
        trusted.load_verify_locations(ca)
    return trusted


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_exception(TookTooLong())


class ConnectionPool:
    """
    Idle connections per engine, the most recently used first. Decides without awaiting; only connecting waits.

    *connections_max* bounds those to one engine, idle or not: one that hangs must not take all of a gateway's sockets.
    *ca* is a file with the authority of the engines' certificates, beside those that the system knows. Raises OSError
    if it cannot be read.
    """

    def __init__(
        self, *, connect_timeout_s: float, keep_alive_s: float, connections_max: int = 1024, ca: Path | None = None
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._keep_alive_s = keep_alive_s
        self._connections_max = connections_max
        self._trusted: ssl.SSLContext | None = _trusting(ca) if ca else None
        self._idle: dict[str, list[Connection]] = {}
        self._open: Counter[str] = Counter()  # connections to each engine, those that are being made included

    def __repr__(self) -> str:
        return f"<ConnectionPool [{sum(map(len, self._idle.values()))} idle]>"

    def connections(self, url: str) -> int:
        """Count the connections to an engine, idle ones and those that are being made included."""
        return self._open[url]

    def take_idle(self, url: str) -> Connection | None:
        """Take a connection to *url* that was left open, if one is still good."""
        idle = self._idle.get(url)
        oldest = time.monotonic() - self._keep_alive_s
        while idle:
            connection = idle.pop()
            if connection.is_reusable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def connect(self, url: str) -> Connection:
        """Open a connection to *url*. Raises ConnectionBroken, TookTooLong, TooManyConnections."""
        if self._open[url] >= self._connections_max:
            raise TooManyConnections(
                f"this gateway has {self._connections_max} connections to it, and may have no more"
            )
        self._open[url] += 1
        try:
            connection = await self._connect(url)
        except BaseException:
            self._lose(url)
            raise
        if connection.is_gone:  # in the very moment it was made
            self._lose(url)
            raise ConnectionBroken("it closed the connection")
        connection.on_lost = lambda: self._lose(url)
        return connection

    def _lose(self, url: str) -> None:
        self._open[url] -= 1
        if not self._open[url]:
            del self._open[url]

    def _trust(self) -> ssl.SSLContext:
        """Give what engines' certificates are held against; to read the system's takes 25 ms, which most never need."""
        self._trusted = self._trusted or _trusting(None)
        return self._trusted

    async def _connect(self, url: str) -> Connection:
        parts = urlsplit(url)
        assert parts.hostname, f"a worker's url has no host: {url}"
        secure = self._trust() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(Connection, parts.hostname, port, ssl=secure)
        except TimeoutError as error:
            raise TookTooLong from error
        except OSError as error:
            raise ConnectionBroken(f"it cannot be reached ({error.strerror or error})") from error
        return connection

    def give_back(self, url: str, connection: Connection) -> None:
        """Keep *connection* for the next exchange if it was read to its end; close it otherwise."""
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle.setdefault(url, []).append(connection)
        else:
            connection.close()

    def sweep(self) -> None:
        """Close connections that have idled too long; without it those of vanished workers would pile up."""
        oldest = time.monotonic() - self._keep_alive_s
        for url, idle in list(self._idle.items()):
            fresh = [connection for connection in idle if connection.is_reusable and connection.idle_since > oldest]
            for connection in set(idle).difference(fresh):
                connection.close()
            if fresh:
                self._idle[url] = fresh
            else:
                del self._idle[url]

    def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
