"""What an import or a withdrawal makes of the price book; and that the past never changes, whatever is imported."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.models import declare_model, retire_model
from gateway.control.price_files import read_prices, write_prices
from gateway.control.prices import LEAD_MS, Permits, _Planner, carry_out, plan_import, plan_withdrawal
from gateway.control.tenants import create_tenant
from gateway.core.budgets import Budget
from gateway.core.prices import PriceBook, PriceVersion, Tier, Unit
from gateway.errors import AlreadyExists, InvalidInput, NotFoundError
from gateway.stores.database import Database
from gateway.stores.schema import migrate
from gateway.stores.sql_directory import SqlDirectory
from tests.control.price_texts import NOW_MS, SHANGHAI, at, entry, plan, read, take_in


@pytest.fixture
def store(directory):
    """A Directory with a model and a tenant."""
    declare_model(directory, "qwen3", "chat", now_ms=1)
    create_tenant(directory, "Acme")
    return directory


@pytest.fixture
def elsewhere(tmp_path):
    """Another Directory."""
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    migrate(url)
    database = Database(url)
    yield SqlDirectory(database)
    database.close()


def told(plan):
    """Give what a plan does: change, start, end."""
    return [(step.change.value, step.version.from_ms, step.version.to_ms) for step in plan.steps]


def live(directory):
    return [(each.from_ms, each.to_ms) for each in directory.prices() if not each.is_withdrawn]


def withdraw(directory, price_id, now_ms=NOW_MS):
    done = plan_withdrawal(directory, price_id, now_ms=now_ms, zone=SHANGHAI)
    carry_out(directory, done)
    return done


def test_a_price_is_taken_in_and_found_from_its_start_on(store):
    done = take_in(store, entry("2027-01-01"))
    book = PriceBook.of(store.prices())
    assert told(done) == [("new", at("2027-01-01"), None)]
    assert book.find("acme", "qwen3", "chat", at("2027-01-01") - 1) is None
    assert book.find("acme", "qwen3", "chat", at("2027-01-01")) == done.steps[0].version


def test_planning_changes_nothing(store):
    version = store.changes_since(0).version
    plan(store, entry("2027-01-01"))
    assert store.changes_since(version) is None
    assert not store.prices()


def test_importing_the_same_again_changes_nothing(store):
    take_in(store, entry("2027-01-01"), entry("2027-02-01", input=9))
    version = store.changes_since(0).version
    again = take_in(store, entry("2027-01-01"), entry("2027-02-01", input=9))
    assert again.counts() == {"new": 0, "closed": 0, "prolonged": 0, "withdrawn": 0, "unchanged": 2}
    assert store.changes_since(version) is None


def test_an_open_version_ends_where_the_next_one_starts(store):
    take_in(store, entry("2026-12-01"))
    done = take_in(store, entry("2027-01-01", input="0.1"), now_ms=at("2026-12-20"))
    starts, ends = at("2026-12-01"), at("2027-01-01")
    assert told(done) == [("closed", starts, ends), ("new", ends, None)]
    assert live(store) == [(starts, ends), (ends, None)]


def test_one_may_be_put_between_two(store):
    take_in(store, entry("2026-12-01"), entry("2027-03-01"))
    done = take_in(store, entry("2027-02-01", input="0.1"))
    first, middle, last = at("2026-12-01"), at("2027-02-01"), at("2027-03-01")
    assert told(done) == [("closed", first, middle), ("new", middle, last)]
    assert live(store) == [(first, middle), (middle, last), (last, None)]


@pytest.mark.parametrize("other", [{"input": "0.1"}, {"batch_factor": "0.5"}, {"currency": "USD"}, {"image": "0"}])
def test_what_is_yet_to_come_is_replaced_by_other_prices_for_the_same_start(store, other):
    old = take_in(store, entry("2027-01-01")).steps[0].version
    done = take_in(store, entry("2027-01-01", **other))
    assert sorted(step.change.value for step in done.steps) == ["new", "withdrawn"]
    assert [each.id for each in store.prices() if each.is_withdrawn] == [old.id]
    assert len(live(store)) == 1


def test_what_is_in_force_keeps_its_prices(store):
    take_in(store, entry("2026-12-01"))
    for now_ms in (at("2026-12-01"), at("2026-12-01") - LEAD_MS + 1, at("2027-12-01")):
        with pytest.raises(InvalidInput, match=r"entry 1 \(qwen3\): differs from version price_.* never changes"):
            plan(store, entry("2026-12-01", input="0.1"), now_ms=now_ms, backdate=True)


@pytest.mark.parametrize("early_ms", [1, LEAD_MS, 10**10])
def test_a_start_that_is_not_ahead_is_refused_unless_it_is_asked_for(store, early_ms):
    wanted = entry("2027-01-01")
    now_ms = at("2027-01-01") - LEAD_MS + early_ms
    with pytest.raises(InvalidInput, match=r"entry 1.*not a minute ahead.*--backdate"):
        plan(store, wanted, now_ms=now_ms)
    assert told(take_in(store, wanted, now_ms=now_ms, backdate=True)) == [("new", at("2027-01-01"), None)]


def test_a_start_a_minute_ahead_is_early_enough(store):
    assert take_in(store, entry("2027-01-01"), now_ms=at("2027-01-01") - LEAD_MS).counts()["new"] == 1


def test_backdating_never_takes_the_place_of_what_was_in_force(store):
    take_in(store, entry("2026-12-01"))
    with pytest.raises(InvalidInput, match=r"is in force then, and that never changes\. New prices start"):
        plan(store, entry("2026-12-05", input="0.1"), now_ms=at("2026-12-20"), backdate=True)


def test_backdating_fills_the_time_before_the_first_version(store):
    take_in(store, entry("2026-12-01"))
    done = take_in(store, entry("2026-06-01", input="0.1"), now_ms=at("2026-12-20"), backdate=True)
    assert told(done) == [("new", at("2026-06-01"), at("2026-12-01"))]


def test_backdating_fills_the_time_since_a_version_ended(store):
    take_in(store, entry("2026-06-01", to="2026-07-01"), backdate=True)
    done = take_in(store, entry("2026-07-01", input="0.1"), backdate=True)
    assert told(done) == [("new", at("2026-07-01"), None)]


def test_an_end_may_move_only_ahead_of_now(store):
    take_in(store, entry("2026-12-01", to="2027-01-01"))
    moved = take_in(store, entry("2026-12-01", to="2027-02-01"), now_ms=at("2026-12-20"))
    assert told(moved) == [("prolonged", at("2026-12-01"), at("2027-02-01"))]
    shortened = take_in(store, entry("2026-12-01", to="2026-12-24"), now_ms=at("2026-12-20"))
    assert told(shortened) == [("closed", at("2026-12-01"), at("2026-12-24"))]
    for now in ("2026-12-24", "2027-01-05"):
        with pytest.raises(InvalidInput, match=r"would move from 2026-12-24 to open\. What is or was in force"):
            plan(store, entry("2026-12-01"), now_ms=at(now))
    with pytest.raises(InvalidInput, match="would move from 2026-12-24 to 2026-12-20"):
        plan(store, entry("2026-12-01", to="2026-12-20"), now_ms=at("2026-12-21"))


def test_versions_that_overlap_are_refused(store):
    with pytest.raises(InvalidInput, match=r"entry 1 \(qwen3\): overlaps prices.yaml, entry 2 .*earlier `to`"):
        plan(store, entry("2027-01-01", to="2027-02-02"), entry("2027-02-01"))
    with pytest.raises(InvalidInput, match=r"entry 2 \(qwen3\): overlaps prices.yaml, entry 1 .*same time"):
        plan(store, entry("2027-01-01"), entry("2027-01-01", input=9))
    take_in(store, entry("2027-01-01", to="2027-03-01"))
    with pytest.raises(
        InvalidInput, match=r"^prices.yaml, entry 1 \(qwen3\): overlaps version price_\w+: .* lasts until 2027-03-01"
    ):
        plan(store, entry("2027-02-01"))


def test_a_version_may_say_the_end_that_the_next_one_gives_it(store):
    done = take_in(store, entry("2027-01-01", to="2027-02-01"), entry("2027-02-01"))
    assert live(store) == [(at("2027-01-01"), at("2027-02-01")), (at("2027-02-01"), None)]
    assert done.counts()["new"] == 2


def test_versions_of_different_scopes_never_overlap(store):
    done = take_in(store, entry(), entry(tenant="acme"), entry(pool="chat"), entry(tenant="acme", pool="chat"))
    assert done.counts()["new"] == 4


def test_a_gap_is_refused_unless_it_is_said_and_allowed(store):
    wanted = entry("2027-01-01", to="2027-02-01"), entry("2027-03-01")
    with pytest.raises(
        InvalidInput, match=r"entry 1 .*from 2027-02-01 to 2027-03-01.* its scope has no price.*--allow-gaps"
    ):
        plan(store, *wanted)
    take_in(store, *wanted, gaps=True)
    assert live(store) == [(at("2027-01-01"), at("2027-02-01")), (at("2027-03-01"), None)]
    assert take_in(store, entry("2027-04-01"))  # a gap that was allowed once is nobody's news
    with pytest.raises(InvalidInput, match=r"^prices.yaml, entry 1 .* beside version price_.* has no price"):
        take_in(store, entry("2027-02-15", to="2027-03-01"))


def test_one_scope_has_one_currency(store):
    with pytest.raises(InvalidInput, match=r"entry 2.*currency is 'USD', that of prices.yaml, entry 1.* 'CNY'"):
        plan(store, entry("2027-01-01"), entry("2027-02-01", currency="USD"))
    take_in(store, entry("2027-01-01"))
    with pytest.raises(InvalidInput, match=r"^prices.yaml, entry 1.*One scope has one currency"):
        plan(store, entry("2027-02-01", currency="USD"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "gpt"}, r"model 'gpt' does not exist\. See `sluice models list`"),
        ({"model": "*"}, r"model '\*' does not exist"),
        ({"pool": "other"}, r"pool 'other' does not serve qwen3, pool 'chat' does\. Leave it out"),
        ({"tenant": "ghost"}, r"tenant 'ghost' does not exist\. See `sluice tenants list`"),
    ],
)
def test_what_nobody_could_ask_for_has_no_price(store, fields, reason):
    with pytest.raises(InvalidInput, match=rf"^prices\.yaml, entry 1.*{reason}"):
        plan(store, entry(**fields))


def test_models_that_are_to_come_may_be_priced_when_told_to(store):
    retire_model(store, "qwen3")
    done = take_in(store, entry(), entry(model="gpt"), entry(model="gpt", pool="x"), unknown_models=True)
    assert done.counts()["new"] == 3
    assert take_in(store, entry(model="gpt")).counts()["unchanged"] == 1


def budget(**fields) -> Budget:
    every = {"id": "b1", "scope": "tenant", "subject": "acme", "tenant": "acme", "kind": "money", "period": "month"}
    return Budget(**every | {"amount": 1, "currency": "USD"} | fields)


@pytest.mark.parametrize(("of_budget", "of_price"), [({}, {"tenant": "acme"}), ({}, {}), ({"kind": "prepaid"}, {})])
def test_a_price_in_another_currency_than_the_budget_it_meets_is_refused(store, of_budget, of_price):
    store.put_budget(budget(**of_budget))
    with pytest.raises(InvalidInput, match="currency 'CNY' differs from that of budget b1 of tenant 'acme', USD"):
        plan(store, entry(**of_price))
    assert plan(store, entry(currency="USD", **of_price)).counts()["new"] == 1


@pytest.mark.parametrize("of_budget", [{"kind": "tokens"}, {"is_removed": True}, {"model": "other"}])
def test_budgets_that_a_price_never_meets_may_be_in_any_currency(store, of_budget):
    store.put_budget(budget(**of_budget))
    assert plan(store, entry()).counts()["new"] == 1


def test_a_tenants_own_price_meets_no_budget_of_another_tenant(store):
    create_tenant(store, "Bolt")
    store.put_budget(budget(tenant="bolt", subject="bolt"))
    assert plan(store, entry(tenant="acme")).counts()["new"] == 1


def test_a_tenants_own_price_lets_everybody_elses_be_in_another_currency(store):
    store.put_budget(budget())
    assert plan(store, entry(), entry(tenant="acme", currency="USD")).counts()["new"] == 2


def test_withdrawing_lets_the_version_before_go_on(store):
    take_in(store, entry("2026-12-01"))
    raised = take_in(store, entry("2027-01-01", input=9)).steps[-1].version
    done = withdraw(store, raised.id, now_ms=at("2026-12-20"))
    assert told(done) == [("prolonged", at("2026-12-01"), None), ("withdrawn", at("2027-01-01"), None)]
    assert live(store) == [(at("2026-12-01"), None)]
    assert told(withdraw(store, raised.id)) == [("unchanged", at("2027-01-01"), None)]


def test_withdrawing_one_of_several_leaves_no_gap(store):
    done = take_in(store, entry("2026-12-01"), entry("2027-01-01", input=9), entry("2027-02-01"))
    withdraw(store, done.steps[1].version.id)
    assert live(store) == [(at("2026-12-01"), at("2027-02-01")), (at("2027-02-01"), None)]


def test_what_is_in_force_cannot_be_withdrawn(store):
    price = take_in(store, entry("2026-12-01")).steps[0].version.id
    for now_ms in (at("2026-12-01") - LEAD_MS + 1, at("2026-12-01"), at("2030-01-01")):
        with pytest.raises(InvalidInput, match=r"starts at 2026-12-01: it is or was in force"):
            withdraw(store, price, now_ms=now_ms)
    with pytest.raises(NotFoundError, match=r"no price version 'ghost'.*sluice prices history"):
        withdraw(store, "ghost")


def test_of_two_imports_at_once_the_second_is_told_and_nothing_of_it_is_written(store):
    one, other = plan(store, entry("2027-01-01")), plan(store, entry("2027-01-01", input=9), entry("2027-02-01"))
    carry_out(store, one)
    with pytest.raises(AlreadyExists, match="Somebody else changed the prices just now"):
        carry_out(store, other)
    assert len(store.prices()) == 1


@pytest.mark.parametrize("form", ["yaml", "csv", "json"])
def test_an_export_taken_in_again_changes_nothing_and_makes_the_same_book_elsewhere(store, elsewhere, form):
    take_in(store, entry("2026-01-01", to="2026-02-01"), entry("2026-03-01"), backdate=True, gaps=True)
    take_in(store, entry("2027-01-01", input="0.000001", image="0.5"), entry(tenant="acme", batch_factor="0.5"))
    content = write_prices(store.prices(), form, SHANGHAI).encode()
    entries = read_prices(content, form, "prices", SHANGHAI)
    again = plan_import(store, entries, now_ms=NOW_MS, permits=Permits(gaps=True), zone=SHANGHAI)
    assert again.counts()["unchanged"] == len(entries) == 4
    assert not again.writes
    permits = Permits(backdate=True, gaps=True, unknown_models=True)
    create_tenant(elsewhere, "Acme")
    carry_out(elsewhere, plan_import(elsewhere, entries, now_ms=NOW_MS, permits=permits, zone=SHANGHAI))
    assert facts(PriceBook.of(elsewhere.prices())) == facts(PriceBook.of(store.prices()))


def facts(book):
    return {
        scope: [(each.from_ms, each.to_ms, each.currency, each.batch_thousandths, each.tiers) for each in versions]
        for scope, versions in book.by_scope.items()
    }


HOUR_MS = 3_600_000
hours = st.integers(0, 30).map(lambda hour: at("2026-11-22") + hour * HOUR_MS)
PRICED = {price: read(entry(input=price))[0] for price in "12"}
acts = st.one_of(
    st.tuples(st.just("import"), hours, st.none() | hours, st.sampled_from("12"), st.booleans(), st.booleans()),
    st.tuples(st.just("withdraw"), st.integers(0, 10)),
)


def act(seen, now_ms, what):
    """Give the book after one act, or as it was if it is refused."""
    if what[0] == "withdraw":
        ahead = [each for each in seen if not each.is_withdrawn and each.from_ms >= now_ms + LEAD_MS]
        if not ahead:
            return seen
        changed = _Planner(seen, now_ms, Permits(), SHANGHAI).take_back(ahead[what[1] % len(ahead)])
    else:
        _, from_ms, to_ms, price, backdate, gaps = what
        try:
            wanted = [replace(PRICED[price], from_ms=from_ms, to_ms=to_ms if to_ms and to_ms > from_ms else None)]
            changed = _Planner(seen, now_ms, Permits(backdate=backdate, gaps=gaps), SHANGHAI).add(wanted)
        except InvalidInput:
            return seen
    return list(changed.after.by_id.values())


@given(st.lists(st.tuples(st.integers(0, 2 * HOUR_MS), acts), max_size=25))
def test_whatever_is_imported_or_withdrawn_the_past_stays_and_nothing_overlaps(story):
    """Up to now, and a minute on, a request is rated by the version it would have been rated by before."""
    seen, now_ms = [], at("2026-11-22")
    for pause_ms, what in story:
        now_ms += pause_ms
        after = act(seen, now_ms, what)
        books = PriceBook.of(seen), PriceBook.of(after)
        for at_ms in range(at("2026-11-22"), now_ms + LEAD_MS, HOUR_MS // 2):
            old, new = (book.find("acme", "qwen3", "chat", at_ms) for book in books)
            assert old is None or (new.id, new.tiers) == (old.id, old.tiers)
        for versions in books[1].by_scope.values():
            assert all(one.to_ms is not None and one.to_ms <= two.from_ms for one, two in pairwise(versions))
        seen = after


@given(st.lists(st.tuples(hours, st.sampled_from("12")), min_size=1, max_size=8, unique_by=lambda each: each[0]))
def test_a_book_is_the_same_whether_its_versions_come_at_once_or_one_by_one_in_any_order(wanted):
    (plain,) = read(entry())
    now_ms = at("2026-11-21")
    entries = [
        replace(plain, from_ms=at_ms, tiers=(Tier(0, {Unit.INPUT: int(price) * 1000}),)) for at_ms, price in wanted
    ]
    at_once = _Planner([], now_ms, Permits(), SHANGHAI).add(entries).after
    one_by_one: list[PriceVersion] = []
    for each in entries:
        one_by_one = list(_Planner(one_by_one, now_ms, Permits(), SHANGHAI).add([each]).after.by_id.values())
    assert facts(PriceBook.of(one_by_one)) == facts(at_once)
