"""Applying any files in any order, on both databases: what is declared is what the last one says."""

from functools import partial

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.commands.pool_desk import PoolDesk
from gateway.control.pool_file import read_pool_file
from gateway.control.pools import carry_out, plan_apply
from gateway.core.directory import Model, Snapshot
from gateway.core.zones import load_zone
from gateway.stores.sql_directory import SqlDirectory
from gateway.stores.sql_pools import SqlPools

NOW_MS = 1_800_000_000_000
HAND = Model(name="hand", pool="p9", created_ms=1)

POOLS = st.sampled_from(["p0", "p1", "p2"])
POOL = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n"])},
    optional={
        "workers": st.builds(lambda least, more: {"min": least, "max": max(1, least) + more}, *[st.integers(0, 3)] * 2),
        "engine_args": st.lists(st.sampled_from(["--max-model-len=512", "--x"]), max_size=2),
        "wait_s_max": st.dictionaries(st.sampled_from(["interactive", "batch"]), st.integers(1, 99)),
        "adapters": st.just({"lora": "acme/lora"}),
        "idle_s": st.floats(1, 900),
    },
)


@st.composite
def files(draw):
    """Make a file that can be applied: up to three pools, and names that they share."""
    pools = draw(st.dictionaries(POOLS, POOL, max_size=3))
    for pool in list(pools)[1:]:
        pools[pool].pop("adapters", None)  # an adapter's name, like any, is served once
    weights = st.dictionaries(st.sampled_from(sorted(pools)), st.integers(1, 9), min_size=1) if pools else st.nothing()
    models = draw(st.dictionaries(st.sampled_from(["plus", "max", "p0"]), weights)) if pools else {}
    text = yaml.safe_dump({"port": 8080, "pools": pools, "models": models}, sort_keys=draw(st.booleans()))
    file = read_pool_file(text.encode(), "sluice.yaml")
    file.check()
    return file


def apply(store, file):
    return carry_out(store, lambda: plan_apply(store.declared(), file, now_ms=NOW_MS), who="ada@host", now_ms=NOW_MS)


def says(store):
    """Give what is declared, by files alone: pools, and whom each name is asked of."""
    declared = store.declared()
    models = [model for model in declared.models if model.is_from_file and not model.is_retired]
    return {pool.name: pool for pool in declared.pools}, {each.name: each.weights or {each.pool: 1} for each in models}


def meant(file):
    shares = {name: weights if len(weights) > 1 else dict.fromkeys(weights, 1) for name, weights in file.names.items()}
    return dict(file.pools), shares


def test_any_files_in_any_order(database):
    """One database for all examples: whatever was declared before, a file says all there is to say."""
    store, directory = SqlPools(database), SqlDirectory(database)
    directory.put_model(HAND)
    desk = PoolDesk(directory, store, NOW_MS, load_zone("UTC"))
    followed = [Snapshot()]

    @settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(files(), files())
    def examples(one, other):
        apply(store, one)
        assert says(store) == meant(one)
        plan, again = apply(store, one)
        assert (plan.changes, again) == ([], None), "the same file twice changes nothing"
        number = store.declared().number
        apply(store, other)
        assert says(store) == meant(other)
        if number:
            carry_out(store, partial(desk.plan_rollback, number), who="ada@host", now_ms=NOW_MS)
            assert says(store) == meant(one), "what is taken back is what there was"
        if changes := directory.changes_since(followed[0].version):
            followed[0] = followed[0].apply(changes)
        assert followed[0] == Snapshot().apply(directory.changes_since(-1)), "who follows sees what who starts sees"
        assert directory.model("hand") == HAND

    examples()
