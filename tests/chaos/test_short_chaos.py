"""The chaos run in its short form, and proof that its oracle would find what it looks for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy

from gateway.core.rating import rated
from gateway.stores.database import Database, parse_url
from gateway.stores.schema import migrate
from gateway.stores.sql import SqlJournal
from tests.chaos.run.evidence import Case, Computed, Seen, whole_answers
from tests.chaos.run.ledger import disagreements
from tests.chaos.run.oracle import audit
from tests.chaos.run.plan import ONCE_AT_LEAST, ask, faults
from tests.chaos.run.prices import book
from tests.meter_events import event as make_event

REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "100000"))
NOW_MS = 1_800_000_000_000


@pytest.mark.redis
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_requests_amid_kills_outages_and_full_disks_are_billed_to_the_nano(tmp_path):
    """SQLite, as everybody has it; `make chaos SEED=2` does the same on PostgreSQL."""
    command = [sys.executable, "-m", "tests.chaos.run", "--requests", str(REQUESTS), "--seed", "1"]
    root = Path(__file__).parents[2]
    log = tmp_path / "run.log"
    with log.open("w") as stderr:
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{log.read_text()[-8000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    found = {name: report[name] for name in ("requests", "lost", "doubled", "amount_difference_nano", "seed")}
    assert found == {"requests": REQUESTS, "lost": 0, "doubled": 0, "amount_difference_nano": 0, "seed": 1}
    assert report["kills"] >= 8
    assert report["interrupted"] > 0, "no request was cut by a kill: nothing proved"
    assert report["flags"]["delivered"] > 0, "no client that left was billed: nothing proved"
    assert report["amount_nano"] > 0
    assert report["given_up"] == 0


def test_a_seed_gives_the_same_requests_and_faults_again_and_another_seed_others():
    def drawn(seed):
        return [ask(seed, number) for number in range(50)], [(each.kind, each.at) for each in faults(seed, 100_000)]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)


@pytest.mark.parametrize("requests", [1_000, 100_000])
def test_every_kind_of_fault_strikes_within_the_requests_of_a_run(requests):
    struck = list(faults(3, requests))
    assert {fault.kind for fault in struck} == set(ONCE_AT_LEAST)
    assert [fault.at for fault in struck] == sorted(fault.at for fault in struck)
    assert all(0 < fault.at < requests for fault in struck)


# What an honest Journal says of one request, and what its client and its engine say.
EVENT = make_event(
    id="req_1",
    tenant="acme",
    model="tiny",
    pool="tiny",
    service_class="standard",
    outcome="completed",
    flag="exact",
    arrived_ms=NOW_MS,
    prompt_tokens=20,
    cached_tokens=16,
    completion_tokens=40,
    reasoning_tokens=0,
    price="price_1",
    images=0,
    audio_ms=0,
)
SEEN = Seen("acme", "finished", has_begun=True, words=40, told=(20, 16, 40))
COMPUTED = Computed("done", 20, 16, 40, 40)
LEFT = Seen("acme", "left", has_begun=True, words=8, told=())
CUT = Seen("acme", "cut", has_begun=True, words=33, told=())
DELIVERED = replace(EVENT, outcome="client_gone", flag="delivered", completion_tokens=8)
INTERRUPTED = replace(EVENT, outcome="interrupted", flag="interrupted", completion_tokens=32)


def judged(event, seen, *computed, events=1):
    """Audit one request; its event is rated by its price, as the Journal would."""
    prices = book(NOW_MS)
    case = Case("req_1", events, event, None, seen, list(computed))
    if event is not None:
        case.cost_nano = rated(event, prices.by_id.get(event.price)).cost_nano
    return audit([case], prices)


@pytest.mark.parametrize(
    ("event", "seen", "computed"),
    [
        pytest.param(EVENT, SEEN, COMPUTED, id="finished"),
        pytest.param(EVENT, None, COMPUTED, id="closed just before its gateway died"),
        pytest.param(DELIVERED, LEFT, replace(COMPUTED, outcome="left", completion=30, written=30), id="left"),
        pytest.param(INTERRUPTED, CUT, COMPUTED, id="interrupted"),
        pytest.param(None, None, COMPUTED, id="nobody saw any of it"),
    ],
)
def test_an_honest_journal_is_found_true(event, seen, computed):
    books = judged(event, seen, computed)
    assert books.are_true, books.offenders


def test_what_an_interrupted_request_was_given_and_does_not_pay_is_told_apart():
    assert judged(INTERRUPTED, CUT, COMPUTED).interrupted_unbilled_tokens == 1


CRASHED = Computed("crashed", 20, 16, 12, 10)
WENT_ON = Computed("done", 20 + 9, 25, 31, 31, goes_on=True)  # nine of the ten words were kept


def test_an_answer_that_another_engine_went_on_with_is_billed_as_one():
    answers = whole_answers([WENT_ON, CRASHED])
    assert answers[-1] == Computed("done", 20, 20, 40, 40)
    books = judged(replace(EVENT, cached_tokens=20), replace(SEEN, told=(20, 20, 40)), *answers)
    assert books.are_true, books.offenders


def test_an_engine_that_went_on_with_more_than_was_ever_said_proves_nothing():
    answers = whole_answers([CRASHED, replace(WENT_ON, prompt=20 + 11)])
    assert not judged(EVENT, SEEN, *answers).are_true


def test_the_words_before_a_seam_are_not_billed_twice():
    answers = whole_answers([CRASHED, WENT_ON])
    assert judged(replace(EVENT, completion_tokens=50, cached_tokens=20), SEEN, *answers).doubled == 1


def test_a_finished_request_without_an_event_is_lost():
    assert judged(None, SEEN, COMPUTED).lost == 1


def test_a_stream_that_began_for_its_client_and_has_no_event_is_lost():
    assert judged(None, CUT, COMPUTED).lost == 1


def test_two_events_of_one_request_are_doubled():
    assert judged(EVENT, SEEN, COMPUTED, events=2).doubled == 1


def test_more_tokens_than_an_engine_made_are_doubled():
    assert judged(replace(EVENT, completion_tokens=41), SEEN, COMPUTED).doubled == 1


def test_a_request_that_another_tenant_pays_is_found():
    assert judged(EVENT, replace(SEEN, tenant="night"), COMPUTED).doubled == 1


@pytest.mark.parametrize(
    ("event", "seen"),
    [
        pytest.param(replace(EVENT, completion_tokens=39), SEEN, id="a token too few"),
        pytest.param(replace(EVENT, cached_tokens=0), SEEN, id="cached input at the full price"),
        pytest.param(EVENT, replace(SEEN, words=39), id="a token that the client never got"),
        pytest.param(replace(EVENT, price="price_2"), SEEN, id="another version's price"),
        pytest.param(replace(EVENT, price=""), SEEN, id="no price"),
        pytest.param(replace(DELIVERED, completion_tokens=9), LEFT, id="more than was delivered"),
        pytest.param(replace(DELIVERED, completion_tokens=7), LEFT, id="less than was delivered"),
        pytest.param(replace(INTERRUPTED, completion_tokens=34), CUT, id="interrupted above what was delivered"),
        pytest.param(INTERRUPTED, SEEN, id="interrupted although the client has it all"),
    ],
)
def test_an_amount_that_differs_by_anything_is_found(event, seen):
    books = judged(event, seen, COMPUTED)
    assert books.amount_difference_nano > 0
    assert len(books.offenders) == 1


def test_a_cost_that_the_journal_wrote_wrongly_beside_a_right_event_is_found():
    case = Case("req_1", 1, EVENT, 1, SEEN, [COMPUTED])
    assert "the Journal says it costs 1" in audit([case], book(NOW_MS)).offenders[0]


def test_a_rollup_that_is_not_the_sum_of_its_events_is_found(tmp_path):

    url = f"sqlite:///{tmp_path / 'sluice.db'}"
    migrate(url)
    database = Database(url)
    SqlJournal(database).append([EVENT, replace(EVENT, id="req_2", arrived_ms=NOW_MS + 3_600_000)])
    database.close()
    assert disagreements(url) == []
    engine = sqlalchemy.create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE usage_days SET completion_tokens = completion_tokens + 1"))
    engine.dispose()
    assert len(disagreements(url)) == 2
