"""
The edge between ASGI and a request's path: the call that came in, the reply that goes out, the client's leaving.

Raw ASGI on purpose: a framework's request and response objects cost more than the whole path does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Protocol

from gateway.core.outcome import Outcome
from gateway.core.sse import answer_event, error_event
from gateway.errors import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What scope["extensions"] calls the client's transport (serve/protocol.py puts it there).
TRANSPORT_EXTENSION = "sluice.transport"
# A client that needs longer than this to send its body is refused, so that slow senders hold no memory.
BODY_TIMEOUT_S = 60.0


class Transport(Protocol):
    """The part of asyncio's transport that a reply asks: is the client on its way out, does it read what it is sent."""

    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...


class ClientGone(Exception):  # noqa: N818
    """The client left while a reply was on its way; there is nobody to tell."""


class Call:
    """
    One request as it came in: method, path, headers, and the body once it is there.

    `run` owns ASGI's *receive*: it collects the body, then returns when the client has left.
    """

    __slots__ = ("_body", "_body_bytes_max", "_receive", "arrived_ms", "headers", "id", "method", "path", "scope")

    def __init__(self, scope: Scope, receive: Receive, *, id: str, arrived_ms: int, body_bytes_max: int) -> None:  # noqa: A002
        self.scope = scope
        self.id = id
        self.arrived_ms = arrived_ms
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._body_bytes_max = body_bytes_max
        self._body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def body(self) -> bytes:
        """Give the whole body. Raises Refused: 413 if it is too long, 408-like 400 if it does not come in time."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._body
        except TimeoutError as error:
            message = f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s."
            raise Refused(Outcome.BAD_REQUEST, message, code="body_timeout") from error

    async def run(self) -> None:
        """Receive until the client leaves."""
        parts: list[bytes] = []
        size = 0
        while (message := await self._receive())["type"] == "http.request":
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._body_bytes_max:
                parts.clear()
                self._refuse_body()
            elif not message.get("more_body", False) and not self._body.done():
                self._body.set_result(b"".join(parts))

    def _refuse_body(self) -> None:
        if not self._body.done():
            limit = self._body_bytes_max
            message = (
                f"The body is longer than {limit} bytes, the limit here. Send less, or ask the operator to raise it."
            )
            self._body.set_exception(Refused(Outcome.BODY_TOO_LARGE, message))


class Reply:
    """
    The answer on its way to the client. The first send fixes the status; errors after it become events.

    *headers* may be added to until then. A stream may begin before there is an answer, to say how the wait goes:
    `begin_stream`, then `say`, from whatever task, until the answer begins (*is_answered*).
    """

    __slots__ = ("_note", "_send", "_transport", "has_begun", "headers", "is_answered", "takes_comments")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        extension = scope.get("extensions", {}).get(TRANSPORT_EXTENSION, {})
        self._transport: Transport | None = extension.get("transport")
        self._note = b""
        self.has_begun = False
        self.is_answered = False
        self.takes_comments = True
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def has_client(self) -> bool:
        """Whether a client of its own is at the other end: a job's answer is collected, nobody watches it come."""
        return self._transport is not None

    @property
    def is_read(self) -> bool:
        """Whether all that was sent so far has left: then the next word is sent without waiting."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    def describe(self, worker: str, queue_ms: int | None, cached_tokens: int | None = None) -> None:
        """
        Say which worker answers and how long the request waited: in headers, or if they are out, in a comment.

        *cached_tokens* is what a stream's prompt is expected to have in the worker's cache: its headers go before the
        engine has said it.
        """
        known = {"worker": worker, "queue-ms": queue_ms or 0}
        if cached_tokens is not None:
            known["cached-tokens"] = cached_tokens
        if not self.has_begun:
            self.headers += [(f"x-sluice-{name}".encode(), f"{value}".encode()) for name, value in known.items()]
        elif self.takes_comments:
            words = " ".join(f"{name.replace('-', '_')}={value}" for name, value in known.items())
            self._note = f": {words}\n\n".encode()

    async def begin_stream(self) -> None:
        """Send status 200 and the headers of an event stream, unless they are out."""
        if self.has_begun:
            return
        self.headers += [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        self.headers.append((b"x-accel-buffering", b"no"))  # nginx would hold events back
        await self._begin(200)

    async def say(self, words: bytes) -> None:
        """Send *words* of a stream that has begun and is not answered yet. Does not wait if `is_read`."""
        await self._send({"type": "http.response.body", "body": words, "more_body": True})

    async def begin_answer(self) -> None:
        """Begin the stream unless it has, and with it the answer: what comes now is the engine's."""
        self.is_answered = True
        await self.begin_stream()
        if self._note:
            await self.send(self._note)

    async def send(self, frames: bytes) -> None:
        """
        Hand *frames* to the client's connection; waits while it is full. Raises ClientGone if it is closing.

        Returning means that the bytes were accepted for sending: that is what "delivered" means on a bill.
        """
        self._check_is_open()
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})
        self._check_is_open()

    async def finish(self, last: bytes = b"") -> None:
        """Send what is *last* and end the reply."""
        self.is_answered = True
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def answer(self, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
        """Send a whole reply at once; as the last event of a stream if one has begun."""
        if self.has_begun:
            await self.finish(self._note + answer_event(status, body))
            return
        self.is_answered = True
        self.headers += [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await self._begin(status)
        await self.finish(body)

    async def refuse(self, refusal: Refused) -> None:
        """Tell the client why its request ends here: as a status if nothing was sent yet, as an event otherwise."""
        if self.has_begun:
            await self.finish(error_event(refusal.body()))
            return
        if refusal.retry_after_s is not None:
            self.headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after_s))))
        if refusal.should_retry is not None:
            self.headers.append((b"x-should-retry", b"true" if refusal.should_retry else b"false"))
        if refusal.limit and (eta_s := refusal.limit.get("eta_s")) is not None:
            self.headers.append((b"x-sluice-eta-s", b"%.1f" % eta_s))
        await self.answer(refusal.outcome.status, refusal.body())

    async def _begin(self, status: int) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": self.headers})

    def _check_is_open(self) -> None:
        if self._transport is not None and self._transport.is_closing():
            raise ClientGone


async def run_until_client_leaves(work: Coroutine[Any, Any, None], leaving: Coroutine[Any, Any, None]) -> None:
    """
    Run *work* as one task and cancel it when *leaving* returns, be it in the queue or in the stream.

    Raises what *work* raises, but for its cancellation by the client's leaving. Cancelled itself, it cancels *work* and
    waits for its clean-up.
    """
    serving, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaving)
    try:
        await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        serving.cancel()  # no effect if it has finished
        await asyncio.wait({serving})  # its clean-up ends before ours does
    if not serving.cancelled():
        serving.result()  # a refusal travels on to the edge
