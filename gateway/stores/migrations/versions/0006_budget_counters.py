"""Budgets: what each has spent, what was paid in advance, who has been told; and from when they count."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the tables empty; nobody could declare a budget before."""
    op.add_column("budgets", sa.Column("zone", sa.Text(), nullable=False, server_default="UTC"))
    op.add_column("budgets", sa.Column("since_ms", sa.BigInteger(), nullable=False, server_default="0"))
    _create_counters()
    _create_transfers()
    _create_alerts()


def _create_counters() -> None:
    op.create_table(
        "budget_counters",
        _text("budget"),
        *map(_big, ("period_ms", "spent", "version", "filled", "filled_ms")),
        sa.PrimaryKeyConstraint("budget", "period_ms", name=op.f("pk_budget_counters")),
    )
    op.create_index(op.f("ix_budget_counters_period_ms"), "budget_counters", ["period_ms"])


def _create_transfers() -> None:
    op.create_table(
        "transfers",
        _text("id"),
        _big("at_ms"),
        *map(_text, ("debit", "credit")),
        _big("amount_nano"),
        *map(_text, ("currency", "reason", "reference")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sa.UniqueConstraint("reference", name=op.f("uq_transfers_reference")),
        sa.CheckConstraint("amount_nano > 0", name=op.f("ck_transfers_amount")),
    )
    for account in ("debit", "credit"):
        op.create_index(op.f(f"ix_transfers_{account}_at_ms"), "transfers", [account, "at_ms"])


def _create_alerts() -> None:
    op.create_table(
        "budget_alerts",
        _text("budget"),
        _big("period_ms"),
        _int("percent"),
        *map(_big, ("spent", "amount", "noted_ms", "due_ms")),
        _int("attempts"),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("budget", "period_ms", "percent", name=op.f("pk_budget_alerts")),
    )
    op.create_index(op.f("ix_budget_alerts_ended_ms_due_ms"), "budget_alerts", ["ended_ms", "due_ms"])


def _text(name: str) -> "sa.Column[str]":
    return sa.Column(name, sa.Text(), nullable=False)


def _big(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)


def _int(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer(), nullable=False, autoincrement=False)
