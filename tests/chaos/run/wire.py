"""
A client's connection, as lean as can be: it shares two cores with all that it tests.

It keeps the bytes of an answer as they come and looks into them at the end. A client that leaves half-closes and reads
on: what still comes is all that the gateway had handed to its connection, which is what "delivered" means on a bill.
"""

import asyncio
import re
from dataclasses import dataclass

from gateway.core.sse import DONE, last_usage
from gateway.core.usage import Usage
from tests.chaos.run.plan import Leaving

_CONTENT = re.compile(rb'"content":"([^"\\]*)"')
_STATUS_AT = slice(9, 12)
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Ending:
    """How one try ended for its client; *why* is finished, left, dropped, cut, late or refused."""

    why: str
    status: int
    request_id: str
    body: bytes

    @property
    def words(self) -> int:
        """Completion tokens that came: the simulated engine's are words, each with its space before it."""
        return sum(text.count(b" ") for text in _CONTENT.findall(self.body))

    @property
    def has_begun(self) -> bool:
        """Some of an answer came, if only who speaks."""
        return self.status == 200 and b'"choices":[{' in self.body

    @property
    def usage(self) -> Usage | None:
        """What the answer itself says at its end, if the client asked for that."""
        return last_usage(self.body)


class Connection(asyncio.Protocol):
    """Carries one exchange at a time to one gateway."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._end = b""
        self._needed: int | None = None  # bytes of the whole answer; None while unknown, -1: until the last chunk
        self._head: bytes = b""
        self._leaving: Leaving | None = None
        self._why = ""
        self._done: asyncio.Future[Ending] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._done is None

    async def exchange(self, request: bytes, leaving: Leaving | None, timeout_s: float) -> Ending:
        """Send *request* and see how it ends; never raises."""
        loop = asyncio.get_running_loop()
        self._parts, self._size, self._end, self._head, self._needed = [], 0, b"", b"", None
        self._leaving, self._why = leaving, ""
        self._done = done = loop.create_future()
        assert self._transport is not None, "an exchange needs an open connection"
        self._transport.write(request)
        timers = [loop.call_later(timeout_s, self._give_up)]
        if leaving and not leaving.after_bytes:
            timers.append(loop.call_later(leaving.after_s, self._leave, leaving))
        try:
            return await done
        finally:
            for timer in timers:
                timer.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._needed is None:
            self._read_head()
        if self._leaving and not self._why and 0 < self._leaving.after_bytes <= self._size:
            self._leave(self._leaving)
        if self._needed == -1:
            self._end = (self._end + data)[-len(_LAST_CHUNK) :]
            if self._end == _LAST_CHUNK:
                self._finish("finished")
        elif self._needed is not None and self._size >= self._needed:
            self._finish("finished")

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        self._finish(self._why or "cut")

    def _read_head(self) -> None:
        data = b"".join(self._parts)
        head, separator, _ = data.partition(b"\r\n\r\n")
        if not separator:
            return
        self._head = head + b"\r\n"
        length = self._header(b"content-length")
        self._needed = len(head) + 4 + int(length) if length else -1

    def _header(self, name: bytes) -> bytes:
        _, found, rest = self._head.partition(b"\r\n" + name + b": ")
        return rest.partition(b"\r\n")[0] if found else b""

    def _leave(self, leaving: Leaving) -> None:
        if self._transport is None or self._done is None:
            return
        self._why = "dropped" if leaving.is_abrupt else "left"
        if leaving.is_abrupt:
            self._transport.abort()
        else:
            self._transport.write_eof()

    def _give_up(self) -> None:
        self._why = "late"
        self.close()

    def _finish(self, why: str) -> None:
        done, self._done = self._done, None
        if done is None or done.done():
            return
        status = int(self._head[_STATUS_AT]) if self._head else 0
        body = b"".join(self._parts)[len(self._head) + 2 :] if self._head else b""
        if why == "finished" and not _is_whole(status, body):
            why = "refused" if status != 200 else "failed"
        if self._why == "left" and self._transport is not None:
            self._transport.abort()  # its side is closed: it carries nothing more
        done.set_result(Ending(why, status, self._header(b"x-request-id").decode(), body))


def _is_whole(status: int, body: bytes) -> bool:
    """Tell whether the client has all of its answer: a plain body, or a stream up to its [DONE]."""
    return status == 200 and (body.startswith(b"{") or DONE in body)
