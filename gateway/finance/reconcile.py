"""
Reconciliation: the engines' own token counters against what was metered, to the last token.

An engine's counters are read about once a second and begin at zero when its process starts. Two readings bound a
*window*: the engine made the difference of their counters in it, and the requests that ended in it were metered. What
the engine made beyond probes, metered and undelivered tokens is the *residue*. Of it, prompts that engines count once
for each choice are known, and what requests had got that were under way at the window's ends is known nearly: tokens
come at an even pace. The rest is *unexplained*: what engines did for clients that had left and for tries that failed,
which events can count but not measure. Less than nothing means that more was metered than made: that must not be.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from gateway.core.zones import local_time
from gateway.finance.residue import COLUMNS, Line, Residue, residues
from gateway.ports.journal import EngineReading
from gateway.ports.work import Engine, UnderWay, Work, WorkReader


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
        names = [name for name in COLUMNS if name.endswith(("_tokens", "requests", "retries"))]
        records = [line.to_json() for line in self.lines]
        return {name: sum(record[name] for record in records) for name in names}

    def residues(self) -> list[Residue]:
        """Sum up each worker's lines."""
        return residues(self.lines)

    def to_json(self) -> dict[str, Any]:
        """Give it as plain data; the field names are stable."""
        return {
            "from": local_time(self.from_ms, self.zone).isoformat(),
            "to": local_time(self.to_ms, self.zone).isoformat(),
            "zone": self.zone.key,
            "lines": [line.to_json() for line in self.lines],
            "totals": self.totals(),
            "workers": [residue.to_json() for residue in self.residues()],
            "uncovered": [line.to_json() for line in self.uncovered],
        }


@dataclass(frozen=True, slots=True)
class _Window:
    """The last reading of an engine process in the interval, and the one its counters are compared with."""

    last: EngineReading
    base: EngineReading
    from_ms: int


def reconcile(journal: WorkReader, from_ms: int, to_ms: int, zone: ZoneInfo) -> Reconciliation:
    """
    Compare engines and Journal over [from_ms, to_ms). Blocking. Raises StoreUnavailable.

    A window reaches from the last reading before the interval, or the engine's start, to the last reading in it; so
    windows of adjoining intervals adjoin, and no token is in two of them or in none.
    """
    lines = compare(journal, from_ms, to_ms)
    seen = set(journal.work(from_ms, to_ms))
    uncovered = [
        line
        for worker in sorted(seen)
        for start, end in _gaps([line for line in lines if line.worker == worker], from_ms, to_ms)
        if (line := _line(worker, start, end, _work(journal, worker, start, end))).requests
    ]
    return Reconciliation(from_ms=from_ms, to_ms=to_ms, zone=zone, lines=tuple(lines), uncovered=tuple(uncovered))


def compare(journal: WorkReader, from_ms: int, to_ms: int, engines: Collection[Engine] | None = None) -> list[Line]:
    """Give the lines that readings cover, all of them or those of *engines*. Blocking. Raises StoreUnavailable."""
    windows = _windows(journal.readings_at(from_ms, engines), journal.readings_at(to_ms, engines))
    return [_compare(journal, window) for window in windows]


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


def _compare(journal: WorkReader, window: _Window) -> Line:
    last, base = window.last, window.base
    work = _work(journal, last.worker, window.from_ms, last.read_ms)
    at_end = _made(journal.under_way(last.worker, last.read_ms), last.read_ms)
    at_start = _made(journal.under_way(last.worker, base.read_ms), base.read_ms) if base.prompt_tokens else (0, 0)
    return _line(
        last.worker,
        window.from_ms,
        last.read_ms,
        work,
        pool=last.pool,
        engine_started_ms=last.started_ms,
        engine_prompt_tokens=last.prompt_tokens - base.prompt_tokens,
        engine_completion_tokens=last.completion_tokens - base.completion_tokens,
        probe_prompt_tokens=last.probe_prompt_tokens - base.probe_prompt_tokens,
        probe_completion_tokens=last.probe_completion_tokens - base.probe_completion_tokens,
        in_flight_prompt_tokens=at_end[0] - at_start[0],
        in_flight_completion_tokens=at_end[1] - at_start[1],
    )


def _line(worker: str, from_ms: int, to_ms: int, work: Work, **engine: Any) -> Line:
    return Line(
        worker=worker,
        from_ms=from_ms,
        to_ms=to_ms,
        requests=work.requests,
        metered_prompt_tokens=work.prompt_tokens,
        metered_completion_tokens=work.completion_tokens,
        undelivered_tokens=work.undelivered_tokens,
        choices_prompt_tokens=work.choices_prompt_tokens,
        cut_requests=work.cut_requests,
        unanswered_requests=work.unanswered_requests,
        retries=work.retries,
        carried_prompt_tokens=work.carried_prompt_tokens,
        carried_completion_tokens=work.carried_completion_tokens,
        **engine,
    )


def _work(journal: WorkReader, worker: str, from_ms: int, to_ms: int) -> Work:
    return journal.work(from_ms, to_ms, worker).get(worker, Work())


def _made(requests: Iterable[UnderWay], at_ms: int) -> tuple[int, int]:
    """Give the tokens, of prompts and of answers, that engines had counted by *at_ms* for requests under way then."""
    prompt = completion = 0
    for request in requests:
        first_ms = request.begun_ms if request.first_ms is None else request.first_ms
        if first_ms <= at_ms:  # an engine counts a prompt with its first token
            prompt += request.prompt_tokens
            completion += round(request.completion_tokens * (at_ms - first_ms) / max(1, request.ended_ms - first_ms))
    return prompt, completion


def _gaps(lines: Iterable[Line], from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
    """Give the parts of the interval that no line covers."""
    at = from_ms
    for line in sorted(lines, key=lambda line: line.from_ms):
        if at < line.from_ms:
            yield at, line.from_ms
        at = max(at, line.to_ms)
    if at < to_ms:
        yield at, to_ms
