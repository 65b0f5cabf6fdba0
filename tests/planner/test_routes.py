"""Ways to choose a worker, compared in virtual time: every request is served, and what each is good for holds."""

import random
from dataclasses import replace

import pytest

from gateway.core.scheduling import LineBounds
from gateway.planner.caches import BLOCK_TOKENS, BlockCache
from gateway.planner.engine import Pace
from gateway.planner.fleet import Size
from gateway.planner.load import Request
from gateway.planner.routes import POLICIES
from gateway.planner.simulation import Plan, Simulation
from gateway.planner.stories import Ending

PACE = Pace(prefill_tokens_per_s=8000)


def conversations(count=60, turns=5, seed=1, every_s=0.5):
    """Let people talk: a common beginning, an own one, and two blocks more each turn."""
    dice = random.Random(seed)
    requests = []
    for person in range(count):
        at_s, blocks = dice.uniform(0, count * every_s), [0, *(1000 * (person + 1) + n for n in range(6))]
        last_turn = 0
        for _ in range(turns):
            blocks = [*blocks, *(dice.randrange(10**6, 10**9) for _ in range(2))]
            prompt_tokens = BLOCK_TOKENS * len(blocks) + 30
            request = Request(
                at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=40, tenant="a", blocks=tuple(blocks)
            )
            requests.append(replace(request, last_turn=last_turn))
            last_turn = BLOCK_TOKENS * len(blocks)
            at_s += dice.uniform(5, 15)
    return sorted(requests, key=lambda one: one.at_s)


def viral(count=1500, seed=1):
    """Let four of five requests begin alike, which is more than three workers could serve."""
    dice = random.Random(seed)
    requests = []
    for number in range(count):
        own = tuple(dice.randrange(10**6, 10**9) for _ in range(3))
        begin = tuple(range(1, 9)) if dice.random() < 0.8 else tuple(dice.randrange(10**6, 10**9) for _ in range(8))
        tokens = BLOCK_TOKENS * 11
        requests.append(
            Request(at_s=number / 20, prompt_tokens=tokens, output_tokens=30, tenant="a", blocks=begin + own)
        )
    return requests


def play(requests, policy, workers=8, gateways=4, seed=1, pace=PACE, **options):
    plan = Plan(
        size=Size(workers=workers),
        pace=pace,
        bounds=LineBounds(tenant_share=1.0),
        seed=seed,
        policy=policy,
        gateways=gateways,
        cache_tokens=200_000,
        **options,
    )
    return Simulation(requests, plan).run()


def mean_ttft_s(course):
    return sum(story.ttft_s for story in course.stories) / len(course.stories)


def cached_share(course):
    return sum(s.cached_tokens for s in course.stories) / sum(s.request.prompt_tokens for s in course.stories)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_served_and_a_seed_replays_exactly(policy):
    requests = conversations(20)
    first, second = play(requests, policy), play(requests, policy)
    assert all(story.ending is Ending.SERVED for story in first.stories)
    assert [s.first_s for s in first.stories] == [s.first_s for s in second.stories]


def test_conversations_find_their_prefixes_again_whatever_gateway_they_come_through():
    requests = conversations(120, turns=8)
    one, eight = (cached_share(play(requests, "sluice", gateways=count)) for count in (1, 8))
    assert eight > 0.985 * one
    assert eight > 2 * cached_share(play(requests, "round_robin"))
    assert one > 0.9 * cached_share(play(requests, "oracle"))


def test_a_viral_prefix_is_served_no_later_than_by_chance():
    requests = viral()
    assert mean_ttft_s(play(requests, "sluice")) <= mean_ttft_s(play(requests, "random"))


def test_prefixes_are_found_in_a_full_pool_too_because_requests_wait_for_the_worker_that_has_theirs():
    requests = conversations(120, every_s=0.05)
    narrow = Pace(prefill_tokens_per_s=8000, max_num_seqs=3)
    waiting, hasty = (play(requests, "sluice", pace=narrow, credit_wait_s=wait_s) for wait_s in (2.0, 0.0))
    assert sum(story.granted_s > story.request.at_s for story in waiting.stories) > len(requests) / 2, (
        "the pool is full"
    )
    assert cached_share(waiting) > 1.3 * cached_share(hasty)
    assert mean_ttft_s(waiting) < mean_ttft_s(hasty)


def test_a_cache_holds_what_was_used_last_and_only_whole_beginnings_count():
    cache = BlockCache(4 * BLOCK_TOKENS)
    cache.put([1, 2, 3])
    assert cache.held_tokens([1, 2, 9]) == 2 * BLOCK_TOKENS
    assert cache.held_tokens([9, 1, 2]) == 0
    cache.put([7, 8])
    assert cache.held_tokens([1, 2, 3]) == 0, "the first block was the least recently used"
