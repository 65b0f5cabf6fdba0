"""
How long a start still takes: a download by its own pace, loading and warming by what they took before.

What they took is kept in a file of the worker's home, apart for each engine, model and way to run it, so that the first
start after a reboot knows already. Times are seconds of a clock that goes forward.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from workers.agent.options import WorkerOptions
from workers.agent.worker_state import WorkerState

GAIN = 0.3  # of the latest start: disks and caches differ from one to the next
OVERDUE_SHARE = 0.1  # a stage that takes longer than ever is expected to take this much of its time so far again
KEPT_MAX = 100  # ways to run an engine that are remembered
_LEARNT = (WorkerState.LOADING, WorkerState.WARMING)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Download:
    """
    A transfer and its pace since it was first looked at.

    *bytes_done* counts what earlier attempts have left on disk; the pace does not.
    """

    bytes_total: int
    bytes_done: int
    _first_bytes: int = field(init=False)
    _first_s: float | None = None

    def __post_init__(self) -> None:
        self._first_bytes = self.bytes_done

    def at(self, bytes_done: int, now_s: float) -> None:
        """Note how far it is."""
        if self._first_s is None:
            self._first_s = now_s
        self.bytes_done = bytes_done

    @property
    def percent(self) -> int:
        return 100 * self.bytes_done // self.bytes_total if self.bytes_total else 0

    def left_s(self, now_s: float) -> float | None:
        """Give the seconds until all is there at the pace so far; None while there is no pace."""
        came = self.bytes_done - self._first_bytes
        if self._first_s is None or came <= 0 or now_s <= self._first_s:
            return None
        return (self.bytes_total - self.bytes_done) * (now_s - self._first_s) / came


class Stages:
    """The stages of a worker's start, and how long those before readiness are known to take."""

    def __init__(self, path: Path, way: str) -> None:
        self._path = path
        self._way = way
        self._known = _read(path).get(way, {})
        self._state = WorkerState.STARTING
        self._since_s = 0.0
        self._took: dict[str, float] = {}
        self.download: Download | None = None

    def __repr__(self) -> str:
        return f"<Stages [{self._state.value}, {self._known}]>"

    def enter(self, state: WorkerState, now_s: float) -> None:
        """Note that the worker is in *state* from now on; readiness is learnt from, a failure is not."""
        if state is self._state:
            return
        if self._state in _LEARNT:
            self._took[self._state.value] = now_s - self._since_s
        if state is WorkerState.READY:
            self._learn()
        if state in (WorkerState.STARTING, WorkerState.FAILED):
            self._took = {}
        self._state, self._since_s = state, now_s

    def left_s(self, now_s: float) -> float | None:
        """Give the seconds until the worker is ready; None while nobody can know, or when it is not starting."""
        if self._state is WorkerState.DOWNLOADING:
            left_s = self.download.left_s(now_s) if self.download else None
            return self._with_stages_after(left_s, _LEARNT)
        if self._state is WorkerState.STARTING:
            return self._with_stages_after(0.0, _LEARNT)
        if self._state in _LEARNT:
            known_s, elapsed_s = self._known.get(self._state.value), now_s - self._since_s
            left_s = None if known_s is None else max(known_s - elapsed_s, OVERDUE_SHARE * elapsed_s)
            return self._with_stages_after(left_s, _LEARNT[_LEARNT.index(self._state) + 1 :])
        return None

    def _with_stages_after(self, left_s: float | None, stages: tuple[WorkerState, ...]) -> float | None:
        times = [left_s, *(self._known.get(stage.value) for stage in stages)]
        known = [time_s for time_s in times if time_s is not None]
        return sum(known) if len(known) == len(times) else None

    def _learn(self) -> None:
        for stage, took_s in self._took.items():
            known_s = self._known.get(stage, took_s)
            self._known[stage] = round(known_s + GAIN * (took_s - known_s), 3)
        try:
            _write(self._path, {**_read(self._path), self._way: self._known})
        except OSError as error:
            log.warning("start_times_not_kept", path=str(self._path), reason=str(error))


def way_of(options: WorkerOptions) -> str:
    """Name what a start's length depends on: another model, engine, batch or split has times of its own."""
    parts = (options.engine, options.model, options.max_num_seqs, options.max_model_len, *options.engine_args)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, dict[str, float]]) -> None:
    """Replace the file in one step; of two workers that write at once the later one's times stay, which is fine."""
    kept = dict(list(known.items())[-KEPT_MAX:])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(kept, indent=1))
    temporary.replace(path)
