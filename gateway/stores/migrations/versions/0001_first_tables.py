"""The first tables: directory, journal, engine readings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them, and the directory's version at zero."""
    _create_directory()
    _create_meter_events()
    _create_engine_readings()


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def _big(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _flag(name: str) -> "sa.Column[bool]":
    return sa.Column(name, sa.Boolean(), nullable=False)


def _create_directory() -> None:
    state = op.create_table(
        "directory_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        _big("version"),
        sa.PrimaryKeyConstraint("id", name="pk_directory_state"),
    )
    op.bulk_insert(state, [{"id": 1, "version": 0}])
    op.create_table(
        "tenants",
        *map(_text, ("id", "name", "service_class")),
        _flag("is_suspended"),
        _big("version"),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
    )
    op.create_table(
        "keys",
        *map(_text, ("id", "tenant", "project", "name", "digest", "hint")),
        _big("created_ms"),
        _big("expires_ms", nullable=True),
        _flag("is_revoked"),
        _big("version"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name="fk_keys_tenant"),
    )
    op.create_table(
        "models",
        *map(_text, ("name", "pool")),
        _big("created_ms"),
        _flag("is_retired"),
        _big("version"),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])
    for table in ("tenants", "keys", "models"):
        op.create_index(f"ix_{table}_version", table, ["version"])


def _create_meter_events() -> None:
    op.create_table(
        "meter_events",
        *map(
            _text, ("id", "tenant", "project", "key", "model", "pool", "worker", "gateway", "service_class", "outcome")
        ),
        sa.Column("status", sa.Integer(), nullable=False),
        _text("flag"),
        _flag("is_stream"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        *map(_big, ("arrived_ms", "ended_ms")),
        *(_big(name, nullable=True) for name in ("queue_ms", "ttft_ms")),
        *map(_big, ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "undelivered_tokens")),
        sa.PrimaryKeyConstraint("id", name="pk_meter_events"),
    )
    op.create_index("ix_meter_events_arrived_ms", "meter_events", ["arrived_ms"])
    op.create_index("ix_meter_events_tenant_arrived_ms", "meter_events", ["tenant", "arrived_ms"])
    op.create_index("ix_meter_events_worker_ended_ms", "meter_events", ["worker", "ended_ms"])


def _create_engine_readings() -> None:
    op.create_table(
        "engine_readings",
        _text("worker"),
        *(sa.Column(name, sa.BigInteger(), autoincrement=False, nullable=False) for name in ("started_ms", "read_ms")),
        _text("pool"),
        *map(_big, ("prompt_tokens", "completion_tokens", "probe_prompt_tokens", "probe_completion_tokens")),
        sa.PrimaryKeyConstraint("worker", "started_ms", "read_ms", name="pk_engine_readings"),
    )
