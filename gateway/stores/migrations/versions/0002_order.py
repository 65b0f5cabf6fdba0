"""What operators declare about order: a tenant's weight, a key's class."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them with values that change nothing: every tenant weighs one, every key is of its tenant's class."""
    op.add_column("tenants", sa.Column("weight", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("keys", sa.Column("service_class", sa.Text(), nullable=True))
