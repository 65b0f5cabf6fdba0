"""Which worker a request meets: never one that cannot serve it, the one that holds its prompt if that is worth it."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.affinity import Chain, mix
from gateway.core.chain import EMPTY, chat_chain
from gateway.core.outcome import Outcome
from gateway.core.policies import Ask
from gateway.core.roster import WorkerState
from gateway.core.router import NAMES, SLUICE, Leaning, Router
from gateway.core.routing import PoolViews, WorkerView, has_prefill_room
from gateway.errors import Refused

VIEW = WorkerView(
    id="w", pool="p", models=frozenset({"m"}), url="http://w", state=WorkerState.READY, max_seqs=8, credit_seqs=8
)


def view(name, **known):
    return replace(VIEW, id=name, **known)


def talk(*texts, tenant="acme"):
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return chat_chain(tenant, {"model": "m", "messages": messages})


def ask(chain=EMPTY, **known):
    return Ask(**{"model": "m", "work": 1000, "prompt_tokens": chain.length or 100, "chain": chain, **known})


def chosen(router, wanted, *views, **options):
    choice = router.choose(wanted, PoolViews(views), 0.0, **options)
    return choice.worker and choice.worker.id


def pool_of(count, **known):
    return PoolViews(view(f"w{number}", **known) for number in range(count))


workers = st.lists(
    st.builds(
        dict,
        state=st.sampled_from([WorkerState.READY, WorkerState.READY, WorkerState.DRAINING]),
        models=st.sampled_from([frozenset({"m"}), frozenset({"m", "adapter"}), frozenset()]),
        in_flight=st.integers(0, 9),
        others_in_flight=st.integers(0, 2),
        prefill_tokens=st.integers(0, 5000),
        credit_prefill_tokens=st.just(4096),
        is_suspect=st.booleans(),
        kv_cache_usage=st.floats(0, 1),
        prefill_tokens_per_s=st.sampled_from([0.0, 500.0, 8000.0]),
    ),
    max_size=8,
)
chains = st.lists(st.sampled_from(["x" * 900, "y" * 9000, "z" * 40]), max_size=4).map(lambda texts: talk(*texts))


@pytest.mark.parametrize("policy", NAMES)
@settings(max_examples=40)
@given(workers, st.sampled_from(["m", "adapter"]), st.lists(chains, min_size=1, max_size=5), st.integers())
def test_a_request_meets_only_workers_that_can_serve_it_and_have_credit(policy, pool, model, prompts, seed):
    views = PoolViews(view(f"w{number}", **known) for number, known in enumerate(pool))
    router = Router(policy, random.Random(seed))
    for chain in prompts:
        wanted = ask(chain, model=model, tried=["w0"])
        able = {v.id for v in views if v.state is WorkerState.READY and model in v.models and v.id != "w0"}
        if not able:
            with pytest.raises(Refused) as refused:
                router.choose(wanted, views, 0.0)
            assert refused.value.outcome is Outcome.NO_WORKER
            continue
        choice = router.choose(wanted, views, 0.0)
        if choice.worker:
            assert choice.worker.id in able
            assert choice.worker.free_seqs > 0
            assert has_prefill_room(choice.worker, choice.prefill_tokens)
            assert not choice.worker.is_suspect or all(v.is_suspect for v in views if v.id in able)
            router.note(wanted, choice.worker.id, 0.0)


@pytest.mark.parametrize("policy", NAMES)
@settings(max_examples=40)
@given(workers, chains, st.integers())
def test_equal_dice_choose_alike(policy, pool, chain, seed):
    views = [view(f"w{number}", **known) for number, known in enumerate(pool)]

    def play():
        try:
            return chosen(Router(policy, random.Random(seed)), ask(chain), *views)
        except Refused:
            return "refused"

    assert play() == play()


@pytest.mark.parametrize("policy", NAMES)
def test_every_worker_gets_its_part_of_what_has_nothing_in_common(policy):
    router, pool = Router(policy, random.Random(1)), pool_of(8)
    counts = Counter()
    for number in range(2000):
        wanted = ask(talk(f"{number} " + "river " * 300))
        choice = router.choose(wanted, pool, 0.0)
        router.note(wanted, choice.worker.id, 0.0)
        counts[choice.worker.id] += 1
    assert len(counts) == 8
    assert max(counts.values()) < 2 * 2000 / 8


def test_the_next_turn_meets_the_worker_that_had_the_last_one():
    router, pool = Router(dice=random.Random(1)), pool_of(8)
    first = ask(talk("river " * 500))
    worker = router.choose(first, pool, 0.0).worker.id
    router.note(first, worker, 0.0)
    second = router.choose(ask(talk("river " * 500, "a lock", "more")), pool, 1.0)
    assert (second.worker.id, second.held_tokens) == (worker, first.chain.length)
    assert second.prefill_tokens < 20


def test_a_second_turn_that_another_gateway_had_first_goes_home():
    pool, first = pool_of(8), ask(talk("river " * 500))
    began = Router(dice=random.Random(1)).choose(first, pool, 0.0).worker.id
    assert began == pool.ring.homes(first.chain.key)[0]
    other = Router(dice=random.Random(2)).choose(ask(talk("river " * 500, "a lock", "more")), pool, 0.0)
    assert other.worker.id == began


def test_who_had_the_last_turn_beats_a_home_as_long_as_that_can_have_no_more():
    router, pool = Router(dice=random.Random(1)), pool_of(8)
    talked = ["river " * 500]
    home, *_, last_home = pool.ring.homes(ask(talk(*talked)).chain.key)
    router.note(ask(talk(*talked)), last_home, 0.0)
    pool.put(view(last_home, prefill_tokens=ask(talk(*talked)).chain.length))
    talked += ["lock " * 10, "gate " * 500]
    assert router.choose(ask(talk(*talked)), pool, 0.0).worker.id == last_home, "half the prompt is known to be there"
    talked += ["lock " * 10, "weir " * 500, "lock " * 10, "boat " * 500]
    assert router.choose(ask(talk(*talked)), pool, 0.0).worker.id == home, "another gateway had a turn between"


@pytest.mark.parametrize(("is_told", "found_min"), [(False, 0.9), (True, 0.98)])
def test_a_conversation_stays_where_it_is_whatever_gateways_its_turns_come_through(is_told, found_min):
    dice = random.Random(1)
    routers = [Router(dice=random.Random(number)) for number in range(8)]
    held, found, asked = {}, 0, 0
    for person in range(60):
        talked = [f"{person} " + "river " * 500]
        for turn in range(8):
            wanted, router = ask(talk(*talked)), dice.choice(routers)
            busy = [view(f"w{number}", prefill_tokens=dice.choice([0, 0, 1000])) for number in range(8)]
            worker = router.choose(wanted, PoolViews(busy), 0.0).worker.id
            told = router.note(wanted, worker, 0.0)
            for other in routers if told and is_told else ():
                other.hear(told, worker, 0.0)
            if turn:
                found += max((length for at, length in held[person] if at == worker), default=0)
                asked += wanted.chain.last_turn
            held.setdefault(person, []).append((worker, wanted.chain.length))
            talked += ["lock " * 100, f"{turn} " + "gate " * 100]
    assert found / asked > found_min


def test_a_second_turn_whose_first_went_elsewhere_than_home_is_found_by_who_heard_of_it():
    pool, first, second = pool_of(8), talk("river " * 500), talk("river " * 500, "a lock", "more")
    home, *_, last_home = pool.ring.homes(first.key)
    pool.put(view(home, prefill_tokens=10_000))
    sender, hearer, other = (Router(dice=random.Random(number)) for number in range(3))
    wanted = ask(first)
    sender.choose(wanted, pool, 0.0)
    told = sender.note(wanted, last_home, 0.0)
    assert told == first.next_begins_with
    hearer.hear(told, last_home, 0.0)
    pool.put(view(home))
    found = hearer.choose(ask(second), pool, 0.2)
    assert (found.worker.id, found.held_tokens) == (last_home, second.last_turn)
    assert other.choose(ask(second), pool, 0.2).worker.id == home


def test_others_hear_only_of_chats_and_only_of_what_they_would_look_for_elsewhere():
    pool, first = pool_of(8), talk("river " * 500)
    home, *_, last_home = pool.ring.homes(first.key)
    document = replace(first, last_turn=None)
    for policy, chain, worker, is_told in [
        (SLUICE, first, last_home, True),
        (SLUICE, first, home, False),
        (SLUICE, document, last_home, False),
        (SLUICE, EMPTY, last_home, False),
        ("sglang", first, last_home, False),
    ]:
        router, wanted = Router(policy, random.Random(1)), ask(chain)
        router.choose(wanted, pool, 0.0)
        assert (router.note(wanted, worker, 0.0) is not None) is is_told


def test_a_simple_policy_goes_by_what_it_sent_itself():
    router = Router("sglang", random.Random(1))
    router.hear(1, "w1", 0.0)
    assert repr(router) == "<Router [0 beginnings]>"


def test_a_worker_that_has_the_prompt_is_left_when_too_much_waits_there():
    router = Router(dice=random.Random(1))
    wanted = ask(talk("river " * 500))
    router.note(wanted, "home", 0.0)
    tokens = wanted.chain.length
    assert chosen(router, wanted, view("home", prefill_tokens=tokens), view("other")) == "home"
    assert chosen(router, wanted, view("home", prefill_tokens=3 * tokens), view("other")) == "other"


def full_home(**known):
    router = Router(dice=random.Random(1))
    wanted = ask(talk("river " * 2000), **known)
    router.note(wanted, "home", 0.0)
    return router, wanted


def test_a_request_waits_for_the_worker_that_has_its_prompt_but_not_for_ever():
    router, wanted = full_home()
    views = view("home", in_flight=8), view("other")
    choice = router.choose(wanted, PoolViews(views), 0.0)
    assert (choice.worker, choice.leans_on) == (None, "home")
    assert chosen(router, wanted, *views, waits=False) == "other"


def test_who_waits_for_a_worker_is_passed_over_by_others_but_not_for_its_room():
    router, wanted = full_home()
    pool = PoolViews([view("home", credit_prefill_tokens=4096, prefill_tokens=4096), view("other", in_flight=6)])
    leaning = Leaning()
    leaning.add(router.choose(wanted, pool, 0.0, leaning))
    assert leaning.can_be_passed
    assert chosen(router, ask(), *pool, leaning=leaning) == "other"
    pool.put(view("home", credit_prefill_tokens=4096, prefill_tokens=0, in_flight=7))
    pool.put(view("other", in_flight=8))
    assert chosen(router, ask(), *pool, leaning=leaning) is None
    assert chosen(router, wanted, *pool) == "home"


def test_not_all_wait_for_one_worker():
    router, _ = full_home()
    pool = PoolViews([view("home", credit_prefill_tokens=4096, prefill_tokens=4096), view("other")])
    leaning, sent = Leaning(), 0
    for number in range(100):
        choice = router.choose(ask(talk("river " * 2000, "and", str(number) * 4000)), pool, 0.0, leaning)
        sent += choice.worker is not None
        if choice.worker is None:
            leaning.add(choice)
    assert sent > 50, "what waits for a worker counts as outstanding there"


def test_an_adapter_goes_home_among_the_few_workers_that_have_it():
    few = [view(f"a{number}", models=frozenset({"m", "adapter"})) for number in range(3)]
    pool = PoolViews([*(view(f"w{number}") for number in range(30)), *few])
    homes = {
        key: [
            Router(dice=random.Random(seed)).choose(
                ask(Chain(mix(3, key), (key + 1,), (2000,)), model="adapter"), pool, 0.0
            )
            for seed in range(8)
        ]
        for key in range(40)
    }
    assert {choice.worker.id for choices in homes.values() for choice in choices} <= {"a0", "a1", "a2"}
    found = sum(len({choice.worker.id for choice in choices}) == 1 for choices in homes.values())
    assert found > 25, "most conversations have one home, whatever the gateway"


def test_a_slower_worker_gets_less_and_a_dearer_one_too():
    router = Router(dice=random.Random(1))
    wanted = ask(talk("river " * 500))
    slow, fast = view("slow", prefill_tokens_per_s=2000.0), view("fast", prefill_tokens_per_s=8000.0)
    assert {chosen(router, wanted, slow, fast) for _ in range(30)} == {"fast"}
    assert chosen(router, wanted, slow, replace(fast, prefill_tokens=9000)) == "slow"
    thrifty = Router(dice=random.Random(1), cost_weights={"big-*": 3.0})
    assert {chosen(thrifty, wanted, view("big-1"), view("small-1")) for _ in range(30)} == {"small-1"}


def test_differences_that_may_be_chance_do_not_count():
    router = Router(dice=random.Random(1))
    pair = view("a", prefill_tokens_per_s=8000.0), view("b", prefill_tokens_per_s=7000.0)
    drawn = Counter(chosen(router, ask(talk("x" * 400)), *pair) for _ in range(200))
    assert min(drawn.values()) > 50


def test_a_cache_that_is_nearly_full_is_avoided_and_batches_fill_evenly():
    router = Router(dice=random.Random(1))
    assert {chosen(router, ask(), view("full", kv_cache_usage=0.99), view("other")) for _ in range(20)} == {"other"}
    assert {chosen(router, ask(), view("busy", in_flight=4), view("other")) for _ in range(20)} == {"other"}


def test_a_viral_prefix_spreads_over_the_pool():
    router, pool, counts = Router(dice=random.Random(1)), pool_of(16, credit_seqs=64), Counter()
    for number in range(400):
        wanted = ask(talk("river " * 800, "yes", str(number) * 100))
        choice = router.choose(wanted, pool, 0.0)
        router.note(wanted, choice.worker.id, 0.0)
        counts[choice.worker.id] += 1
        pool.put(
            replace(
                choice.worker,
                in_flight=choice.worker.in_flight + 1,
                prefill_tokens=choice.worker.prefill_tokens + choice.prefill_tokens,
            )
        )
    assert len(counts) == 16
    assert max(counts.values()) < 3 * 400 / 16


def test_the_policies_have_names():
    assert NAMES == (SLUICE, "round_robin", "power_of_two", "chwbl", "sglang", "least_load", "random")
