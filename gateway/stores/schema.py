"""The tables, and their version: `migrate` brings a database up to date, `check_schema` says whether it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
)
from sqlalchemy import text as sql

from gateway.errors import InvalidInput
from gateway.stores.database import Database, sqlite_file

MIGRATION_TIMEOUT_S = 600.0  # building an index over a large journal takes minutes
LINE_TEXTS = ("tenant", "project", "key", "model", "pool", "service_class", "outcome", "flag", "price")
USAGE_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
USAGE_MEASURES = ("requests", *USAGE_TOKENS, "images", "audio_ms", "cost_nano")
_LOCK = 0x51_1C_E0  # any number that nobody else uses: PostgreSQL's advisory locks are named by number

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

directory_state = Table(
    "directory_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
)

tenants = Table(
    "tenants",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("service_class", Text, nullable=False),
    Column("weight", Integer, nullable=False, server_default="1"),  # the older version still writes while we upgrade
    Column("is_suspended", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("project", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("service_class", Text),
    Column("is_revoked", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("pool", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("is_retired", Boolean, nullable=False),
    Column("weights", Text, nullable=False, server_default="{}"),  # JSON: pool → weight
    Column("is_from_file", Boolean, nullable=False, server_default=false()),
    Column("version", BigInteger, nullable=False, index=True),
)

pools = Table(
    "pools",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_removed", Boolean, nullable=False),
    Column("spec", Text, nullable=False),  # JSON, as core/pools.py writes it
    Column("version", BigInteger, nullable=False, index=True),
)

applied = Table(
    "applied",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("rolls_back_to", Integer),
    Column("text", Text, nullable=False),  # the sections of sluice.yaml that were applied, never its settings
)

prices = Table(
    "prices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("to_ms", BigInteger),
    Column("currency", Text, nullable=False),
    Column("tiers", Text, nullable=False),  # JSON, as core/prices.py writes it
    Column("batch_thousandths", Integer, nullable=False),
    Column("is_withdrawn", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
)

limits = Table(
    "limits",
    metadata,
    Column("id", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", Text, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("is_removed", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("tenant", Text, nullable=False, index=True),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("period", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("is_hard", Boolean, nullable=False),
    Column("alert_percents", Text, nullable=False),
    Column("webhook_url", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("is_removed", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False, index=True),
)

# Caches: what each budget has spent in each of its periods, kept in the transactions that append events and transfers.
budget_counters = Table(
    "budget_counters",
    metadata,
    Column("budget", Text, primary_key=True),
    Column("period_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("spent", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("filled", BigInteger, nullable=False),  # of a prepaid one: what there was after the last money in …
    Column("filled_ms", BigInteger, nullable=False),  # … and when that came
    Index(None, "period_ms"),
)

transfers = Table(
    "transfers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("debit", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reference", Text, nullable=False),
    UniqueConstraint("reference", name="uq_transfers_reference"),
    CheckConstraint("amount_nano > 0", name="ck_transfers_amount"),
    Index(None, "debit", "at_ms"),
    Index(None, "credit", "at_ms"),
)

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("budget", Text, primary_key=True),
    Column("period_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("percent", Integer, primary_key=True, autoincrement=False),
    Column("spent", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("noted_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("ended_ms", BigInteger),
    Index(None, "ended_ms", "due_ms"),
)

meter_events = Table(
    "meter_events",
    metadata,
    # A partitioned table's key must hold what it is partitioned by. That ids stay unique: an event's arrival is
    # frozen with its id, which begins with it, so the same event always comes with the same arrived_ms.
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("service_class", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("flag", Text, nullable=False),
    Column("is_stream", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("arrived_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("queue_ms", BigInteger),
    Column("ttft_ms", BigInteger),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("undelivered_tokens", BigInteger, nullable=False),
    Column("price", Text, nullable=False, server_default=""),
    Column("choices", Integer, nullable=False, server_default="1"),
    Column("images", BigInteger, nullable=False, server_default="0"),
    Column("audio_ms", BigInteger, nullable=False, server_default="0"),
    Column("continued", Integer, nullable=False, server_default="0"),
    Column("carried_tokens", BigInteger, nullable=False, server_default="0"),
    Column("carried_by", Text, nullable=False, server_default=""),  # JSON, as core/usage.py writes it
    # No defaults: an older version, which knows neither these nor the rollups, must not write here.
    Column("tier", Integer, nullable=False),
    Column("cost_nano", BigInteger),
    Column("currency", Text, nullable=False),
    Index(None, "arrived_ms"),
    Index(None, "tenant", "arrived_ms"),
    Index(None, "worker", "ended_ms"),
    Index(None, "ended_ms", postgresql_where=sql("continued > 0"), sqlite_where=sql("continued > 0")),
    postgresql_partition_by="RANGE (arrived_ms)",
)

usage_lines = Table(
    "usage_lines",
    metadata,
    Column("id", Uuid(as_uuid=False), primary_key=True),  # a digest of the other columns
    *(Column(name, Text, nullable=False, index=name == "tenant" or None) for name in LINE_TEXTS),
    Column("tier", Integer, nullable=False),
)


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("at_ms", BigInteger, primary_key=True, autoincrement=False),  # where the hour or day (UTC) begins
        Column("line", Uuid(as_uuid=False), primary_key=True),
        *(Column(measure, BigInteger, nullable=False) for measure in USAGE_MEASURES),
        Index(None, "line", "at_ms"),
        sqlite_with_rowid=False,
    )


usage_hours = _rollup("usage_hours")
usage_days = _rollup("usage_days")

engine_readings = Table(
    "engine_readings",
    metadata,
    Column("worker", Text, primary_key=True),
    Column("started_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("read_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("pool", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("probe_prompt_tokens", BigInteger, nullable=False),
    Column("probe_completion_tokens", BigInteger, nullable=False),
)

open_requests = Table(
    "open_requests",
    metadata,
    Column("id", Text, primary_key=True),
    Column("event", Text, nullable=False),  # JSON, as in the spool's OPEN
    Column("usage", Text, nullable=False),  # JSON, as in the spool's PROGRESS
    Column("gateway", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False, index=True),  # by open_clock, not by any machine's
)

open_clock = Table(
    "open_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)


def migrate(url: str) -> str:
    """
    Create the tables or bring them up to date; gives the schema's version. Safe to run twice, also at the same time.

    Raises InvalidInput for a wrong URL, StoreUnavailable if the database does not answer.
    """
    if file := sqlite_file(url):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    database = Database(url, timeout_s=MIGRATION_TIMEOUT_S)
    config = _alembic()
    try:
        with database.writing() as connection:
            if database.dialect == "postgresql":
                connection.execute(sql("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        database.close()
    return _head(config)


def check_schema(database: Database) -> None:
    """Raise InvalidInput, saying what to do, unless the tables are those of this version of Sluice."""
    with database.reading() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    config = _alembic()
    needed = _head(config)
    if found == needed:
        return
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found and found not in known:
        raise InvalidInput(f"The database's tables are of version {found}, newer than this Sluice. Upgrade Sluice.")
    raise InvalidInput(f"The database's tables are of version {found or 'none'}, not {needed}. Run `sluice migrate`.")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head, "the package has no migrations"
    return head
