"""Counters of budgets and prepaid balances, on every database: equal to brute force over events, whatever happens."""

import random
import shutil
import threading
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from gateway.core.budgets import Budget
from gateway.core.money import NANO
from gateway.core.zones import first_moment, local_time
from gateway.stores.database import Database
from gateway.stores.schema import budget_counters, migrate, transfers
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_balances import SqlBudgets
from gateway.stores.sql_directory import SqlDirectory
from tests.meter_events import event
from tests.sql.budgeting import HOUR_MS, NOON, PRICES, ZONES, cost, money, ms, prepaid, used


def spent(store, budget="bud_1") -> dict[int, int]:
    return {each.period_ms: each.spent for each in store.counters() if each.budget == budget}


def test_events_are_counted_once_however_often_they_come(store, journal, directory):
    directory.put_budget(money())
    events = [used(1), used(2), used(3, tenant="other")]
    journal.append(events)
    journal.append(events)
    assert spent(store) == {ms("2026-11-01"): cost(*events[:2])}
    assert store.prove() == []


def test_what_has_no_price_or_another_currency_costs_a_budget_nothing(store, journal, directory):
    directory.put_budget(money())
    directory.put_budget(money(2, kind="tokens"))
    journal.append([used(1, price=""), used(2, price="pri_usd", model="m3")])
    assert spent(store) == {ms("2026-11-01"): 0}
    assert spent(store, "bud_2") == {ms("2026-11-01"): 60}


def test_an_event_counts_in_the_period_in_which_it_arrived(store, journal, directory):
    directory.put_budget(money(period="day", zone="Asia/Shanghai", since_ms=ms("2026-11-14T12:00")))
    before, after = used(1, ms("2026-11-14T15:59:59")), used(2, ms("2026-11-14T16:00"), ended_ms=NOON)
    journal.append([after])
    journal.append([before])
    assert spent(store) == {ms("2026-11-13T16:00"): cost(before), ms("2026-11-14T16:00"): cost(after)}


def test_what_arrived_before_the_first_period_is_not_counted(store, journal, directory):
    directory.put_budget(money(period="day"))
    journal.append([used(1, ms("2026-11-14T23:59:59"))])
    assert spent(store) == {ms("2026-11-15"): 0}
    assert store.prove() == []


@pytest.mark.parametrize("kind", ["money", "tokens"])
def test_a_budget_made_in_mid_period_starts_with_what_the_period_has_spent(store, journal, directory, kind):
    journal.append([used(1, ms("2026-11-02")), used(2, ms("2026-10-31")), used(3, ms("2026-11-03"), tenant="other")])
    directory.put_budget(money(kind=kind))
    assert spent(store) == {ms("2026-11-01"): 30 if kind == "tokens" else cost(used(1))}
    assert store.prove() == []


def test_declaring_a_budget_again_keeps_its_count(store, journal, directory):
    directory.put_budget(money())
    journal.append([used(1)])
    directory.put_budget(money(amount=NANO))
    directory.put_budget(money(amount=NANO))
    assert spent(store) == {ms("2026-11-01"): cost(used(1))}


def test_a_removed_budget_counts_nothing_and_comes_back_whole(store, journal, directory):
    directory.put_budget(money())
    directory.put_budget(money(is_removed=True))
    journal.append([used(1)])
    assert spent(store) == {ms("2026-11-01"): 0}
    assert store.prove() == []
    directory.put_budget(money())
    assert spent(store) == {ms("2026-11-01"): cost(used(1))}


@pytest.mark.parametrize(
    ("scope", "subject", "mine", "other"),
    [
        ("project", "acme/web", {"project": "web"}, {"project": "app"}),
        ("project", "acme/web", {"project": "web"}, {"tenant": "other", "project": "web"}),
        ("key", "key_b", {"key": "key_b"}, {"key": "key_a"}),
    ],
)
def test_scopes_bind_in_sql_as_they_do_in_memory(store, journal, directory, scope, subject, mine, other):
    journal.append([used(1, **mine), used(2, **other), used(3, model="m2", price="pri_2", **mine)])
    directory.put_budget(money(1, scope=scope, subject=subject))
    directory.put_budget(money(2, scope=scope, subject=subject, model="m2"))
    journal.append([used(4, **mine), used(5, **other)])
    in_m2 = used(3, model="m2", price="pri_2")
    assert sum(spent(store).values()) == cost(used(1), used(4), in_m2)
    assert sum(spent(store, "bud_2").values()) == cost(in_m2)
    assert store.prove() == []


def test_versions_of_a_counter_only_grow_also_when_it_was_lost(store, journal, directory, database):
    directory.put_budget(money())
    seen = [store.counters()[0].version]
    for number in range(3):
        journal.append([used(number)])
        seen.append(store.counters()[0].version)
    with database.writing() as connection:
        connection.execute(delete(budget_counters))
    store.rebuild()
    seen.append(store.counters()[0].version)
    assert seen == sorted(set(seen))


def test_an_append_under_way_and_a_budget_being_declared_do_not_miss_each_other(store, database_url, directory):
    """However they meet: the event is in the sum that the budget begins with, or its append knows the budget."""
    databases = [Database(database_url) for _ in range(2)]
    journals = [SqlJournal(each) for each in databases]
    for turn in range(8):
        barrier = threading.Barrier(3)
        threads = [
            threading.Thread(target=lambda j=j, n=n, b=barrier, t=turn: (b.wait(), j.append([used(100 * t + n)])))
            for n, j in enumerate(journals)
        ]
        for thread in threads:
            thread.start()
        barrier.wait()
        directory.put_budget(money(turn))
        for thread in threads:
            thread.join()
    assert store.prove() == []
    assert {each.spent for each in store.counters()} == {cost(*map(used, range(16)))}
    for each in databases:
        each.close()


def test_rebuilding_finds_and_repairs_whatever_was_damaged(store, journal, directory, database):
    directory.put_budget(money())
    directory.put_budget(prepaid())
    journal.append([used(1), used(2)])
    mine = budget_counters.c.budget == "bud_1"
    with database.writing() as connection:
        connection.execute(update(budget_counters).where(mine).values(spent=7))
        connection.execute(delete(transfers))
    found = {(each.budget, each.what, each.found) for each in store.prove()}
    total = cost(used(1), used(2))
    assert found == {("bud_1", "spent", 7), ("bud_pre", "posted", 0), ("bud_pre", "spent", total)}
    store.rebuild()
    assert store.prove() == []
    assert spent(store) == {ms("2026-11-01"): total}
    assert ("prepaid:acme", "CNY", -total) in store.balances()


BUDGETS = st.lists(
    st.builds(
        dict,
        scope=st.sampled_from(["tenant", "project", "key"]),
        who=st.integers(0, 1),
        model=st.sampled_from(["", "m1", "m2"]),
        kind=st.sampled_from(["money", "tokens", "prepaid"]),
        period=st.sampled_from(["day", "month", "total"]),
        zone=st.sampled_from(ZONES),
        since_h=st.integers(-60, 60),
    ),
    min_size=1,
    max_size=4,
)
EVENTS = st.lists(
    st.builds(
        dict,
        tenant=st.sampled_from(["t0", "t1"]),
        project=st.sampled_from(["p0", "p1"]),
        key=st.sampled_from(["k0", "k1"]),
        price=st.sampled_from(["pri_1", "pri_2", "pri_usd", ""]),
        at_min=st.integers(-4000, 4000),
        completion_tokens=st.integers(5, 10_000),
    ),
    max_size=25,
)


def _budget(number, kind, scope, who, since_h, base_ms, **fields) -> Budget:
    if kind == "prepaid":
        scope, who = "tenant", number
        fields |= {"period": "total", "model": ""}
    subject = {"tenant": f"t{who}", "project": f"t{who}/p{who}", "key": f"k{who}"}[scope]
    tenant = f"t{who}" if scope != "key" else "t0"
    since_ms = base_ms + since_h * HOUR_MS
    return Budget(id=f"b{number}", scope=scope, subject=subject, tenant=tenant, kind=kind, since_ms=since_ms, **fields)


def brute_force(budget: Budget, events, mine=None) -> dict[int, int]:
    """Sum events one by one, straight from what budgets promise."""
    zone, sums = ZoneInfo(budget.zone), {}

    def begins(at_ms):
        if budget.period == "total":
            return 0
        day = local_time(at_ms, zone).date()
        return first_moment(day.replace(day=1) if budget.period == "month" else day, zone)

    for each in events:
        owner = {"tenant": each.tenant, "project": f"{each.tenant}/{each.project}", "key": each.key}[budget.scope]
        if owner != budget.subject or each.tenant != budget.tenant or budget.model not in ("", each.model):
            continue
        start = budget.since_ms if budget.kind == "prepaid" else begins(budget.since_ms)
        if each.arrived_ms < start:
            continue
        if budget.kind == "tokens":
            amount = each.prompt_tokens + each.completion_tokens
        else:
            amount = cost(each) if each.price in ("pri_1", "pri_2") else 0
        sums[begins(each.arrived_ms)] = sums.get(begins(each.arrived_ms), 0) + amount
    return {at: amount for at, amount in sums.items() if amount}


@pytest.fixture(scope="module")
def empty_file(tmp_path_factory):
    """A database with tables and nothing in them, to be copied."""
    file = tmp_path_factory.mktemp("empty") / "sluice.db"
    migrate(f"sqlite:///{file}")
    return file


@given(
    declared=BUDGETS,
    wanted=EVENTS,
    zone=st.sampled_from(ZONES),
    changes=st.sampled_from(["2026-03-29", "2026-10-25", "2026-11-01", "2026-04-05", "2026-12-31"]),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
def test_counters_equal_brute_force_and_survive_any_damage(
    tmp_path_factory, empty_file, declared, wanted, zone, changes, seed
):
    """Random budgets, batches, replays and damage around days on which clocks change."""
    chance, base_ms = random.Random(seed), ms(f"{changes}T02:00", zone)
    database = Database(f"sqlite:///{shutil.copy(empty_file, tmp_path_factory.mktemp('counters'))}", timeout_s=30)
    directory, journal, store = SqlDirectory(database), SqlJournal(database), SqlBudgets(database)
    directory.put_prices(PRICES)
    model = {"pri_1": "m1", "pri_2": "m2", "pri_usd": "m3", "": "m1"}
    events = [
        event(n, **{k: v for k, v in e.items() if k != "at_min"}, model=model[e["price"]],
              arrived_ms=base_ms + e["at_min"] * 60_000)
        for n, e in enumerate(wanted)
    ]  # fmt: skip
    budgets = [_budget(n, base_ms=base_ms, **b) for n, b in enumerate(declared)]
    work = [*budgets, *(events[at : at + 5] for at in range(0, len(events), 5)), events[:7]]
    chance.shuffle(work)
    for step in work:
        directory.put_budget(step) if isinstance(step, Budget) else journal.append(step)

    def check():
        assert store.prove() == []
        assert not [total for *_, total in [("", sum(t for *_, t in store.balances()))] if total]
        for budget in budgets:
            found = {at: amount for at, amount in spent(store, budget.id).items() if amount}
            assert found == brute_force(budget, events), budget

    check()
    with database.writing() as connection:
        for row in store.counters():
            which = (budget_counters.c.budget == row.budget) & (budget_counters.c.period_ms == row.period_ms)
            damage = chance.choice([None, delete(budget_counters), update(budget_counters).values(spent=-5)])
            if damage is not None:
                connection.execute(damage.where(which))
    store.rebuild()
    check()
    assert store.rebuild() == []
    database.close()
