"""Which worker gets a request: the least loaded one with credit, of few that are weighed."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.outcome import Outcome
from gateway.core.roster import WorkerState
from gateway.core.routing import SAMPLE, PoolViews, WorkerView, choose, rank, slots
from gateway.errors import Refused

VIEW = WorkerView(
    id="w", pool="p", models=frozenset({"m"}), url="http://w", state=WorkerState.READY, max_seqs=8, credit_seqs=8
)


def view(name="w", **known):
    return replace(VIEW, id=name, **known)


def chosen(*views, prompt_tokens=100, **options):
    worker = choose("m", 1000, prompt_tokens, PoolViews(views), **options)
    return worker and worker.id


def test_the_least_loaded_with_credit_is_chosen():
    busy = view("busy", in_flight=3, outstanding_tokens=3000)
    assert chosen(busy, view("idle"), view("others", others_in_flight=2)) == "idle"
    assert chosen(busy, view("full", in_flight=8)) == "busy"


def test_without_credit_anywhere_nobody_is_chosen():
    assert chosen(view(in_flight=5, others_in_flight=3)) is None
    assert chosen(view(credit_prefill_tokens=4096, prefill_tokens=4000)) is None


def test_where_another_gateways_word_may_be_out_of_date_there_may_be_one_too_many():
    shared = view("shared", in_flight=5, others_in_flight=3, told_in_flight=3)
    assert chosen(shared, view("own", in_flight=8)) == "shared"
    assert chosen(shared, view("free", in_flight=7, outstanding_tokens=10**6)) == "free"
    assert chosen(view(in_flight=6, others_in_flight=3, told_in_flight=3)) is None


def test_a_worker_without_prefill_room_gets_nothing_while_another_has():
    full = view("full", credit_prefill_tokens=4096, prefill_tokens=4000)
    assert {chosen(full, view("roomy", outstanding_tokens=10**6)) for _ in range(50)} == {"roomy"}


def test_a_prompt_beyond_all_credit_goes_to_a_worker_that_prefills_nothing():
    assert chosen(view(credit_prefill_tokens=4096), prompt_tokens=30_000) == "w"
    assert chosen(view(credit_prefill_tokens=4096, prefill_tokens=1), prompt_tokens=30_000) is None


def test_a_suspect_is_chosen_only_if_nobody_else_can_serve():
    suspect = view("suspect", is_suspect=True)
    assert chosen(suspect) == "suspect"
    assert chosen(suspect, view("full", in_flight=8)) is None
    assert chosen(suspect, view("tried"), tried=["tried"]) == "suspect"


@pytest.mark.parametrize(
    "views", [[], [view(state=WorkerState.DRAINING)], [view(models=frozenset())], [view("tried")]], ids=str
)
def test_without_a_worker_that_can_serve_the_request_is_refused(views):
    for decide in (lambda: chosen(*views, tried=["tried"]), lambda: rank("m", 1, views, ["tried"])):
        with pytest.raises(Refused) as refused:
            decide()
        assert refused.value.outcome is Outcome.NO_WORKER


def test_equal_loads_are_drawn_at_random():
    views = [view(f"w{n}") for n in range(4)]
    drawn = Counter(chosen(*views) for _ in range(2000))
    assert all(count > 300 for count in drawn.values())
    assert len(drawn) == 4


@dataclass(frozen=True)
class Looked(WorkerView):
    """A worker that counts how often it is looked at."""

    looks: ClassVar[Counter] = Counter()

    def __getattribute__(self, name):
        if name == "models":
            Looked.looks[super().__getattribute__("id")] += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("in_flight", [0, 8])
def test_of_a_large_pool_only_a_few_workers_are_looked_at(in_flight):
    common = {name: getattr(VIEW, name) for name in ("pool", "models", "url", "state", "credit_seqs")}
    pool = PoolViews(Looked(id=f"w{n}", in_flight=in_flight, **common) for n in range(1000))
    Looked.looks.clear()
    drawn = {worker.id for worker in (choose("m", 1, 1, pool) for _ in range(100)) if worker}
    assert Looked.looks.total() <= 100 * (SAMPLE + 1)
    assert len(drawn) > 60 if in_flight == 0 else not drawn


def test_of_a_large_pool_a_little_loaded_worker_is_chosen():
    pool = PoolViews(view(f"w{n}", outstanding_tokens=n % 2) for n in range(1000))
    assert not any(choose("m", 1, 1, pool).outstanding_tokens for _ in range(100))


def test_the_one_worker_of_a_large_pool_that_has_credit_is_found():
    pool = [view(f"w{n}", in_flight=8) for n in range(1000)]
    pool[123] = view("free")
    assert {chosen(*pool) for _ in range(20)} == {"free"}


def test_slots_are_the_credit_of_the_ready_workers():
    pool = PoolViews([view("a", credit_seqs=5), view("b", credit_seqs=3), view("c", state=WorkerState.LOADING)])
    assert slots(pool) == 8
    pool.put(view("c", credit_seqs=2))
    pool.put(view("b", state=WorkerState.DRAINING))
    pool.drop("unknown")
    assert slots(pool) == 7
    pool.drop("a")
    assert (slots(pool), len(pool), "a" in pool, "b" in pool) == (2, 2, False, True)


changes = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["drop", *WorkerState]), st.integers(0, 3), st.integers(0, 4))
)


@given(changes)
def test_whatever_changes_a_pool_knows_its_free_workers_and_slots(script):
    pool, expected = PoolViews(), {}
    for number, change, credit_seqs, in_flight in script:
        name = f"w{number}"
        if change == "drop":
            pool.drop(name)
            expected.pop(name, None)
        else:
            expected[name] = view(name, state=change, credit_seqs=credit_seqs, in_flight=in_flight)
            pool.put(expected[name])
    ready = [worker for worker in expected.values() if worker.state is WorkerState.READY]
    assert {worker.id: worker for worker in pool} == expected
    assert slots(pool) == sum(worker.credit_seqs for worker in ready)
    assert {worker.id for worker in pool.free} == {worker.id for worker in ready if worker.free_seqs > 0}
    assert len(pool.free) == len({worker.id for worker in pool.free})
