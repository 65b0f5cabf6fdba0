"""
The engine's side of a request: try workers in order until one answers, then hand on what it says.

Another worker may be tried until the first byte of an answer; after that one may go on with a stream that breaks off,
where that can be done exactly (continuing.py). How bytes travel is wire.py's business.
"""

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from gateway.core import engine_load
from gateway.core.health import LOST, WorkerFault
from gateway.core.hedging import Hedges
from gateway.core.outcome import Outcome
from gateway.core.request import ChatRequest
from gateway.core.retry_budget import WINDOW_S, RetryBudgets, RetryRules
from gateway.core.routing import WorkerView
from gateway.core.sse import DONE, ERROR_PREFIX, FrameBuffer, has_only_role
from gateway.errors import Refused, WorkerFailed
from gateway.ports.roster import Roster
from gateway.serve.continuing import ContinuationRules, Dispatching, Relief
from gateway.serve.hedging import Hedge
from gateway.serve.placement import Place
from gateway.serve.wire import Connection, ConnectionBroken, ConnectionPool, TookTooLong, TooManyConnections

log = structlog.get_logger()

# The engine has said [DONE]; the end of its HTTP message follows at once or the connection is not worth keeping.
END_TIMEOUT_S = 1.0
RETRY_AFTER_S = 5  # a pool that fails that often is not well again at once
# Answers of an engine that are its own fault, besides 5xx: it refuses the key that its agent gave us, or is full.
_WORKERS_FAULTS = frozenset({401, 403, 408, 429})
_CLIENTS_ERROR = re.compile(rb'"code" ?: ?(4\d\d)\b')  # of the event that ends a stream


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """
    How long an engine may take, and how many workers are tried.

    *header_timeout_s* is for the head of a stream, which engines send before they compute; that of a whole answer comes
    with its body.
    """

    header_timeout_s: float
    first_byte_timeout_s: float
    idle_timeout_s: float
    attempts_max: int
    continuation: ContinuationRules


@dataclass(slots=True)
class Answer:
    """
    What an engine answers: *status*, and either a whole *body* or, for a stream, `frames`.

    *has_ended* tells that a stream came to its [DONE], *relief* has other engines go on with it until then.
    """

    worker: str
    status: int
    is_stream: bool
    body: bytes
    connection: Connection = field(repr=False)
    buffer: FrameBuffer = field(repr=False)
    _idle_timeout_s: float
    has_ended: bool = False
    relief: Relief | None = None

    def frames(self) -> AsyncIterator[bytes]:
        """
        Give runs of complete SSE frames as they arrive, up to and without [DONE].

        Raises WorkerFailed, or with *relief* Refused, if the engine breaks off, falls silent or reports an error in
        mid-stream; the frames before it have been given.
        """
        return self.relief.frames(self) if self.relief else self.frames_of_engine()

    def drop(self) -> None:
        """Hang up: nobody wants it any more, and its engine stops."""
        self.connection.close()

    def go_on_with(self, leg: "Answer") -> None:
        """Go on with what another engine answers."""
        self.connection.close()
        self.worker, self.body, self.connection, self.buffer = leg.worker, leg.body, leg.connection, leg.buffer

    async def frames_of_engine(self) -> AsyncIterator[bytes]:
        """Give what the engine at work says, as `frames` does. Raises WorkerFailed."""
        frames = self.body
        while True:
            error_at = frames.find(ERROR_PREFIX)
            if error_at > 0:
                yield frames[:error_at]
            if error_at >= 0:
                raise _reported(self.worker, frames[error_at:], "in mid-stream")
            if frames.endswith(DONE):
                self.has_ended = True
                yield frames[: -len(DONE)]
                return
            yield frames
            frames = await self.read_frames(self._idle_timeout_s)

    async def read_frames(self, timeout_s: float, late: WorkerFault = WorkerFault.SILENT) -> bytes:
        """Read the next run of complete frames. Raises WorkerFailed, after *timeout_s* with the fault *late*."""
        frames, ends_s = b"", time.monotonic() + timeout_s
        while not frames:
            with _as_worker_failure(self.worker, late):
                chunk = await self.connection.read(ends_s - time.monotonic())
            if not chunk:
                raise WorkerFailed(self.worker, "its stream ended without [DONE]")
            frames = self.buffer.feed(chunk)
        return frames


class Upstream:
    """The engines, as the path of a request uses them."""

    def __init__(
        self,
        roster: Roster,
        connections: ConnectionPool,
        limits: UpstreamLimits,
        retries: RetryBudgets,
        hedges: Hedges,
    ) -> None:
        self._roster = roster
        self._retries = retries
        self._hedges = hedges
        self._connections = connections
        self._limits = limits

    @asynccontextmanager
    async def open(
        self, place: Place, request: ChatRequest, path: str, dispatching: Dispatching
    ) -> AsyncIterator[Answer]:
        """
        Send *request* to the worker it is placed on, or on to others; give an Answer with the first byte already there.

        *dispatching* is told of each worker before it is tried and gives the request id it will see. Leaving the block
        early drops the connection, which stops the engine's work. Raises Refused(UPSTREAM_*) when all tries failed.
        """
        failures: list[WorkerFailed] = []
        self._retries.of(place.pool).note_request(time.monotonic())
        while True:
            try:
                answer = await self._begin(place, request, path, dispatching)
            except WorkerFailed as failure:
                self.blame(failure)
                failures.append(failure)
                if len(failures) < self._limits.attempts_max and await self.move(place, failure):
                    continue
                raise _refusal(failures) from failure
            if answer.is_stream and request.is_continuable:
                answer.relief = Relief(self, place, request, dispatching, self._limits.continuation)
            try:
                yield answer
                await _read_end(answer)
            except WorkerFailed as failure:
                self.blame(failure)
                raise _broken_off(failure) from failure
            finally:
                self._connections.give_back(place.worker.url, answer.connection)
            if answer.status < 400 and (answer.has_ended or not answer.is_stream):
                self._roster.trust(answer.worker)  # that it refused a request would say nothing of how it serves others
            return

    async def _begin(self, place: Place, request: ChatRequest, path: str, dispatching: Dispatching) -> Answer:
        """Give the answer of one worker, or of the sooner of two (serve/hedging.py). Raises WorkerFailed."""
        if self._hedges.are_off or not request.is_stream:
            return await self.attempt(place, request, path, dispatching)
        attempt = lambda place: self.attempt(place, request, path, dispatching)  # noqa: E731
        answer = await Hedge(self._hedges, place, attempt, Answer.drop, self.blame).answer()
        dispatching.hear_from(answer.worker)
        return answer

    async def move(self, place: Place, failure: WorkerFailed) -> bool:
        """Have *place* on another worker; tell whether there is one. Raises Refused if the pool's retries are spent."""
        if failure.fault in LOST and len(place.ask.tried) == 1:
            return await place.elsewhere()
        budget = self._retries.of(place.pool)
        if not budget.take(time.monotonic()):
            raise _unretried(place.pool, failure, self._retries.rules) from failure
        has_moved = await place.elsewhere()
        if not has_moved:
            budget.give_back(time.monotonic())
        return has_moved

    def blame(self, failure: WorkerFailed) -> None:
        """Note a worker's failure."""
        log.warning("worker_failed", worker=failure.worker, reason=failure.reason)
        if failure.fault is not None:
            self._roster.suspect(failure.worker, failure.fault)

    async def attempt(self, place: Place, request: ChatRequest, path: str, dispatching: Dispatching) -> Answer:
        """Send *request* to the worker of *place*; give its answer with the first byte there. Raises WorkerFailed."""
        worker, limits = place.worker, self._limits
        head = _head(worker, path, len(request.body), dispatching.dispatch(worker))
        head_s = limits.header_timeout_s if request.is_stream else limits.first_byte_timeout_s
        connection = await self._exchange(worker, head + request.body, head_s)
        try:
            return await self._first_answer(place, connection)
        except BaseException:  # cancelled included: the engine must not work on for nobody
            connection.close()
            raise

    async def ask(self, worker: WorkerView, path: str, body: bytes) -> bytes:
        """Ask an engine something small beside a request; give the body of its 200. Raises WorkerFailed."""
        limit_s = self._limits.header_timeout_s
        connection = await self._exchange(worker, _head(worker, path, len(body), "") + body, limit_s)
        try:
            with _as_worker_failure(worker.id, WorkerFault.SILENT):
                answer = await _read_all(connection, limit_s)
            if connection.status != 200:
                raise WorkerFailed(worker.id, f"it answered {connection.status} at {path}", fault=None)
        finally:
            self._connections.give_back(worker.url, connection)
        return answer

    async def _exchange(self, worker: WorkerView, data: bytes, head_s: float) -> Connection:
        """
        Send *data* and wait for the head of the answer, *head_s* at most.

        A connection that idled may be closed by the engine at the very moment it is used again; if it is lost before a
        byte came back, the exchange is made once more on a fresh one, and this does not count as a try.
        """
        idle = self._connections.take_idle(worker.url)
        if idle is not None:
            try:
                return await self._send(worker, idle, data, head_s)
            except WorkerFailed:
                if idle.bytes_received or not idle.is_lost:
                    raise
        with _as_worker_failure(worker.id, WorkerFault.UNREACHABLE, WorkerFault.UNREACHABLE):
            fresh = await self._connections.connect(worker.url)
        return await self._send(worker, fresh, data, head_s)

    async def _send(self, worker: WorkerView, connection: Connection, data: bytes, head_s: float) -> Connection:
        try:
            with _as_worker_failure(worker.id, WorkerFault.FIRST_BYTE):
                connection.send(data)
                await connection.head(head_s)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _first_answer(self, place: Place, connection: Connection) -> Answer:
        worker, status = place.worker, connection.status
        if status >= 500 or status in _WORKERS_FAULTS:
            raise WorkerFailed(worker.id, f"it answered {status}", fault=WorkerFault.STATUS)
        is_stream = connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")
        limit = self._limits.idle_timeout_s
        answer = Answer(worker.id, status, is_stream, b"", connection, FrameBuffer(), limit)
        if is_stream:
            answer.body = await answer.read_frames(self._limits.first_byte_timeout_s, WorkerFault.FIRST_BYTE)
            if ERROR_PREFIX not in answer.body:
                place.prefilled()
            if has_only_role(answer.body):  # until there is content, another worker can still take over
                answer.body += await answer.read_frames(self._limits.first_byte_timeout_s, WorkerFault.FIRST_BYTE)
            if (error_at := answer.body.find(ERROR_PREFIX)) >= 0:
                raise _reported(worker.id, answer.body[error_at:], "instead of an answer")
        else:
            with _as_worker_failure(worker.id, WorkerFault.SILENT):
                answer.body = await _read_all(connection, limit)
            if status < 400:  # a refusal says nothing of how fast the engine is
                place.prefilled()
        if load := engine_load.read_engine_load(connection.headers.get(engine_load.HEADER)):
            self._roster.hear(worker.id, load)
        return answer


class _as_worker_failure:  # noqa: N801  reads as a phrase after `with`
    """Translate what wire.py raises into WorkerFailed; a class, because a generator costs more per chunk."""

    __slots__ = ("_broken", "_late", "_worker")

    def __init__(self, worker: str, late: WorkerFault, broken: WorkerFault = WorkerFault.BROKEN) -> None:
        self._worker = worker
        self._late = late
        self._broken = broken

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConnectionBroken):
            raise WorkerFailed(self._worker, str(error), fault=self._broken) from error
        if isinstance(error, TookTooLong):
            raise WorkerFailed(self._worker, "it did not answer in time", had_timeout=True, fault=self._late) from error
        if isinstance(error, TooManyConnections):
            raise WorkerFailed(self._worker, str(error), fault=None) from error


def _reported(worker: str, error: bytes, when: str) -> WorkerFailed:
    """Translate an *error* event; one that says the request was wrong is not the worker's fault."""
    said = _CLIENTS_ERROR.search(error.split(b"\n\n", 1)[0])
    fault = None if said and int(said[1]) not in _WORKERS_FAULTS else WorkerFault.REPORTED
    return WorkerFailed(worker, f"it reported an error {when}", fault=fault)


async def _read_all(connection: Connection, timeout_s: float) -> bytes:
    """Read a body that is there in whole, or within *timeout_s*: engines send a whole answer's at once."""
    parts, ends_s = [], time.monotonic() + timeout_s
    while part := await connection.read(ends_s - time.monotonic()):
        parts.append(part)
    return b"".join(parts)


async def _read_end(answer: Answer) -> None:
    """Read the end of the HTTP message behind [DONE], so that the connection can be used again."""
    if not answer.has_ended:
        return
    try:
        await answer.connection.read(END_TIMEOUT_S)
    except (ConnectionBroken, TookTooLong):
        answer.connection.close()


def _head(worker: WorkerView, path: str, length: int, request_id: str) -> bytes:
    host = worker.url.split("://", 1)[1]
    key = f"authorization: Bearer {worker.engine_key}\r\n" if worker.engine_key else ""
    return (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{key}content-type: application/json\r\n"
        f"content-length: {length}\r\n{engine_load.ASK}\r\nx-request-id: {request_id}\r\n\r\n"
    ).encode()


def _unretried(pool: str, failure: WorkerFailed, rules: RetryRules) -> Refused:
    outcome = Outcome.UPSTREAM_TIMEOUT if failure.had_timeout else Outcome.UPSTREAM_FAILED
    message = (
        f"The worker {failure.worker} failed before answering: {failure.reason}. It was not tried on another one: too "
        f"many requests to the pool {pool!r} fail, and no more than {rules.share:.0%} of them and {rules.retries_min} "
        f"besides are tried again within {WINDOW_S:g} s. Retry in {RETRY_AFTER_S} s."
    )
    return Refused(outcome, message, code="retry_budget_spent", retry_after_s=RETRY_AFTER_S)


def _broken_off(failure: WorkerFailed) -> Refused:
    outcome = Outcome.UPSTREAM_TIMEOUT if failure.had_timeout else Outcome.UPSTREAM_FAILED
    cut = f"The worker {failure.worker} failed in mid-stream: {failure.reason}"
    return Refused(outcome, f"{cut}. No other can go on exactly with a stream of this kind. Retrying can help.")


def _refusal(failures: Sequence[WorkerFailed]) -> Refused:
    last = failures[-1]
    outcome = Outcome.UPSTREAM_TIMEOUT if last.had_timeout else Outcome.UPSTREAM_FAILED
    tried = f"{len(failures)} workers were tried; the last, worker {last.worker}," if failures[1:] else None
    message = f"{tried or f'The worker {last.worker}'} failed before answering: {last.reason}. Retrying can help."
    return Refused(outcome, message)
