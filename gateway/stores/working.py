"""One request's share of a worker, as a MemoryRoster counts it."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from gateway.core.credit import WorkerCredit
from gateway.core.health import WorkerHealth


class Books(Protocol):
    """What a share needs of its roster."""

    @property
    def now_s(self) -> Callable[[], float]:
        """The clock: seconds that only go forward."""

    def begin(self, worker: str, work: int, prompt_tokens: int) -> tuple[int, float]:
        """Count a request; gives the prefill tokens ahead of its first token, and when that is predicted."""

    def count(self, worker: str, tokens: int, requests: int, prefill_tokens: int) -> None:
        """Add to this gateway's own work on a worker, or take from it."""

    def credit(self, worker: str) -> WorkerCredit:
        """Give a worker's credit."""

    def health(self, worker: str) -> WorkerHealth:
        """Give a worker's health."""

    def note_first_token(self, worker: str, ttft_s: float) -> None:
        """Take a first token, seen *ttft_s* after its request was sent."""


class MemoryWorking:
    """A Working of a MemoryRoster."""

    __slots__ = (
        "_ahead",
        "_began_s",
        "_health",
        "_prefill_tokens",
        "_roster",
        "_trial",
        "_work",
        "_worker",
        "predicted_ttft_s",
    )

    def __init__(self, roster: Books, worker: str, work: int, prompt_tokens: int) -> None:
        self._roster = roster
        self._worker = worker
        self._work: int | None = work
        self._prefill_tokens = prompt_tokens
        self._began_s = roster.now_s()
        self._health = roster.health(worker)
        self._trial = self._health.begin_request()
        self._ahead, self.predicted_ttft_s = roster.begin(worker, work, prompt_tokens)

    def prefilled(self, *, is_observed: bool = True) -> None:
        if not self._prefill_tokens:
            return
        prefill_tokens, self._prefill_tokens = self._prefill_tokens, 0
        self._roster.count(self._worker, 0, 0, -prefill_tokens)
        if is_observed:
            ttft_s = self._roster.now_s() - self._began_s
            self._roster.credit(self._worker).note_first_token(ttft_s, self._ahead)
            self._roster.note_first_token(self._worker, ttft_s)

    def end(self) -> None:
        if self._work is None:
            return
        work, self._work = self._work, None
        prefill_tokens, self._prefill_tokens = self._prefill_tokens, 0
        self._health.end_request(self._trial)
        self._roster.count(self._worker, -work, -1, -prefill_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
