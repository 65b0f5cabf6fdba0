"""
The waiting client: what a stream is sent from its third second on, until its answer begins.

Headers are held for a while so that a refusal keeps its status; then 200 goes out, at once the place in line and the
expected wait, again when they change, and a sign of life every few seconds, also while an engine works on a prompt.

One task walks all that wait here. A client costs it one look every 2 s and no timer; one that does not read what it was
sent is passed over. A request that is not a stream just waits.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Self

import structlog

from gateway.core.eta import Place
from gateway.serve.admission import Admission
from gateway.serve.http import Reply
from gateway.serve.metering import MeterRecord
from gateway.serve.wishes import QueueEvents
from gateway.telemetry.metrics import Metrics

TICK_S = 0.25
CHANGE_S = 2.0  # between two looks at what changed for a client
SLICE = 100  # clients told before other tasks get their turn: some 3 ms
# An expected wait has changed if it missed what was told by a second and by a tenth; below that it only runs down.
ETA_MISS_S, ETA_MISS_SHARE = 1.0, 0.1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WaitingRules:
    """How long headers are held for a refusal's sake, and the longest silence after that."""

    headers_hold_s: float
    keep_alive_s: float


class Waiting:
    """Keeps the clients of this gateway's streams told, by what *admission* knows of them from memory."""

    def __init__(self, admission: Admission, metrics: Metrics, now_ms: Callable[[], int], rules: WaitingRules) -> None:
        self.admission = admission
        self.metrics = metrics
        self.now_ms = now_ms
        self.rules = rules
        # Each in the order in which it is due: the intervals are the same for all.
        self._held: deque[Post] = deque()
        self._told: deque[Post] = deque()
        self._task: asyncio.Task[None] | None = None

    def post(self, record: MeterRecord, reply: Reply) -> "Post":
        """Keep the client of *record* told while the block runs, until *reply* is answered."""
        return Post(self, record, reply)

    def add(self, post: "Post") -> None:
        """Have *post* told when its headers have been held long enough."""
        post.due_s = time.monotonic() + self.rules.headers_hold_s
        self._held.append(post)

    async def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._walk(), name="telling waiting clients")

    async def aclose(self) -> None:
        """Stop the rounds."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _walk(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._round(time.monotonic())
            except Exception:  # thousands rely on this loop: it must not end by one of them
                log.exception("telling_failed")

    async def _round(self, now_s: float) -> None:
        """Tell everyone who is due."""
        told = 0
        for posts in (self._held, self._told):
            while posts and posts[0].due_s <= now_s:
                post = posts.popleft()
                if post.is_over:
                    continue
                post.due_s = now_s + CHANGE_S
                self._told.append(post)
                await post.tell(now_s)
                told += 1
                if told % SLICE == 0:
                    await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"<Waiting [{len(self._held)} held, {len(self._told)} told]>"


class Post:
    """What one client is told. An async context manager: nothing is told after the block."""

    __slots__ = ("_eta_s", "_first", "_position", "_record", "_reply", "_told_s", "_waiting", "due_s")

    def __init__(self, waiting: Waiting, record: MeterRecord, reply: Reply) -> None:
        self._waiting = waiting
        self._record: MeterRecord | None = record
        self._reply: Reply | None = reply
        self._told_s = -inf  # nothing yet
        self._position: int | None = None
        self._eta_s: float | None = None
        self._first: tuple[int, float] | None = None  # when the first expectation was told, and what
        self.due_s = 0.0

    async def __aenter__(self) -> Self:
        assert self._record is not None, "a post is entered once"
        assert self._reply is not None, "a post is entered once"
        if self._record.parsed.is_stream and self._reply.has_client:
            self._waiting.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first and self._record:
            self._judge(self._record, *self._first)
        self._record = self._reply = None  # a request is not kept in memory for the sake of its post

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to tell: the answer has begun, or the request is over."""
        return self._reply is None or self._reply.is_answered

    async def tell(self, now_s: float) -> None:
        """Send what is new or due, without ever waiting for the client."""
        record, reply = self._record, self._reply
        if record is None or reply is None or not reply.is_read:
            return
        words = self._words(record, now_s)
        if not reply.has_begun:
            reply.takes_comments = _takes_comments(record)
            await reply.begin_stream()
        if words:
            self._told_s = now_s
            await reply.say(words)

    def _words(self, record: MeterRecord, now_s: float) -> bytes:
        wishes = record.wished
        is_due = now_s - self._told_s >= self._waiting.rules.keep_alive_s
        if wishes.events is QueueEvents.NONE:
            return b""
        if wishes.is_old_go:  # it breaks on the blank line after a comment
            return b":\n" if is_due else b""
        if not self._waiting.admission.is_waiting(record.id):
            return f": running id={record.id}\n\n".encode() if self._turns_to_running() or is_due else b""
        place = self._waiting.admission.place(record.id)
        if not (is_due or self._has_changed(place, now_s)):
            return b""
        self._note(place)
        return (_event if wishes.events is QueueEvents.EVENTS else _comment)(record.id, place)

    def _turns_to_running(self) -> bool:
        was_waiting, self._position, self._eta_s = self._position is not None, None, None
        return was_waiting

    def _has_changed(self, place: Place | None, now_s: float) -> bool:
        if place is None or place.position != self._position:
            return place is not None
        if place.eta_s is None or self._eta_s is None:
            return place.eta_s is not self._eta_s
        missed_s = abs(place.eta_s - max(0.0, self._eta_s - (now_s - self._told_s)))
        return missed_s > max(ETA_MISS_S, ETA_MISS_SHARE * place.eta_s)

    def _note(self, place: Place | None) -> None:
        if place is None:
            return
        self._position, self._eta_s = place.position, place.eta_s
        if self._first is None and place.eta_s is not None:
            self._first = self._waiting.now_ms(), place.eta_s

    def _judge(self, record: MeterRecord, told_ms: int, eta_s: float) -> None:
        """Show how far off the wait was that this client was told first."""
        if record.granted_ms is not None and record.model is not None:
            waited_s = (record.granted_ms - told_ms) / 1000
            self._waiting.metrics.observe_eta(record.model.pool, eta_s, waited_s)


def _takes_comments(record: MeterRecord) -> bool:
    return record.wished.events is not QueueEvents.NONE and not record.wished.is_old_go


def _comment(request_id: str, place: Place | None) -> bytes:
    words = [": queue"]
    if place:
        words.append(f"position={place.position}")
        if place.eta_s is not None:
            words.append(f"eta_s={place.eta_s:.1f}")
        words.append(f"waiting={place.waiting}")
    return f"{' '.join(words)} id={request_id}\n\n".encode()


def _event(request_id: str, place: Place | None) -> bytes:
    return f"event: queue\ndata: {json.dumps(shown('queue.place', request_id, place))}\n\n".encode()


def shown(kind: str, request_id: str, place: Place | None) -> dict[str, object]:
    """Give a place as programs read it; what is not known is null."""
    eta_s = None if place is None or place.eta_s is None else round(place.eta_s, 1)
    return {
        "object": kind,
        "id": request_id,
        "position": place.position if place else None,
        "eta_s": eta_s,
        "waiting": place.waiting if place else None,
    }
