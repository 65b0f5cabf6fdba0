"""Pools as sluice.yaml declares them, what was applied of it, and names that several pools share."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create both tables empty; every name that is known was declared by hand, for one pool."""
    op.add_column("models", sa.Column("weights", sa.Text(), nullable=False, server_default="{}"))
    op.add_column("models", sa.Column("is_from_file", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "pools",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_removed", sa.Boolean(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pools")),
    )
    op.create_index(op.f("ix_pools_version"), "pools", ["version"])
    op.create_table(
        "applied",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("who", "digest")),
        sa.Column("rolls_back_to", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_applied")),
    )
