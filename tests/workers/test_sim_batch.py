"""The simulated engine's batch and cache, stepped by hand: no clock, no sockets."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engines.sim_batch import Batch, Pace, Sequence, block_keys
from workers.engines.sim_cache import BLOCK_TOKENS, BlockCache

PACE = Pace(prefill_tokens_per_s=1000, inter_token_s=0.01, max_num_seqs=2, max_batched_tokens=512, cache_blocks=64)


def make(prompt_tokens, max_tokens=4, seed=0, **fields):
    state, keys = block_keys([seed + number for number in range(prompt_tokens)], fields.get("salt", 0))
    return Sequence(owner=None, prompt_tokens=prompt_tokens, state=state, keys=keys, max_tokens=max_tokens, **fields)


def run(batch, *sequences):
    """Add *sequences* and step until all is done; gives the ids each has made."""
    for sequence in sequences:
        batch.add(sequence)
    ids = {id(sequence): [] for sequence in sequences}
    while batch.begin_step() is not None:
        for made in batch.end_step():
            ids[id(made)].append(made.last_id)
    return [ids[id(sequence)] for sequence in sequences]


def test_a_step_lasts_the_inter_token_time_plus_its_prefill():
    batch = Batch(PACE)
    batch.add(make(300))
    assert batch.begin_step() == 0.01 + 300 / 1000
    batch.end_step()
    assert batch.begin_step() == 0.01


def test_a_long_prompt_is_prefilled_in_chunks_of_the_step_budget():
    batch = Batch(PACE)
    batch.add(make(1000))
    chunks = []
    while not batch.counters.generation_tokens:
        chunks.append(round((batch.begin_step() - 0.01) * 1000))
        batch.end_step()
    assert chunks == [512, 488]


def test_a_repeated_prompt_hits_all_its_full_blocks_but_never_its_last_token():
    batch = Batch(PACE)
    first, second, third = make(3 * BLOCK_TOKENS), make(3 * BLOCK_TOKENS), make(3 * BLOCK_TOKENS + 1)
    for sequence in (first, second, third):
        run(batch, sequence)
    assert [s.cached for s in (first, second, third)] == [0, 2 * BLOCK_TOKENS, 3 * BLOCK_TOKENS]


def test_a_conversation_hits_the_answer_it_contains():
    batch = Batch(PACE)
    prompt = list(range(100))
    state, keys = block_keys(prompt, 0)
    first = Sequence(owner=None, prompt_tokens=100, state=state, keys=keys, max_tokens=60)
    [answer] = run(batch, first)
    state, keys = block_keys([*prompt, *answer, 7, 8, 9], 0)
    second = Sequence(owner=None, prompt_tokens=163, state=state, keys=keys, max_tokens=1)
    run(batch, second)
    assert second.cached == BLOCK_TOKENS


def test_another_cache_salt_hits_nothing_but_says_the_same():
    batch = Batch(PACE)
    plain, salted = make(300), make(300, salt=1 << 40)
    [words], [salted_words] = run(batch, plain), run(batch, salted)
    assert salted.cached == 0
    assert salted_words == words


def test_no_more_run_than_the_batch_holds_and_the_others_wait_in_order():
    batch = Batch(PACE)
    sequences = [make(10, seed=seed) for seed in range(4)]
    for sequence in sequences:
        batch.add(sequence)
    batch.begin_step()
    assert repr(batch).startswith("<Batch [2 running, 2 waiting")
    finished = []
    while batch.running:
        finished += [made for made in batch.end_step() if made.finish_reason]
        batch.begin_step()
    assert finished == sequences


def test_the_least_recently_used_block_is_evicted_first():
    cache = BlockCache(2)
    for key in (1, 2):
        assert cache.take(1)
        cache.publish(key)
        cache.free([key], 0)
    assert cache.pin([1]) == 1  # 1 is now the more recent one
    cache.free([1], 0)
    assert cache.take(1)
    assert (cache.pin([1]), cache.pin([2])) == (1, 0)


def test_a_cache_without_room_makes_the_next_wait_rather_than_overfill():
    cache = BlockCache(2)
    assert cache.take(2)
    assert not cache.take(1)
    assert repr(cache) == "<BlockCache [2 used, 0 idle, 2 in all]>"


def test_an_aborted_sequence_leaves_no_block_pinned():
    batch = Batch(PACE)
    running, waiting = make(300), make(300, seed=9)
    for sequence in (running, waiting):
        batch.add(sequence)
    batch.begin_step()
    batch.end_step()
    batch.abort(running)
    batch.abort(waiting)
    assert batch.begin_step() is None
    assert batch.cache.used == 0


def test_only_whom_a_step_had_no_room_for_is_reported_as_waiting():
    """As in vLLM, which counts after scheduling: what arrives during a step is not in line yet."""
    batch = Batch(PACE)
    for seed in range(5):
        batch.add(make(5, seed=seed))
    assert (batch.waiting, batch.left_waiting) == (5, 0)
    batch.begin_step()
    assert (batch.waiting, batch.left_waiting) == (3, 3)
    batch.add(make(5, seed=5))
    assert (batch.waiting, batch.left_waiting) == (4, 3)
    while batch.begin_step() is not None:
        batch.end_step()
    assert batch.left_waiting == 0


def test_preemption_changes_no_token():
    roomy, tight = Batch(PACE), Batch(Pace(max_num_seqs=2, cache_blocks=5))
    sequences = [[make(200, 250, seed=seed) for seed in (1, 2)] for _ in range(2)]
    assert run(tight, *sequences[0]) == run(roomy, *sequences[1])
    assert tight.counters.preemptions > 0
    assert tight.counters.prompt_tokens == roomy.counters.prompt_tokens == 400
    assert tight.cache.used == 0


def test_min_tokens_keeps_an_answer_from_ending_early():
    lengths = [len(run(Batch(PACE), make(5, 200, seed=s, mean_tokens=3, min_tokens=50))[0]) for s in range(8)]
    assert min(lengths) > 50
    assert max(lengths) < 200


steps = st.lists(st.tuples(st.sampled_from(["add", "abort", "step"]), st.integers(0, 400)), max_size=80)


@settings(max_examples=150)
@given(steps)
def test_whatever_comes_and_goes_the_blocks_add_up(script):
    """Used blocks are those of running sequences, never more than there are; in the end none is left."""
    batch = Batch(Pace(max_num_seqs=3, max_batched_tokens=256, cache_blocks=8))
    alive = []
    for verb, number in script:
        if verb == "add":
            alive.append(make(number + 1, 1 + number % 300, seed=number % 3))
            batch.add(alive[-1])
        elif verb == "abort" and alive:
            batch.abort(alive.pop(number % len(alive)))
        elif verb == "step" and batch.begin_step() is not None:
            batch.end_step()
        alive = [sequence for sequence in alive if sequence.finish_reason is None]
        running = [*batch._prefilling, *batch._decoding]
        assert len(running) <= 3
        assert batch.cache.used <= min(8, sum(sequence.blocks for sequence in running))
        assert batch.cache._private == sum(sequence.blocks - sequence.published for sequence in running)
        assert batch.cache.used + len(batch.cache._idle) <= 8
    for sequence in alive:
        batch.abort(sequence)
    assert (batch.running, batch.waiting, batch.cache.used) == (0, 0, 0)
