"""Time limits and errors of the one door to SQL."""

import socket
import sqlite3
import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text

from gateway.core.directory import Tenant
from gateway.errors import InvalidInput, StoreUnavailable
from gateway.stores.database import Database, sqlite_file
from gateway.stores.schema import check_schema, metadata, meter_events, migrate
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from tests.meter_events import event
from tests.servers.postgres_server import PASSWORD
from tests.tidy.source import ROOT
from tests.waiting import let_run_s

TIMEOUT_S = 2.0
SLACK_S = 1.0


@pytest.fixture
def impatient(database_url):
    database = Database(database_url, timeout_s=TIMEOUT_S)
    yield database
    database.close()


def assert_unavailable_in_time(call):
    started_s = let_run_s()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    assert let_run_s() - started_s < TIMEOUT_S + SLACK_S
    assert caught.value.store == "database"
    assert PASSWORD not in str(caught.value)


@pytest.mark.postgres
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "not_connected"])
def test_a_frozen_server_is_unavailable_within_the_limit_and_back_at_once(postgres_server, postgres_url, is_connected):
    migrate(postgres_url)
    database = Database(postgres_url, timeout_s=TIMEOUT_S)
    journal, directory = SqlJournal(database), SqlDirectory(database)
    if is_connected:
        journal.append([event(1)])
    with postgres_server.frozen():
        assert_unavailable_in_time(lambda: journal.append([event(2)]))
        assert_unavailable_in_time(lambda: directory.changes_since(0))
        assert_unavailable_in_time(lambda: directory.put_tenant(Tenant(id="a", name="A")))
    assert journal.append([event(2), event(3)]).new >= 1
    database.close()


@pytest.mark.postgres
def test_a_server_that_freezes_inside_a_transaction_is_unavailable_within_the_limit(postgres_server, postgres_url):
    database = Database(postgres_url, timeout_s=TIMEOUT_S)

    def freeze_half_way():
        with database.writing() as connection:
            connection.execute(text("SELECT 1"))
            with postgres_server.frozen():
                connection.execute(text("SELECT 2"))

    assert_unavailable_in_time(freeze_half_way)
    database.close()


@pytest.mark.postgres
def test_a_server_that_was_restarted_is_used_again_without_an_error(postgres_server, postgres_url):
    migrate(postgres_url)
    database = Database(postgres_url, timeout_s=TIMEOUT_S)
    journal = SqlJournal(database)
    journal.append([event(1)])
    postgres_server.stop()
    assert_unavailable_in_time(lambda: journal.append([event(2)]))
    postgres_server.start()
    assert journal.append([event(1), event(2)]).new == 1
    database.close()


@pytest.mark.postgres
def test_a_statement_that_runs_too_long_is_ended_within_the_limit(postgres_url):
    database = Database(postgres_url, timeout_s=TIMEOUT_S)

    def sleep():
        with database.reading() as connection:
            connection.execute(text("SELECT pg_sleep(30)"))

    assert_unavailable_in_time(sleep)
    database.close()


@pytest.mark.postgres
def test_a_wrong_password_is_reported_without_telling_it(postgres_url):
    database = Database(postgres_url.replace(PASSWORD, "another-word"), timeout_s=TIMEOUT_S)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        SqlDirectory(database).tenants()
    assert "another-word" not in str(caught.value)
    assert "another-word" not in repr(database)


def test_a_host_that_takes_connections_and_says_nothing_is_unavailable_within_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database(f"postgresql://sluice:{PASSWORD}@127.0.0.1:{port}/x", timeout_s=TIMEOUT_S)
        assert_unavailable_in_time(lambda: SqlDirectory(database).tenants())


def test_a_port_where_nobody_listens_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    database = Database(f"postgresql://sluice:{PASSWORD}@127.0.0.1:{port}/x", timeout_s=TIMEOUT_S)
    assert_unavailable_in_time(lambda: SqlDirectory(database).tenants())


def test_a_writer_that_waits_too_long_for_another_is_told_so_in_time(database, impatient):
    with database.writing() as connection:
        connection.execute(text("UPDATE directory_state SET version = version + 1"))
        assert_unavailable_in_time(lambda: SqlDirectory(impatient).put_tenant(Tenant(id="a", name="A")))


def test_a_writer_waits_for_another_and_then_writes(database, impatient):
    holds, release = threading.Event(), threading.Event()

    def hold():
        with database.writing() as connection:
            connection.execute(text("UPDATE directory_state SET version = version + 1"))
            holds.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(10)
    threading.Timer(0.2, release.set).start()
    SqlDirectory(impatient).put_tenant(Tenant(id="a", name="A"))
    holder.join()
    assert SqlDirectory(database).changes_since(0).version == 2


def sqlite_held_by_another(path):
    """A connection amid writing to a file that is not WAL yet, as that of whoever migrates first."""
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    holder.execute("CREATE TABLE a (b INTEGER)")
    return holder


def test_a_file_that_another_is_making_is_waited_for(tmp_path):
    holder = sqlite_held_by_another(tmp_path / "sluice.db")
    threading.Timer(0.2, lambda: holder.execute("COMMIT")).start()
    database = Database(f"sqlite:///{tmp_path / 'sluice.db'}", timeout_s=TIMEOUT_S)
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM a")).scalar() == 0
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    holder.close()
    database.close()


def test_a_file_that_another_never_lets_go_of_is_unavailable_within_the_limit(tmp_path):
    holder = sqlite_held_by_another(tmp_path / "sluice.db")
    database = Database(f"sqlite:///{tmp_path / 'sluice.db'}", timeout_s=TIMEOUT_S)
    assert_unavailable_in_time(lambda: SqlDirectory(database).tenants())
    holder.close()
    database.close()


def test_migrations_lead_to_the_schema_that_the_code_uses(database):
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_no_partition})
        assert compare_metadata(context, metadata) == []


def is_no_partition(name, kind, _parents):
    return not (kind == "table" and name.startswith("meter_events_"))


def test_a_database_of_the_first_version_is_brought_up_to_date_with_what_it_holds(empty_url):
    """Tenants then weigh one and keys are of their tenant's class; the older version may go on writing meanwhile."""
    migrate_to(empty_url, "0001")
    database = Database(empty_url)
    with pytest.raises(InvalidInput, match="sluice migrate"):
        check_schema(database)
    old_tenant = (
        "INSERT INTO tenants (id, name, service_class, is_suspended, version) VALUES (:id, 'A', 'batch', :no, 1)"
    )
    old_key = (
        "INSERT INTO keys (id, tenant, project, name, digest, hint, created_ms, is_revoked, version)"
        " VALUES ('k', 'a', 'p', '', 'd', 'h', 1, :no, 1)"
    )
    with database.writing() as connection:
        connection.execute(text(old_tenant), {"id": "a", "no": False})
        connection.execute(text(old_key), {"no": False})
    migrate(empty_url)
    check_schema(database)
    with database.writing() as connection:
        connection.execute(text(old_tenant), {"id": "b", "no": False})
    directory = SqlDirectory(database)
    a, b = (Tenant(id=identity, name="A", service_class="batch", weight=1) for identity in "ab")
    assert directory.tenants() == [a, b]
    assert directory.key("k").service_class is None
    database.close()


def migrate_to(url, revision):
    """Give an empty database the tables of an older version."""
    if file := sqlite_file(url):
        file.touch()
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "gateway/stores/migrations"))
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    database.close()


def test_the_journal_has_a_column_for_each_field_of_an_event():
    assert set(meter_events.c.keys()) == {*event().__slots__, "tier", "cost_nano", "currency"}


def test_migrating_twice_and_at_the_same_time_is_harmless(empty_url):
    with_errors = []

    def run():
        try:
            migrate(empty_url)
        except Exception as error:  # noqa: BLE001  whatever it is, the main thread shall see it
            with_errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert with_errors == []
    database = Database(empty_url)
    check_schema(database)
    database.close()


@pytest.mark.postgres
def test_a_database_without_tables_says_to_migrate(postgres_url):
    database = Database(postgres_url)
    with pytest.raises(InvalidInput, match="sluice migrate"):
        check_schema(database)
    database.close()


def test_a_sqlite_file_is_made_by_migrating_alone(tmp_path):
    with pytest.raises(InvalidInput, match="sluice migrate"):
        Database(f"sqlite:///{tmp_path / 'sluice.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_database_from_a_newer_sluice_is_not_touched(database):
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidInput, match="Upgrade Sluice"):
        check_schema(database)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("mysql://u:secret@h/d", "only sqlite and postgresql"),
        ("sqlite://", "needs a file"),
        ("not a url", "postgresql://user"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_can(url, advice):
    with pytest.raises(InvalidInput, match=advice) as caught:
        Database(url)
    assert "secret" not in str(caught.value)
