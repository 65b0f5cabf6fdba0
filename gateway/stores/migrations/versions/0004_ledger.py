"""
The ledger: events with what they cost, in monthly partitions on PostgreSQL, and their sums by hour and by day.

What was written before has no price and is summed as unrated. An older gateway cannot write to the new table, which
asks for columns that it does not know: its spool keeps its events until it is upgraded too, and none escapes the sums.
"""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = (("arrived_ms",), ("tenant", "arrived_ms"), ("worker", "ended_ms"))
_TEXTS = ("tenant", "project", "key", "model", "pool", "service_class", "outcome", "flag", "price")
_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "images", "audio_ms")
_MEASURES = ("requests", *_SUMS, "cost_nano")
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_UNRATED = -1
_ROWS = 1000


def upgrade() -> None:
    """Move the events into the new table, and sum them."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    op.rename_table("meter_events", "meter_events_before")
    for columns in _INDEXES:
        op.drop_index(op.f(f"ix_meter_events_{'_'.join(columns)}"))
    if is_postgresql:
        op.drop_constraint("pk_meter_events", "meter_events_before")
    events = _create_meter_events()
    if is_postgresql:
        _create_partitions()
    _move(events)
    lines = _create_lines()
    known: set[str] = set()
    for table, unit_ms in (("usage_hours", _HOUR_MS), ("usage_days", _DAY_MS)):
        _fill(_create_rollup(table, is_postgresql=is_postgresql), lines, _sums(events, unit_ms), known)


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def _big(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False)


def _int(name: str, default: str | None = None) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False, server_default=default)


def _create_meter_events() -> sa.Table:
    events = op.create_table(
        "meter_events",
        *map(
            _text, ("id", "tenant", "project", "key", "model", "pool", "worker", "gateway", "service_class", "outcome")
        ),
        _int("status"),
        _text("flag"),
        sa.Column("is_stream", sa.Boolean(), nullable=False),
        _int("attempts"),
        *map(_big, ("arrived_ms", "ended_ms")),
        *(_big(name, nullable=True) for name in ("queue_ms", "ttft_ms")),
        *map(_big, ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "undelivered_tokens")),
        sa.Column("price", sa.Text(), nullable=False, server_default=""),
        _int("choices", "1"),
        *(sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in ("images", "audio_ms")),
        _int("tier"),
        _big("cost_nano", nullable=True),
        _text("currency"),
        sa.PrimaryKeyConstraint("id", "arrived_ms", name="pk_meter_events"),
        postgresql_partition_by="RANGE (arrived_ms)",
    )
    for columns in _INDEXES:
        op.create_index(op.f(f"ix_meter_events_{'_'.join(columns)}"), "meter_events", list(columns))
    return events


def _create_partitions() -> None:
    """Make the two for times that no clock of ours should show, and one for each month of which there are events."""
    first, last = _month_ms(2020, 1), _month_ms(2100, 1)
    _create_partition("meter_events_before_2020", "MINVALUE", str(first))
    _create_partition("meter_events_from_2100", str(last), "MAXVALUE")
    months = sa.text(
        "SELECT DISTINCT extract(year FROM at)::int, extract(month FROM at)::int FROM (SELECT"
        " to_timestamp(arrived_ms / 1000) AT TIME ZONE 'UTC' AS at FROM meter_events_before"
        " WHERE arrived_ms >= :first AND arrived_ms < :last) AS found"
    )
    for year, month in op.get_bind().execute(months, {"first": first, "last": last}).all():
        after = (year + 1, 1) if month == 12 else (year, month + 1)
        _create_partition(f"meter_events_{year}_{month:02}", str(_month_ms(year, month)), str(_month_ms(*after)))


def _create_partition(name: str, first: str, last: str) -> None:
    op.execute(f"CREATE TABLE {name} PARTITION OF meter_events FOR VALUES FROM ({first}) TO ({last})")


def _month_ms(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000


def _move(events: sa.Table) -> None:
    before = sa.Table("meter_events_before", sa.MetaData(), autoload_with=op.get_bind())
    rated = (sa.literal(_UNRATED), sa.literal(""))
    op.execute(events.insert().from_select([*before.c.keys(), "tier", "currency"], sa.select(*before.c, *rated)))
    op.drop_table("meter_events_before")


def _create_lines() -> sa.Table:
    lines = op.create_table(
        "usage_lines",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        *map(_text, _TEXTS),
        _int("tier"),
        sa.PrimaryKeyConstraint("id", name="pk_usage_lines"),
    )
    op.create_index(op.f("ix_usage_lines_tenant"), "usage_lines", ["tenant"])
    return lines


def _create_rollup(name: str, *, is_postgresql: bool) -> sa.Table:
    # SQLite makes an inexact float of a sum that has no room in 64 bits; PostgreSQL refuses it by itself.
    whole = " AND ".join(f"typeof({measure}) = 'integer'" for measure in _MEASURES)
    rollup = op.create_table(
        name,
        _big("at_ms"),
        sa.Column("line", sa.Uuid(as_uuid=False), nullable=False),
        *map(_big, _MEASURES),
        sa.PrimaryKeyConstraint("at_ms", "line", name=f"pk_{name}"),
        *([] if is_postgresql else [sa.CheckConstraint(whole)]),
        sqlite_with_rowid=False,
        postgresql_with={"fillfactor": 70},  # room for a row's next version beside it: its index stays as it is
    )
    op.create_index(op.f(f"ix_{name}_line_at_ms"), name, ["line", "at_ms"])
    return rollup


def _fill(
    rollup: sa.Table, lines: sa.Table, sums: Iterator[tuple[dict[str, Any], dict[str, Any]]], known: set[str]
) -> None:
    """Write sums with their lines, those that are not *known* yet."""
    while found := list(islice(sums, _ROWS)):
        new = {line["id"]: line for _, line in found if line["id"] not in known}
        op.bulk_insert(lines, list(new.values()))
        op.bulk_insert(rollup, [row for row, _ in found])
        known.update(new)


def _sums(events: sa.Table, unit_ms: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Sum the events by hour or day and line; gives rows of the rollup, each with its line."""
    at = events.c.arrived_ms
    # A request for a model that there is not has no pool; its model is whatever a client made up.
    model = sa.case((events.c.pool == "", ""), else_=events.c.model)
    groups = [
        at - (at % unit_ms + unit_ms) % unit_ms,
        *(model if name == "model" else events.c[name] for name in _TEXTS),
    ]
    query = sa.select(*groups, sa.func.count(), *(sa.func.sum(events.c[name]) for name in _SUMS)).group_by(*groups)
    for at_ms, *values in op.get_bind().execute(query):
        texts, measures = values[: len(_TEXTS)], map(int, values[len(_TEXTS) :])
        line = hashlib.sha256(json.dumps([*texts, _UNRATED]).encode()).hexdigest()[:32]
        sums = dict(zip(_MEASURES, (*measures, 0), strict=True))
        yield (
            {"at_ms": at_ms, "line": line, **sums},
            {"id": line, **dict(zip(_TEXTS, texts, strict=True)), "tier": _UNRATED},
        )
