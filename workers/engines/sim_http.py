"""
HTTP/1.1 for the simulated engine: one protocol object per connection, no task, no framework.

A client that reads slowly is not buffered for: `Exchange.is_paused` tells the engine to hold back until `on_resume`.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

import httptools

_BODY_BYTES_MAX = 64 << 20
_WRITE_BUFFER_BYTES = 64 << 10
_KEEP_ALIVE_S = 5.0  # uvicorn's, thus vLLM's

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request, read to its end. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Exchange:
    """One request and its answer. *on_leave* is called if the client goes before the answer has ended."""

    __slots__ = ("_connection", "is_paused", "on_leave", "on_resume", "request")

    def __init__(self, connection: "Connection", request: Request) -> None:
        self._connection = connection
        self.request = request
        self.is_paused = False
        self.on_leave: Callable[[], None] = _nothing
        self.on_resume: Callable[[], None] = _nothing

    def reply(
        self, status: int, body: bytes = b"", content_type: str = "application/json", headers: Iterable[Header] = ()
    ) -> None:
        """Answer at once and whole."""
        typed = [("content-type", content_type)] if body else []
        lines = _head(status, [*headers, ("content-length", str(len(body))), *typed])
        self._connection.write(lines.encode("latin-1") + body)
        self._connection.end(self)

    def reply_json(self, status: int, data: Any, headers: Iterable[Header] = ()) -> None:
        """Answer with *data* as JSON."""
        self.reply(status, json.dumps(data, separators=(",", ":")).encode(), headers=headers)

    def start_stream(self) -> None:
        """Begin an event stream; vLLM does so at once, before there is a first token."""
        kind = "text/event-stream; charset=utf-8"
        self._connection.write(_head(200, [("content-type", kind), ("transfer-encoding", "chunked")]).encode("latin-1"))

    def send(self, text: str) -> None:
        """Send a piece of the stream, in ASCII, as a chunk of its own."""
        self._connection.write(f"{len(text):x}\r\n{text}\r\n".encode("ascii"))

    def end_stream(self) -> None:
        """End the stream; the connection may be used again."""
        self._connection.write(b"0\r\n\r\n")
        self._connection.end(self)

    def drop(self) -> None:
        """Break the connection off in the middle, as a dying process does."""
        self.on_leave = _nothing
        self._connection.abort()


Serve = Callable[[Exchange], None]


class Connection(asyncio.Protocol):
    """A client's connection. *serve* is called with each exchange, one after the other."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: Exchange | None = None
        self._next: deque[Request] = deque()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_last = False
        self._is_paused = False
        self._url, self._headers, self._body, self._body_bytes = b"", dict[str, str](), list[bytes](), 0

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.write(_head(400, [("content-length", "0"), ("connection", "close")]).encode("latin-1"))
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._stop_idle()
        self._transport = None
        self._next.clear()
        if self._current is not None:
            left, self._current = self._current, None
            left.on_leave()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._current is not None:
            self._current.is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._current is not None:
            self._current.is_paused = False
            self._current.on_resume()

    # --- what the parser says ---

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body, self._body_bytes = b"", {}, [], 0
        self._stop_idle()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > _BODY_BYTES_MAX:
            self.abort()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._is_last = self._is_last or not self._parser.should_keep_alive()
        method, path = self._parser.get_method().decode(), self._url.split(b"?", 1)[0].decode("latin-1")
        self._next.append(Request(method, path, self._headers, b"".join(self._body)))
        if self._current is None:
            self._start_next()
        elif self._transport is not None:
            self._transport.pause_reading()  # pipelined: one request ahead is enough

    # --- what an exchange says ---

    def write(self, data: bytes) -> None:
        """Send *data* if the client is still there."""
        if self._transport is not None:
            self._transport.write(data)

    def end(self, exchange: Exchange) -> None:
        """Take note that *exchange* has been answered in full."""
        if exchange is not self._current:
            return  # its client has left
        self._current = None
        if self._next:
            self._start_next()
        elif self._is_last:
            self._close()
        else:
            self._wait_idle()

    def abort(self) -> None:
        """Break off, with what is not yet sent."""
        if self._transport is not None:
            self._transport.abort()

    def _start_next(self) -> None:
        self._current = exchange = Exchange(self, self._next.popleft())
        exchange.is_paused = self._is_paused
        if self._transport is not None and not self._next:
            self._transport.resume_reading()
        self._serve(exchange)

    def _wait_idle(self) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(_KEEP_ALIVE_S, self._close)

    def _stop_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Date:
    """The Date header's value, made once a second."""

    second, text = 0, ""

    def now(self) -> str:
        second = int(time.time())
        if second != self.second:
            self.second, self.text = second, formatdate(second, usegmt=True)
        return self.text


_DATE = _Date()


def _head(status: int, headers: Iterable[Header]) -> str:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"date: {_DATE.now()}", "server: sluice-sim"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines) + "\r\n\r\n"


def _nothing() -> None:
    pass
