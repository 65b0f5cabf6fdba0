"""Requests that are open, for the case that a gateway's host is lost with its disk, and the clock of their leases."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create both; the clock begins at zero."""
    op.create_table(
        "open_requests",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "event", "usage", "gateway")),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("at_ms", "lease_until_ms")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_open_requests")),
    )
    op.create_index(op.f("ix_open_requests_lease_until_ms"), "open_requests", ["lease_until_ms"])
    clock = op.create_table(
        "open_clock",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("at_ms", "seen_ms")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_open_clock")),
    )
    op.bulk_insert(clock, [{"id": 1, "at_ms": 0, "seen_ms": 0}])
