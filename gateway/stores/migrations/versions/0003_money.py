"""What is declared about money (prices, limits, budgets), and what an event must carry to be rated."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_BOUNDED = (("scope", sa.Text), ("subject", sa.Text), ("tenant", sa.Text), ("model", sa.Text))


def upgrade() -> None:
    """Create the tables empty; events before them have no price."""
    _create_prices()
    _create("limits", *_BOUNDED, ("metric", sa.Text), ("amount", sa.BigInteger), ("is_removed", sa.Boolean))
    budget = (("kind", sa.Text), ("period", sa.Text), ("amount", sa.BigInteger), ("currency", sa.Text))
    alerts = (("alert_percents", sa.Text), ("webhook_url", sa.Text))
    _create("budgets", *_BOUNDED, *budget, ("is_hard", sa.Boolean), *alerts, ("is_removed", sa.Boolean))
    for table in ("limits", "budgets"):
        op.create_index(op.f(f"ix_{table}_tenant"), table, ["tenant"])
    op.add_column("meter_events", sa.Column("price", sa.Text(), nullable=False, server_default=""))
    op.add_column("meter_events", sa.Column("choices", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("meter_events", sa.Column("images", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("meter_events", sa.Column("audio_ms", sa.BigInteger(), nullable=False, server_default="0"))


def _create_prices() -> None:
    scope = (("model", sa.Text), ("pool", sa.Text), ("tenant", sa.Text), ("from_ms", sa.BigInteger))
    what = (("currency", sa.Text), ("tiers", sa.Text), ("batch_thousandths", sa.Integer), ("is_withdrawn", sa.Boolean))
    _create("prices", *scope, *what)
    op.add_column("prices", sa.Column("to_ms", sa.BigInteger(), nullable=True))


def _create(table: str, *columns: tuple[str, Any]) -> None:
    """Create a table of the Directory: an id, *columns* that are never empty, the version of the last change."""
    op.create_table(
        table,
        sa.Column("id", sa.Text(), nullable=False),
        *(sa.Column(name, kind(), nullable=False) for name, kind in columns),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    )
    op.create_index(op.f(f"ix_{table}_version"), table, ["version"])
