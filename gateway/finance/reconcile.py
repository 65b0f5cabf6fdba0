"""
Reconciliation, first form: the engines' own token counters against what was metered, to the last token.

An engine's counters are read about once a second and begin at zero when its process starts. Two readings bound a
*window*: the engine made the difference of their counters in it, and the requests that ended in it were metered. What
the engine made beyond probes and metered requests is the *residue*. It holds what a cut stream's engine went on to make
after the client had left, prompts of attempts that failed, prompts counted once per choice (n > 1) by engines but once
by us; and, at a window's edge, requests in flight, which cancel out in the next window. Less than nothing means that
more was metered than made: that must not be.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from gateway.core.zones import local_time
from gateway.ports.journal import EngineReading, JournalReader, WorkerUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """
    One engine process's window, or a stretch without readings: then *engine_started_ms* is None, the engine's side 0.

    `engine_*` are differences of counters, `probe_*` the part of them that the worker's own readiness requests caused,
    `metered_*` what tenants were billed, *undelivered_tokens* completion tokens that reached a gateway but no client.
    """

    worker: str
    pool: str = ""
    engine_started_ms: int | None = None
    from_ms: int
    to_ms: int
    requests: int
    engine_prompt_tokens: int = 0
    engine_completion_tokens: int = 0
    probe_prompt_tokens: int = 0
    probe_completion_tokens: int = 0
    metered_prompt_tokens: int
    metered_completion_tokens: int
    undelivered_tokens: int

    @property
    def residue_prompt_tokens(self) -> int:
        return self.engine_prompt_tokens - self.probe_prompt_tokens - self.metered_prompt_tokens

    @property
    def residue_completion_tokens(self) -> int:
        accounted = self.probe_completion_tokens + self.metered_completion_tokens + self.undelivered_tokens
        return self.engine_completion_tokens - accounted

    def to_json(self) -> dict[str, Any]:
        """Give the line as plain data, its residue included."""
        residue = {name: getattr(self, name) for name in ("residue_prompt_tokens", "residue_completion_tokens")}
        return {**asdict(self), **residue}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """*lines* are covered by readings, *uncovered* is what was metered where there are none to compare with."""

    from_ms: int
    to_ms: int
    zone: ZoneInfo
    lines: tuple[Line, ...]
    uncovered: tuple[Line, ...]

    def totals(self) -> dict[str, int]:
        """Sum the lines that are covered by readings."""
        names = [name for name in COLUMNS if name.endswith("_tokens") or name == "requests"]
        records = [line.to_json() for line in self.lines]
        return {name: sum(record[name] for record in records) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data; the field names are stable."""
        return {
            "from": local_time(self.from_ms, self.zone).isoformat(),
            "to": local_time(self.to_ms, self.zone).isoformat(),
            "zone": self.zone.key,
            "lines": [line.to_json() for line in self.lines],
            "totals": self.totals(),
            "uncovered": [line.to_json() for line in self.uncovered],
        }


COLUMNS = (*(field.name for field in fields(Line)), "residue_prompt_tokens", "residue_completion_tokens")


@dataclass(frozen=True, slots=True)
class _Window:
    """The last reading of an engine process in the interval, and the one its counters are compared with."""

    last: EngineReading
    base: EngineReading
    from_ms: int


def reconcile(journal: JournalReader, from_ms: int, to_ms: int, zone: ZoneInfo) -> Reconciliation:
    """
    Compare engines and Journal over [from_ms, to_ms). Blocking. Raises StoreUnavailable.

    A window reaches from the last reading before the interval, or the engine's start, to the last reading in it; so
    windows of adjoining intervals adjoin, and no token is in two of them or in none.
    """
    windows = list(_windows(journal.readings_at(from_ms), journal.readings_at(to_ms)))
    lines = [_compare(journal, window) for window in windows]
    seen = set(journal.usage_by_worker(from_ms, to_ms))
    uncovered = [
        line
        for worker in sorted(seen)
        for start, end in _gaps([line for line in lines if line.worker == worker], from_ms, to_ms)
        if (line := _meter_only(journal, worker, start, end)).requests
    ]
    return Reconciliation(from_ms=from_ms, to_ms=to_ms, zone=zone, lines=tuple(lines), uncovered=tuple(uncovered))


def _windows(before: Iterable[EngineReading], now: Iterable[EngineReading]) -> Iterator[_Window]:
    """Pair each engine process's last reading with its base; windows of one worker never overlap."""
    bases = {(reading.worker, reading.started_ms): reading for reading in before}
    in_order = sorted(now, key=lambda reading: (reading.worker, reading.started_ms))
    for _, readings in groupby(in_order, key=lambda reading: reading.worker):
        ended_ms = 0
        for last in readings:
            base = bases.get((last.worker, last.started_ms)) or _zero(last)
            if base.read_ms < last.read_ms:
                yield _Window(last, base, max(base.read_ms, ended_ms))
            ended_ms = max(ended_ms, last.read_ms)


def _zero(reading: EngineReading) -> EngineReading:
    """Give the reading of the engine's first moment."""
    return EngineReading(
        worker=reading.worker,
        pool=reading.pool,
        started_ms=reading.started_ms,
        read_ms=reading.started_ms,
        prompt_tokens=0,
        completion_tokens=0,
        probe_prompt_tokens=0,
        probe_completion_tokens=0,
    )


def _compare(journal: JournalReader, window: _Window) -> Line:
    last, base = window.last, window.base
    metered = _metered(journal, last.worker, window.from_ms, last.read_ms)
    return Line(
        worker=last.worker,
        pool=last.pool,
        engine_started_ms=last.started_ms,
        from_ms=window.from_ms,
        to_ms=last.read_ms,
        requests=metered.requests,
        engine_prompt_tokens=last.prompt_tokens - base.prompt_tokens,
        engine_completion_tokens=last.completion_tokens - base.completion_tokens,
        probe_prompt_tokens=last.probe_prompt_tokens - base.probe_prompt_tokens,
        probe_completion_tokens=last.probe_completion_tokens - base.probe_completion_tokens,
        metered_prompt_tokens=metered.prompt_tokens,
        metered_completion_tokens=metered.completion_tokens,
        undelivered_tokens=metered.undelivered_tokens,
    )


def _meter_only(journal: JournalReader, worker: str, from_ms: int, to_ms: int) -> Line:
    metered = _metered(journal, worker, from_ms, to_ms)
    return Line(
        worker=worker,
        from_ms=from_ms,
        to_ms=to_ms,
        requests=metered.requests,
        metered_prompt_tokens=metered.prompt_tokens,
        metered_completion_tokens=metered.completion_tokens,
        undelivered_tokens=metered.undelivered_tokens,
    )


def _metered(journal: JournalReader, worker: str, from_ms: int, to_ms: int) -> WorkerUsage:
    return journal.usage_by_worker(from_ms, to_ms, worker).get(worker, WorkerUsage())


def _gaps(lines: Iterable[Line], from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
    """Give the parts of the interval that no line covers."""
    at = from_ms
    for line in sorted(lines, key=lambda line: line.from_ms):
        if at < line.from_ms:
            yield at, line.from_ms
        at = max(at, line.to_ms)
    if at < to_ms:
        yield at, to_ms
