"""
The engine's side of a request: try workers in order until one answers, then hand on what it says.

Another worker may be tried until the first byte of an answer; after that the answer is this worker's, to its end or to
its failure. How bytes travel is wire.py's business.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from gateway.core import engine_load
from gateway.core.outcome import Outcome
from gateway.core.request import ChatRequest
from gateway.core.routing import WorkerView
from gateway.core.sse import DONE, ERROR_PREFIX, FrameBuffer, has_only_role
from gateway.errors import Refused, WorkerFailed
from gateway.ports.roster import Roster
from gateway.serve.placement import Place
from gateway.serve.wire import Connection, ConnectionBroken, ConnectionPool, TookTooLong

log = structlog.get_logger()

# The engine has said [DONE]; the end of its HTTP message follows at once or the connection is not worth keeping.
END_TIMEOUT_S = 1.0
# Answers of an engine that are its own fault, besides 5xx: it refuses the key that its agent gave us, or is full.
_WORKERS_FAULTS = frozenset({401, 403, 408, 429})


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """How long an engine may take, and how many workers are tried."""

    first_byte_timeout_s: float
    idle_timeout_s: float
    attempts_max: int


@dataclass(slots=True)
class Answer:
    """
    What an engine answers: *status*, and either a whole *body* or, for a stream, `frames`.

    *has_ended* tells that a stream came to its [DONE].
    """

    worker: str
    status: int
    is_stream: bool
    body: bytes
    _connection: Connection = field(repr=False)
    _buffer: FrameBuffer = field(repr=False)
    _idle_timeout_s: float
    has_ended: bool = False

    async def frames(self) -> AsyncIterator[bytes]:
        """
        Give runs of complete SSE frames as they arrive, up to and without [DONE].

        Raises WorkerFailed if the engine breaks off, falls silent or reports an error in mid-stream; the frames before
        it have been given.
        """
        frames = self.body
        while True:
            error_at = frames.find(ERROR_PREFIX)
            if error_at > 0:
                yield frames[:error_at]
            if error_at >= 0:
                raise WorkerFailed(self.worker, "it reported an error in mid-stream")
            if frames.endswith(DONE):
                self.has_ended = True
                yield frames[: -len(DONE)]
                return
            yield frames
            frames = await self.read_frames(self._idle_timeout_s)

    async def read_frames(self, timeout_s: float) -> bytes:
        """Read the next run of complete frames. Raises WorkerFailed."""
        frames = b""
        while not frames:
            with _as_worker_failure(self.worker):
                chunk = await self._connection.read(timeout_s)
            if not chunk:
                raise WorkerFailed(self.worker, "its stream ended without [DONE]")
            frames = self._buffer.feed(chunk)
        return frames


class Upstream:
    """The engines, as the path of a request uses them."""

    def __init__(
        self,
        roster: Roster,
        connections: ConnectionPool,
        limits: UpstreamLimits,
        on_failure: Callable[[str], None],
    ) -> None:
        self._roster = roster
        self._on_failure = on_failure
        self._connections = connections
        self._limits = limits

    @asynccontextmanager
    async def open(
        self, place: Place, request: ChatRequest, path: str, on_dispatch: Callable[[WorkerView], str]
    ) -> AsyncIterator[Answer]:
        """
        Send *request* to the worker it is placed on, or on to others; give an Answer with the first byte already there.

        *on_dispatch* is told of each worker before it is tried and gives the request id it will see. Leaving the block
        early drops the connection, which stops the engine's work. Raises Refused(UPSTREAM_*) when all tries failed.
        """
        failures: list[WorkerFailed] = []
        while True:
            worker = place.worker
            head = _head(worker, path, request, on_dispatch(worker))
            try:
                connection, answer = await self._try(place, head + request.body)
            except WorkerFailed as failure:
                self._blame(failure)
                failures.append(failure)
                if len(failures) < self._limits.attempts_max and await place.elsewhere():
                    continue
                raise _refusal(failures, "before answering") from failure
            try:
                yield answer
                await _read_end(connection, answer)
            except WorkerFailed as failure:
                self._blame(failure)
                raise _refusal([failure], "in mid-stream") from failure
            finally:
                self._connections.give_back(worker.url, connection)
            self._roster.trust(worker.id)
            return

    def _blame(self, failure: WorkerFailed) -> None:
        log.warning("worker_failed", worker=failure.worker, reason=failure.reason)
        self._roster.suspect(failure.worker)
        self._on_failure(failure.worker)

    async def _try(self, place: Place, data: bytes) -> tuple[Connection, Answer]:
        connection = await self._exchange(place.worker, data)
        try:
            answer = await self._first_answer(place, connection)
        except BaseException:  # cancelled included: the engine must not work on for nobody
            connection.close()
            raise
        return connection, answer

    async def _exchange(self, worker: WorkerView, data: bytes) -> Connection:
        """
        Send *data* and wait for the head of the answer.

        A connection that idled may be closed by the engine at the very moment it is used again; if it is lost before a
        byte came back, the exchange is made once more on a fresh one, and this does not count as a try.
        """
        idle = self._connections.take_idle(worker.url)
        if idle is not None:
            try:
                return await self._send(worker, idle, data)
            except WorkerFailed:
                if idle.bytes_received or not idle.is_lost:
                    raise
        with _as_worker_failure(worker.id):
            fresh = await self._connections.connect(worker.url)
        return await self._send(worker, fresh, data)

    async def _send(self, worker: WorkerView, connection: Connection, data: bytes) -> Connection:
        try:
            with _as_worker_failure(worker.id):
                connection.send(data)
                await connection.head(self._limits.first_byte_timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _first_answer(self, place: Place, connection: Connection) -> Answer:
        worker, status = place.worker, connection.status
        if status >= 500 or status in _WORKERS_FAULTS:
            raise WorkerFailed(worker.id, f"it answered {status}")
        is_stream = connection.headers.get(b"content-type", b"").startswith(b"text/event-stream")
        limit = self._limits.idle_timeout_s
        answer = Answer(worker.id, status, is_stream, b"", connection, FrameBuffer(), limit)
        if is_stream:
            answer.body = await answer.read_frames(self._limits.first_byte_timeout_s)
            place.prefilled()
            if has_only_role(answer.body):  # until there is content, another worker can still take over
                answer.body += await answer.read_frames(self._limits.first_byte_timeout_s)
            if ERROR_PREFIX in answer.body:
                raise WorkerFailed(worker.id, "it reported an error instead of an answer")
        else:
            with _as_worker_failure(worker.id):
                answer.body = await _read_all(connection, limit)
            if status < 400:  # a refusal says nothing of how fast the engine is
                place.prefilled()
        if load := engine_load.read_engine_load(connection.headers.get(engine_load.HEADER)):
            self._roster.hear(worker.id, load)
        return answer


class _as_worker_failure:  # noqa: N801  reads as a phrase after `with`
    """Translate what wire.py raises into WorkerFailed; a class, because a generator costs more per chunk."""

    __slots__ = ("_worker",)

    def __init__(self, worker: str) -> None:
        self._worker = worker

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConnectionBroken):
            raise WorkerFailed(self._worker, str(error)) from error
        if isinstance(error, TookTooLong):
            raise WorkerFailed(self._worker, "it did not answer in time", had_timeout=True) from error


async def _read_all(connection: Connection, timeout_s: float) -> bytes:
    parts = []
    while part := await connection.read(timeout_s):
        parts.append(part)
    return b"".join(parts)


async def _read_end(connection: Connection, answer: Answer) -> None:
    """Read the end of the HTTP message behind [DONE], so that the connection can be used again."""
    if not answer.has_ended:
        return
    try:
        await connection.read(END_TIMEOUT_S)
    except (ConnectionBroken, TookTooLong):
        connection.close()


def _head(worker: WorkerView, path: str, request: ChatRequest, request_id: str) -> bytes:
    host = worker.url.split("://", 1)[1]
    key = f"authorization: Bearer {worker.engine_key}\r\n" if worker.engine_key else ""
    return (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{key}content-type: application/json\r\n"
        f"content-length: {len(request.body)}\r\n{engine_load.ASK}\r\nx-request-id: {request_id}\r\n\r\n"
    ).encode()


def _refusal(failures: Sequence[WorkerFailed], when: str) -> Refused:
    last = failures[-1]
    outcome = Outcome.UPSTREAM_TIMEOUT if last.had_timeout else Outcome.UPSTREAM_FAILED
    tried = f"{len(failures)} workers were tried; the last, " if len(failures) > 1 else "The "
    message = f"{tried}worker {last.worker}, failed {when}: {last.reason}. Retrying can help."
    return Refused(outcome, message)
