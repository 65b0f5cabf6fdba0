"""The Directory store's contract, on every database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from gateway.core.directory import Changes, Key, Model, Snapshot, Tenant
from gateway.core.ids import digest
from gateway.errors import AlreadyExists, NotFoundError

ACME = Tenant(id="acme", name="Acme")
BETA = Tenant(id="beta", name="Beta", service_class="batch")
QWEN = Model(name="qwen3", pool="qwen3", created_ms=1)


def key(number, tenant="acme", **fields):
    plain = Key(
        id=f"key_{number}",
        tenant=tenant,
        project="default",
        name="",
        digest=digest(str(number)),
        hint="abcd",
        created_ms=number,
    )
    return replace(plain, **fields)


def test_an_empty_directory_has_no_changes(directory):
    assert directory.changes_since(0) is None


def test_changes_are_the_rows_above_a_version_and_nothing_else(directory):
    directory.put_tenant(ACME)
    directory.put_key(key(1, expires_ms=5))
    directory.put_model(QWEN)
    assert directory.changes_since(0) == Changes(
        version=3, tenants=(ACME,), keys=(key(1, expires_ms=5),), models=(QWEN,)
    )
    assert directory.changes_since(1) == Changes(version=3, keys=(key(1, expires_ms=5),), models=(QWEN,))
    assert directory.changes_since(3) is None
    directory.put_key(key(1, is_revoked=True))
    assert directory.changes_since(3) == Changes(version=4, keys=(key(1, is_revoked=True),))


def test_a_directory_restored_from_a_backup_gives_all_it_has_at_its_lower_version(directory):
    directory.put_tenant(ACME)
    assert directory.changes_since(41) == Changes(version=1, tenants=(ACME,))


def test_a_row_is_replaced_not_doubled(directory):
    directory.put_tenant(ACME)
    directory.put_tenant(replace(ACME, is_suspended=True))
    assert directory.tenants() == [replace(ACME, is_suspended=True)]


def test_what_is_listed_is_in_the_promised_order(directory):
    directory.put_tenant(BETA)
    directory.put_tenant(ACME)
    for number, tenant in ((1, "acme"), (3, "acme"), (2, "beta")):
        directory.put_key(key(number, tenant))
    directory.put_model(replace(QWEN, name="b"))
    directory.put_model(replace(QWEN, name="a"))
    assert [t.id for t in directory.tenants()] == ["acme", "beta"]
    assert [k.id for k in directory.keys(None)] == ["key_3", "key_2", "key_1"]
    assert [k.id for k in directory.keys("acme")] == ["key_3", "key_1"]
    assert [m.name for m in directory.models()] == ["a", "b"]


def test_single_rows_are_found_by_their_id(directory):
    directory.put_tenant(ACME)
    directory.put_key(key(1))
    directory.put_model(QWEN)
    assert (directory.tenant("acme"), directory.key("key_1"), directory.model("qwen3")) == (ACME, key(1), QWEN)
    assert (directory.tenant("x"), directory.key("x"), directory.model("x")) == (None, None, None)


def test_a_key_needs_its_tenant(directory):
    with pytest.raises(NotFoundError, match="nobody"):
        directory.put_key(key(1, tenant="nobody"))
    assert directory.changes_since(0) is None, "a write that failed must not raise the version"


def test_a_change_sets_what_is_given_and_keeps_the_rest(directory):
    directory.put_tenant(replace(ACME, is_suspended=True))
    changed = replace(ACME, is_suspended=True, weight=3)
    assert directory.change_tenant("acme", weight=3) == changed
    assert directory.changes_since(1) == Changes(version=2, tenants=(changed,))


def test_a_change_to_what_is_so_already_raises_no_version(directory):
    directory.put_tenant(ACME)
    assert directory.change_tenant("acme", weight=ACME.weight) == ACME
    assert directory.changes_since(1) is None


def test_a_change_needs_its_tenant(directory):
    with pytest.raises(NotFoundError, match="ghost"):
        directory.change_tenant("ghost", weight=3)
    assert directory.changes_since(0) is None


def test_two_who_change_different_things_of_one_tenant_lose_neither(directory):
    """Reading a row and writing it back whole would undo what another wrote in between: a suspension, for one."""
    directory.put_tenant(ACME)
    for weight in range(2, 12):
        start = threading.Barrier(2)

        def change(values, start=start):
            start.wait()
            return directory.change_tenant("acme", **values)

        is_suspended = weight % 2 == 0
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(change, ({"weight": weight}, {"is_suspended": is_suspended})))
        assert directory.tenant("acme") == replace(ACME, weight=weight, is_suspended=is_suspended)


def test_a_key_keeps_its_class(directory):
    directory.put_tenant(ACME)
    directory.put_key(key(1, service_class="batch"))
    assert directory.key("key_1").service_class == "batch"


def test_of_two_who_create_one_tenant_one_is_told(directory):
    start = threading.Barrier(2)

    def create(_):
        start.wait()
        try:
            directory.put_tenant(ACME, must_be_new=True)
        except AlreadyExists:
            return "taken"
        return "created"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, range(2))) == ["created", "taken"]


def test_a_reader_that_polls_while_writers_race_misses_nothing(directory):
    """Versions commit in order: otherwise a reader at version n would never see a row that commits as n - 1 later."""
    directory.put_tenant(ACME)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(directory.put_key, key(number)) for number in range(40)]
        snapshot = Snapshot()
        while not all(write.done() for write in writes) or directory.changes_since(snapshot.version):
            if changes := directory.changes_since(snapshot.version):
                snapshot = snapshot.apply(changes)
    assert [write.exception() for write in writes] == [None] * 40
    assert snapshot.version == 41
    assert {k.id for k in snapshot.keys.values()} == {f"key_{number}" for number in range(40)}
