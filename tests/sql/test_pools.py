"""Pools, names and the history of what was applied, on real databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from gateway.control.pool_file import read_pool_file
from gateway.control.pools import Change, carry_out, plan_apply
from gateway.core.directory import Model, Snapshot
from gateway.core.pools import PoolSpec, pool_from_row, pool_to_row
from gateway.errors import AlreadyExists, InvalidInput, StoreUnavailable
from gateway.ports.pools import Applied, Writes
from gateway.stores.database import Database
from gateway.stores.directory_file import load_snapshot, save_snapshot
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_pools import SqlPools
from tests.sql.test_database import migrate_to

NOW_MS = 1_800_000_000_000
POOL = PoolSpec(
    name="qwen3-8b",
    model="Qwen/Qwen3-8B",
    revision="v1",
    serves=("qwen3-8b", "qwen-plus"),
    engine_args=("--max-model-len=16384",),
    workers_min=0,
    workers_max=4,
    accelerator="H200",
    tensor=2,
    adapters={"bot": "acme/bot"},
    wait_s_max={"interactive": 60.0},
    hold_s_max={"batch": 7200.0},
    idle_s=600.0,
)
SHARED = Model(name="qwen-plus", pool="qwen3-8b", created_ms=1, weights={"qwen3-8b": 95, "next": 5}, is_from_file=True)


@pytest.fixture
def pools(database):
    return SqlPools(database)


def applied(number=1, **values):
    return Applied(**{"number": number, "at_ms": NOW_MS, "who": "ada@host", "digest": "d", "text": "t"} | values)


def put(pools, directory, yaml, expected=None, *, takes_over=False):
    """Apply a file as `sluice apply` does."""
    file = read_pool_file(yaml.encode(), "sluice.yaml")
    file.check()

    def plan():
        return plan_apply(pools.declared(), file, now_ms=NOW_MS, takes_over=takes_over)

    return carry_out(pools, plan, who="ada@host", now_ms=NOW_MS, expected=expected)


def test_a_pool_comes_back_as_it_went():
    assert pool_from_row(**pool_to_row(POOL)) == POOL


def test_what_a_newer_version_wrote_besides_is_passed_over():
    row = pool_to_row(POOL)
    assert pool_from_row(**{**row, "spec": row["spec"].replace("{", '{"moon": 1, ', 1)}) == POOL


def test_what_is_carried_out_is_all_in_one_version_of_the_directory(pools, directory):
    assert pools.carry_out(Writes(pools=(POOL,), models=(SHARED,)), applied(), at_version=0)
    changes = directory.changes_since(0)
    assert (changes.version, changes.pools, changes.models) == (1, (POOL,), (SHARED,))
    declared = pools.declared()
    assert (declared.version, declared.pools, declared.models, declared.applied) == (1, (POOL,), (SHARED,), applied())


def test_nothing_is_written_if_the_directory_moved_since_it_was_decided(pools, directory):
    directory.put_model(SHARED)
    assert not pools.carry_out(Writes(pools=(POOL,)), applied(), at_version=0)
    assert (pools.declared().pools, pools.history(), pools.declared().version) == ((), [], 1)


def test_a_number_is_given_once(pools):
    assert pools.carry_out(Writes(pools=(POOL,)), applied(), at_version=0)
    with pytest.raises(StoreUnavailable):
        pools.carry_out(Writes(pools=(replace(POOL, model="x"),)), applied(), at_version=1)
    assert (pools.declared().pools, pools.declared().version) == ((POOL,), 1)


def test_the_history_is_newest_first_and_keeps_the_text(pools):
    for number in (1, 2, 3):
        pools.carry_out(Writes(), applied(number, text=f"text {number}", rolls_back_to=None), at_version=number - 1)
    assert [each.number for each in pools.history()] == [3, 2, 1]
    assert (pools.applied(2).text, pools.applied(9)) == ("text 2", None)


def test_a_removed_pool_is_in_no_snapshot(pools, directory, tmp_path):
    pools.carry_out(Writes(pools=(POOL, replace(POOL, name="other"))), applied(1), at_version=0)
    first = Snapshot().apply(directory.changes_since(0))
    assert set(first.pools) == {"qwen3-8b", "other"}
    pools.carry_out(Writes(pools=(replace(POOL, is_removed=True),)), applied(2), at_version=1)
    second = first.apply(directory.changes_since(1))
    assert set(second.pools) == {"other"}
    assert [pool.name for pool in pools.declared().pools] == ["other"]
    save_snapshot(tmp_path / "directory.json", second)
    assert load_snapshot(tmp_path / "directory.json") == second


def test_the_copy_on_disk_has_pools_and_shares(tmp_path):
    snapshot = Snapshot(3, models={"qwen-plus": SHARED}, pools={"qwen3-8b": POOL})
    save_snapshot(tmp_path / "directory.json", snapshot)
    assert load_snapshot(tmp_path / "directory.json") == snapshot


def test_names_of_before_are_by_hand_and_of_one_pool(empty_url):
    migrate_to(empty_url, "0006")
    database = Database(empty_url)
    insert = "INSERT INTO models (name, pool, created_ms, is_retired, version) VALUES ('m', 'p', 1, false, 1)"
    with database.writing() as connection:
        connection.execute(text(insert))
    migrate(empty_url)
    assert SqlDirectory(database).models() == [Model(name="m", pool="p", created_ms=1)]
    with database.writing() as connection:  # an older version writes beside us while we upgrade
        connection.execute(text(insert.replace("'m'", "'n'")))
    assert len(SqlDirectory(database).models()) == 2
    database.close()


FILE = "pools:\n  a: {model: m, workers: {max: %d}}\n  b: {model: n}\nmodels:\n  plus: {a: %d, b: 5}\n"


def test_applying_the_same_file_again_changes_nothing(pools, directory):
    _, first = put(pools, directory, FILE % (2, 95))
    version = directory.changes_since(0).version
    plan, second = put(pools, directory, FILE % (2, 95) + "# a word\nport: 8080\n")
    assert (first.number, second, plan.changes) == (1, None, [])
    assert directory.changes_since(version) is None
    assert len(pools.history()) == 1


def test_a_drift_by_hand_is_repaired_by_the_next_apply(pools, directory):
    put(pools, directory, FILE % (2, 95))
    directory.put_model(replace(directory.model("plus"), is_retired=True))
    plan, done = put(pools, directory, FILE % (2, 95))
    assert [(step.name, step.change) for step in plan.changes] == [("plus", Change.NEW)]
    assert done.number == 2
    assert not directory.model("plus").is_retired


def test_what_a_file_drops_is_retired_and_what_people_declared_is_not(pools, directory):
    directory.put_model(Model(name="mine", pool="a", created_ms=1))
    directory.put_model(Model(name="b", pool="b", created_ms=1))
    put(pools, directory, FILE % (2, 95))
    put(pools, directory, "pools:\n  a: {model: m}\n")
    models = {model.name: model.is_retired for model in directory.models()}
    assert models == {"mine": False, "a": False, "b": False, "plus": True}
    assert [pool.name for pool in pools.declared().pools] == ["a"]


def test_a_name_that_was_declared_by_hand_for_another_pool_is_an_error_with_its_line(pools, directory):
    directory.put_model(Model(name="plus", pool="z", created_ms=1))
    with pytest.raises(InvalidInput, match=r"sluice.yaml:5: models.plus: .*by hand for pool z.*--take-over"):
        put(pools, directory, FILE % (2, 95))
    assert (pools.declared().pools, directory.model("plus").pool) == ((), "z")


def test_a_file_can_take_a_name_over_without_a_gap(pools, directory):
    directory.put_model(Model(name="plus", pool="z", created_ms=1))
    put(pools, directory, FILE % (2, 95), takes_over=True)
    assert directory.model("plus") == Model(
        name="plus", pool="a", created_ms=1, weights={"a": 95, "b": 5}, is_from_file=True
    )
    put(pools, directory, "pools: {a: {model: m}}\n")
    assert directory.model("plus").is_retired


def test_who_expects_another_version_is_told_who_applied_what_there_is(pools, directory):
    put(pools, directory, FILE % (2, 95), expected=0)
    with pytest.raises(AlreadyExists, match=r"Version 0 is not what is applied: ada@host applied version 1\."):
        put(pools, directory, FILE % (3, 95), expected=0)
    assert pools.declared().number == 1


def test_of_two_at_once_one_wins_and_the_other_is_told(pools, directory):
    for turn in range(3):
        start = threading.Barrier(2)

        def apply(share, start=start, turn=turn):
            start.wait()
            try:
                return put(pools, directory, FILE % (2 + turn, share), expected=turn)[1].number
            except AlreadyExists:
                return None

        with ThreadPoolExecutor(2) as pool:
            assert set(pool.map(apply, (10, 20))) == {turn + 1, None}
        assert len(pools.history()) == turn + 1


def test_keys_and_names_that_change_meanwhile_only_make_it_plan_anew(pools, directory):
    file = read_pool_file((FILE % (2, 95)).encode(), "sluice.yaml")
    plans = []

    def plan():
        plans.append(plan_apply(pools.declared(), file, now_ms=NOW_MS))
        if len(plans) < 3:
            directory.put_model(Model(name=f"hand-{len(plans)}", pool="x", created_ms=1))
        return plans[-1]

    _, done = carry_out(pools, plan, who="ada@host", now_ms=NOW_MS)
    assert (done.number, len(plans), pools.declared().version) == (1, 3, 3)


def test_a_directory_that_never_rests_is_an_error_in_the_end(pools, directory):
    file = read_pool_file((FILE % (2, 95)).encode(), "sluice.yaml")

    def plan():
        made = plan_apply(pools.declared(), file, now_ms=NOW_MS)
        directory.put_model(Model(name=f"hand-{made.declared.version}", pool="x", created_ms=1))
        return made

    with pytest.raises(AlreadyExists, match="20 times"):
        carry_out(pools, plan, who="ada@host", now_ms=NOW_MS)
    assert pools.history() == []
