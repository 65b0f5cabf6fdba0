"""
One client: a connection of its own, one streamed request, and the story of what became of it.

A bare protocol on the socket, because thousands of them share one small process with nothing else to give.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

import httptools

from gateway.commands.drill.events import Content, Done, EventReader, Failure, Place, Usage, read_failure
from gateway.commands.drill.scenario import Visit

# How the gateway says that it or an engine failed; anything else in OpenAI's form is a refusal.
_SERVER_ERROR = "server_error"
_REFUSAL_STATUS_MAX = 500


class Ending(Enum):
    """Where a request is, or how it ended."""

    WAITING = "waiting"
    RUNNING = "running"
    SERVED = "served"  # with its whole answer
    REFUSED = "refused"  # with an error in OpenAI's form, before anything of the answer
    LEFT = "left"  # by the client's own will
    LOST = "lost"  # in any other way


@dataclass(slots=True)
class Story:
    """What became of a visit. Times are those of time.monotonic(); *places* are (when told, ETA in seconds)."""

    visit: Visit
    gateway: int
    ending: Ending = Ending.WAITING
    sent_s: float = 0.0
    first_byte_s: float | None = None
    begun_s: float | None = None
    ended_s: float | None = None
    status: int = 0
    request_id: str = ""
    code: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    places: list[tuple[float, float]] = field(default_factory=list)


class Client(asyncio.Protocol):
    """Sends *request* once connected and follows the answer; *on_change* hears of each new ending, old one first."""

    def __init__(self, story: Story, request: bytes, on_change: Callable[[Story, Ending], None]) -> None:
        self.story = story
        self._request = request
        self._on_change = on_change
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._events = EventReader()
        self._error_body = b""

    def leave(self) -> None:
        """Hang up, whatever is under way."""
        self._end(Ending.LEFT)

    def fail(self, reason: str) -> None:
        """Note that the request was lost because of *reason*."""
        self.story.code = reason
        self._end(Ending.LOST)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_waiting(self) -> bool:
        return self.story.ending is Ending.WAITING

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.story.ended_s is not None:  # it left before it had even come
            self.close()
            return
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if self.story.first_byte_s is None:
            self.story.first_byte_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail("no_http")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.fail("connection_closed")

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id":
            self.story.request_id = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.story.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.story.status != 200:
            self._error_body += body
            return
        for event in self._events.feed(body):
            self._take(event)

    def on_message_complete(self) -> None:
        if self.story.status != 200:
            self._take_failure(read_failure(self._error_body))
        else:
            self.fail("silent_end")  # no effect after [DONE]
        self.close()

    def _take(self, event: Place | Usage | Failure | Content | Done) -> None:
        story = self.story
        if isinstance(event, Content):
            if story.begun_s is None:
                story.begun_s = time.monotonic()
                self._change(Ending.RUNNING)
        elif isinstance(event, Place):
            if event.eta_s is not None:
                story.places.append((time.monotonic(), event.eta_s))
        elif isinstance(event, Usage):
            story.prompt_tokens, story.completion_tokens = event.prompt_tokens, event.completion_tokens
        elif isinstance(event, Failure):
            self._take_failure(event)
        else:
            self._end(Ending.SERVED)

    def _take_failure(self, failure: Failure | None) -> None:
        status = self.story.status
        if failure is None:
            self.fail(f"http_{status}")
            return
        self.story.code = failure.code
        is_refusal = self.is_waiting and failure.error_type != _SERVER_ERROR
        is_refusal = is_refusal and (status < _REFUSAL_STATUS_MAX or status == 503)
        self._end(Ending.REFUSED if is_refusal else Ending.LOST)

    def _end(self, ending: Ending) -> None:
        if self.story.ended_s is not None:
            return
        self.story.ended_s = time.monotonic()
        self._change(ending)
        if ending is not Ending.SERVED:  # then the end of the body closes it
            self.close()

    def _change(self, ending: Ending) -> None:
        before, self.story.ending = self.story.ending, ending
        self._on_change(self.story, before)
