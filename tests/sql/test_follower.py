"""The data plane's view of the Directory, against real databases."""

import asyncio
import stat
from dataclasses import asdict, replace
from functools import partial

import pytest
from sqlalchemy import insert, text, update

from gateway.control.keys import create_key
from gateway.control.tenants import set_tenant
from gateway.core.directory import Model, Snapshot, Tenant
from gateway.core.ids import digest
from gateway.errors import StoreUnavailable
from gateway.stores.database import Database
from gateway.stores.directory import DirectoryFollower
from gateway.stores.directory_file import load_snapshot, save_snapshot
from gateway.stores.schema import directory_state, keys, migrate
from gateway.stores.sql_directory import SqlDirectory
from tests.sql.test_directory import ACME, QWEN, key
from tests.waiting import let_run_s, until

POLL_S = 0.25
QUERY_S_MAX = 0.5  # of a machine that does other things too


@pytest.fixture
def path(tmp_path):
    return tmp_path / "directory.json"


@pytest.fixture
async def follow(path):
    """Make followers that are stopped after the test."""
    made = []

    async def follow(store, poll_s=0.25):
        follower = DirectoryFollower(store, path, poll_s=poll_s)
        made.append(follower)
        await follower.start()
        return follower

    yield follow
    for follower in made:
        await follower.aclose()


async def write(work, *args):
    await asyncio.to_thread(work, *args)


async def test_what_is_declared_is_there_after_the_start(directory, follow):
    directory.put_tenant(ACME)
    directory.put_key(key(1))
    directory.put_model(QWEN)
    follower = await follow(directory)
    assert follower.snapshot == Snapshot(3, {"acme": ACME}, {digest("1"): key(1)}, {"qwen3": QWEN})
    assert follower.is_fresh


async def test_a_revoked_key_is_known_within_a_second_at_the_default_poll(directory, follow):
    directory.put_tenant(ACME)
    directory.put_key(key(1))
    follower = await follow(directory)
    await write(directory.put_key, key(1, is_revoked=True))
    await until(lambda: follower.snapshot.keys[digest("1")].is_revoked, within_s=1)


async def test_a_tenants_new_class_and_weight_are_known_within_a_poll(directory, follow):
    """Within the poll interval, and the time that one query takes."""
    directory.put_tenant(ACME)
    follower = await follow(directory, poll_s=POLL_S)
    await write(partial(set_tenant, directory, "acme", service_class="interactive", weight=3))
    changed = replace(ACME, service_class="interactive", weight=3)
    await until(lambda: follower.snapshot.tenants == {"acme": changed}, within_s=POLL_S + QUERY_S_MAX)


async def test_a_keys_class_reaches_the_followers_with_the_key(directory, follow):
    directory.put_tenant(ACME)
    follower = await follow(directory, poll_s=POLL_S)
    key, secret = await asyncio.to_thread(create_key, directory, "acme", now_ms=1, service_class="batch")
    await until(lambda: follower.snapshot.keys == {digest(secret): key}, within_s=POLL_S + QUERY_S_MAX)
    assert follower.snapshot.keys[digest(secret)].service_class == "batch"


async def test_a_refresh_brings_changes_at_once(directory, follow):
    follower = await follow(directory, poll_s=60)
    await write(directory.put_tenant, ACME)
    await follower.refresh()
    assert follower.snapshot.tenants == {"acme": ACME}


@pytest.mark.postgres
async def test_without_the_database_the_last_snapshot_goes_on_serving(postgres_server, postgres_url, follow):
    migrate(postgres_url)
    database = Database(postgres_url, timeout_s=1)
    directory = SqlDirectory(database)
    directory.put_tenant(ACME)
    follower = await follow(directory, poll_s=0.1)
    postgres_server.stop()
    try:
        await until(lambda: not follower.is_fresh)
        assert follower.snapshot.tenants == {"acme": ACME}
        with pytest.raises(StoreUnavailable):
            await follower.refresh()
    finally:
        postgres_server.start()
    await until(lambda: follower.is_fresh)
    await write(directory.put_tenant, Tenant(id="new", name="New"))
    await until(lambda: "new" in follower.snapshot.tenants)


async def test_a_start_without_the_database_serves_what_is_on_disk(directory, follow, path, tmp_path):
    directory.put_tenant(ACME)
    directory.put_key(key(1))
    first = await follow(directory)
    await first.aclose()
    away = SqlDirectory(Database("postgresql://nobody@127.0.0.1:1/x", timeout_s=1))
    second = await follow(away)
    assert second.snapshot == first.snapshot
    assert not second.is_fresh
    assert second.age_s == float("inf")


async def test_a_first_start_without_the_database_is_empty_and_comes_to_life_with_it(database, directory, follow):
    directory.put_tenant(ACME)
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE directory_state RENAME TO elsewhere"))
    follower = await follow(directory, poll_s=0.05)
    assert (follower.snapshot, follower.is_fresh) == (Snapshot(), False)
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO directory_state"))
    await until(lambda: follower.snapshot.tenants == {"acme": ACME})


async def test_a_database_restored_from_a_backup_brings_no_key_back_from_memory(directory, database, follow):
    """A key that the backup does not have must go, although nothing was changed above our version."""
    directory.put_tenant(ACME)
    directory.put_key(key(1))
    directory.put_key(key(2))
    follower = await follow(directory, poll_s=0.05)
    with database.writing() as connection:
        connection.execute(text("DELETE FROM keys WHERE id = 'key_2'"))
        connection.execute(update(directory_state).values(version=2))
    await until(lambda: follower.snapshot.version == 2)
    assert set(follower.snapshot.keys) == {digest("1")}


async def test_the_file_is_for_its_owner_alone_and_follows_within_seconds(directory, follow, path):
    directory.put_tenant(ACME)
    follower = await follow(directory)
    await until(lambda: load_snapshot(path) == follower.snapshot)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir() if "directory.json" in file.name] == ["directory.json"]


async def test_a_disk_that_takes_no_file_stops_nothing(directory, path):
    path.mkdir()
    follower = DirectoryFollower(directory, path, poll_s=0.05)
    await follower.start()
    await write(directory.put_tenant, ACME)
    await until(lambda: follower.snapshot.tenants == {"acme": ACME})
    await follower.aclose()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        '"x"',
        "7",
        '{"fields": {}}\n',
        '{"version": 1}\n{"ghost": {}}\n',
        '{"version": 1}\n{"key": {"id": "x"}}\n',
        "\x00",
    ],
)
def test_a_file_that_makes_no_sense_is_as_good_as_none(path, content):
    path.write_text(content)
    assert load_snapshot(path) == Snapshot()


# As the first version wrote it: no fields in the head, neither weights nor keys' classes in the rows.
OLD_FILE = """{"version": 9}
{"tenant": {"id": "acme", "name": "Acme", "service_class": "standard", "is_suspended": false}}
{"key": {"id": "key_1", "tenant": "acme", "project": "default", "name": "", "digest": "DIGEST", "hint": "abcd", \
"created_ms": 1, "expires_ms": null, "is_revoked": false}}
{"model": {"name": "qwen3", "pool": "qwen3", "created_ms": 1, "is_retired": false}}
""".replace("DIGEST", digest("1"))


def test_a_file_of_an_older_version_serves_with_what_it_has(path):
    path.write_text(OLD_FILE)
    assert load_snapshot(path) == Snapshot(0, {"acme": ACME}, {digest("1"): key(1)}, {"qwen3": QWEN})


async def test_after_an_upgrade_nothing_declared_before_it_is_missed(directory, follow, path):
    """The older version wrote the row at the newest version without the weight that had been set in it by then."""
    path.write_text(OLD_FILE)
    directory.put_tenant(replace(ACME, weight=3))
    for _ in range(8):
        directory.put_model(QWEN)
    follower = await follow(directory, poll_s=60)
    assert follower.snapshot == Snapshot(9, {"acme": replace(ACME, weight=3)}, {}, {"qwen3": QWEN})
    await until(lambda: load_snapshot(path) == follower.snapshot)


def test_a_snapshot_comes_back_from_disk_as_it_was(path):
    snapshot = Snapshot(
        7,
        {"acme": replace(ACME, weight=3)},
        {digest("1"): key(1, expires_ms=5, name="é", service_class="batch")},
        {"m": Model(name="m", pool="p", created_ms=1)},
    )
    save_snapshot(path, snapshot)
    assert load_snapshot(path) == snapshot


async def test_200_000_keys_are_followed_key_by_key(database, directory, follow, path):
    """The first load takes a while; a change after it must not."""
    directory.put_tenant(ACME)
    plain = asdict(key(0))
    rows = [{**plain, "id": f"key_{n}", "digest": digest(str(n)), "version": 2} for n in range(200_000)]
    with database.writing() as connection:
        connection.execute(insert(keys), rows)
        connection.execute(update(directory_state).values(version=2))
    follower = await follow(directory, poll_s=0.05)
    assert len(follower.snapshot.keys) == 200_000
    started_s = let_run_s()
    await write(directory.put_key, key(77, is_revoked=True))
    await until(lambda: follower.snapshot.keys[digest("77")].is_revoked, within_s=1)
    assert let_run_s() - started_s < 1
    stalls = await longest_stall(follower.aclose())
    assert load_snapshot(path).version == 3
    assert stalls < 0.25, "writing the file must leave the event loop its turns"


async def longest_stall(work) -> float:
    """Run *work* and give the longest time that the loop did not get a turn meanwhile."""
    task = asyncio.ensure_future(work)
    longest, last = 0.0, let_run_s()
    while not task.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, let_run_s() - last), let_run_s()
    await task
    return longest
