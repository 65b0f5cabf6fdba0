"""A pool's token opens that pool and no other, and cannot be made without the token for all."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.worker_tokens import pool_token, pools_of

POOLS = st.text(min_size=1, max_size=30)


@given(POOLS)
def test_a_pools_token_opens_that_pool(pool):
    assert pools_of("secret", pool_token("secret", pool)) == pool


@given(POOLS, POOLS)
def test_a_name_that_is_swapped_opens_nothing(pool, other):
    _, _, mac = pool_token("secret", pool).rpartition("-")
    assert pools_of("secret", f"wt-{other}-{mac}") == (pool if pool == other else None)


@given(POOLS)
def test_the_token_of_another_installation_opens_nothing(pool):
    assert pools_of("secret", pool_token("another", pool)) is None
    assert "secret" not in pool_token("secret", "p")


def test_the_token_for_all_opens_all_and_others_nothing():
    assert pools_of("secret", "secret") == ""
    assert [pools_of("secret", shown) for shown in ("", "wt-", "wt--", "wt-p", "wt-p-", "Secret")] == [None] * 6
