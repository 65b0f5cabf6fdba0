"""Streams that several workers made: how many went on with one, from where, and what those before the last one did."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns; no older stream was continued. An older version continues none, and leaves them out."""
    op.add_column("meter_events", sa.Column("continued", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("meter_events", sa.Column("carried_tokens", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("meter_events", sa.Column("carried_by", sa.Text(), nullable=False, server_default=""))
    op.create_index(
        op.f("ix_meter_events_ended_ms"),
        "meter_events",
        ["ended_ms"],
        postgresql_where=sa.text("continued > 0"),
        sqlite_where=sa.text("continued > 0"),
    )
