"""The two sides of reconciliation in SQL: engines' readings, and events by worker."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from gateway.core.outcome import Outcome
from gateway.core.usage import Flag, parts_from_json
from gateway.ports.journal import EngineReading
from gateway.ports.work import Engine, UnderWay, Work
from gateway.stores.database import Database
from gateway.stores.schema import engine_readings, meter_events

# No request is longer under way: a job waits for a day, then runs. It lets PostgreSQL leave out older partitions.
LONGEST_MS = 7 * 86_400_000
# What is under way at an instant and takes longer than this is left out: it keeps the look at an instant short.
STRADDLE_MS_MAX = 3_600_000
_UNDER_WAY_MAX = 20_000  # far above what one engine takes at once

_events = meter_events.c
_readings = engine_readings.c
_WHOLE = (Outcome.COMPLETED.label, Outcome.ENGINE_REFUSED.label)


class SqlWork:
    """The `WorkReader`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def readings_at(self, at_ms: int, engines: Collection[Engine] | None = None) -> Sequence[EngineReading]:
        with self._database.reading() as connection:
            if engines is None:
                return _all_readings(connection, at_ms)
            return list(_readings_of(connection, at_ms, engines))

    def work(self, from_ms: int, to_ms: int, worker: str | None = None) -> Mapping[str, Work]:
        query = (
            select(_events.worker, *_SUMS)
            .where(from_ms <= _events.ended_ms, _events.ended_ms < to_ms, _events.worker != "")
            .where(_events.arrived_ms >= from_ms - LONGEST_MS, _events.arrived_ms <= to_ms)
            .group_by(_events.worker)
        )
        if worker is not None:
            query = query.where(_events.worker == worker)
        with self._database.reading() as connection:
            found = {name: Work(*map(int, numbers)) for name, *numbers in connection.execute(query)}
            for name, prompt, completion in _carried(connection, from_ms, to_ms):
                if worker in (None, name):
                    before = found.get(name, Work())
                    found[name] = replace(
                        before,
                        carried_prompt_tokens=before.carried_prompt_tokens + prompt,
                        carried_completion_tokens=before.carried_completion_tokens + completion,
                    )
        return found

    def under_way(self, worker: str, at_ms: int) -> Sequence[UnderWay]:
        begun = _events.arrived_ms + func.coalesce(_events.queue_ms, 0)
        query = (
            select(
                begun.label("begun_ms"),
                # Of a whole answer the first byte is the last, and tells nothing of when the engine began to write.
                case((_events.is_stream, _events.arrived_ms + _events.ttft_ms)).label("first_ms"),
                _events.ended_ms,
                (_events.prompt_tokens * _events.choices).label("prompt_tokens"),
                (_events.completion_tokens + _events.undelivered_tokens).label("completion_tokens"),
            )
            .where(_events.worker == worker, at_ms <= _events.ended_ms, _events.ended_ms < at_ms + STRADDLE_MS_MAX)
            .where(_events.arrived_ms >= at_ms - LONGEST_MS, begun < at_ms)
            .limit(_UNDER_WAY_MAX)
        )
        with self._database.reading() as connection:
            return [UnderWay(**row) for row in connection.execute(query).mappings()]


def _carried(connection: Connection, from_ms: int, to_ms: int) -> Iterator[tuple[str, int, int]]:
    """Give each worker's part of the streams that several made, if it ended with it in [from_ms, to_ms)."""
    query = (
        select(_events.worker, _events.ended_ms, _events.carried_tokens, _events.carried_by)
        .where(_events.continued > 0, _events.ended_ms >= from_ms)
        .where(_events.arrived_ms >= from_ms - LONGEST_MS, _events.arrived_ms <= to_ms)
    )
    for last, ended_ms, carried_tokens, carried_by in connection.execute(query):
        parts = parts_from_json(carried_by)
        for part in parts:
            if from_ms <= part.ended_ms < to_ms:
                yield part.worker, part.prompt_tokens, part.completion_tokens
        if from_ms <= ended_ms < to_ms:
            yield last, carried_tokens, -sum(part.completion_tokens for part in parts)


def _all_readings(connection: Connection, at_ms: int) -> Sequence[EngineReading]:
    last = (
        select(_readings.worker, _readings.started_ms, func.max(_readings.read_ms).label("read_ms"))
        .where(_readings.read_ms <= at_ms)
        .group_by(_readings.worker, _readings.started_ms)
        .subquery()
    )
    is_last = (
        (_readings.worker == last.c.worker)
        & (_readings.started_ms == last.c.started_ms)
        & (_readings.read_ms == last.c.read_ms)
    )
    query = select(engine_readings).join(last, is_last).order_by(_readings.worker, _readings.started_ms)
    return [EngineReading(**row) for row in connection.execute(query).mappings()]


def _readings_of(connection: Connection, at_ms: int, engines: Collection[Engine]) -> Iterable[EngineReading]:
    for worker, started_ms in engines:
        query = (
            select(engine_readings)
            .where(_readings.worker == worker, _readings.started_ms == started_ms, _readings.read_ms <= at_ms)
            .order_by(_readings.read_ms.desc())
            .limit(1)
        )
        for row in connection.execute(query).mappings():
            yield EngineReading(**row)


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return _sum(case((condition, 1), else_=0))


_is_cut = _events.outcome.not_in(_WHOLE)
_is_unbilled = _events.flag == Flag.NONE.value
_SUMS = (  # in the order of Work's fields
    func.count(),
    _sum(_events.prompt_tokens),
    _sum(_events.completion_tokens),
    _sum(_events.undelivered_tokens),
    _sum(_events.prompt_tokens * (_events.choices - 1)),
    _count(_is_cut & ~_is_unbilled),
    _count(_is_cut & _is_unbilled),
    _sum(_events.attempts - 1 - _events.continued),
)
