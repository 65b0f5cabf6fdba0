"""The figures of a drill mean what their module says."""

import asyncio
from urllib.parse import urlsplit

import pytest
import redis.asyncio

from gateway.commands.drill.client import Ending, Story
from gateway.commands.drill.figures import Observed, fairness, figures, percentile
from gateway.commands.drill.scenario import Scenario, Visit
from gateway.commands.drill.watch import GatewayCosts, RedisMeter
from tests.waiting import until

SCENARIO = Scenario(
    users=0, over_s=1.0, spike=1.0, calm_s=0.0, tenants=2, classes={"standard": 1.0}, prompt_tokens=1, output_tokens=1
)


def story(ending=Ending.SERVED, sent_s=0.0, begun_s=None, ended_s=None, *, tenant=0, at_s=0.0, **fields) -> Story:
    visit = Visit(number=0, at_s=at_s, tenant=tenant, service_class="standard", prompt_tokens=10, output_tokens=10)
    return Story(visit, 0, ending, sent_s, begun_s, begun_s, ended_s, **fields)


def figured(*stories, **seen):
    observed = {
        "scenario": SCENARIO,
        "stories": stories,
        "began_s": 0.0,
        "ended_s": 100.0,
        "wait_limits_s": {"standard": 50.0},
        "waiting_max": 0,
        "client_lag_s_max": 0.0,
        "removal_ms": (),
        "gateways": 1,
        "drill_cpu_s": 0.0,
    }
    return figures(Observed(**observed | seen))


def test_what_ended_in_no_good_way_or_not_at_all_is_lost():
    result = figured(
        story(Ending.LOST, ended_s=1.0, code="connection_closed"),
        story(Ending.RUNNING, begun_s=1.0),
        story(Ending.WAITING),
        story(Ending.LEFT, ended_s=2.0),
        story(Ending.REFUSED, ended_s=1.0, code="queue_full"),
        story(begun_s=1.0, ended_s=2.0),
    )
    assert (result["served"], result["refused"], result["left"], result["lost"]) == (1, 1, 1, 3)
    assert result["refusals"] == {"queue_full": 1}
    assert result["losses"] == {"connection_closed": 1, "running": 1, "waiting": 1}


def test_starved_is_who_waited_beyond_the_limit_or_waits_still():
    result = figured(
        story(begun_s=50.5, ended_s=51.0),
        story(begun_s=49.5, ended_s=60.0),
        story(Ending.REFUSED, ended_s=50.5),
        story(Ending.WAITING, sent_s=99.0),
    )
    assert result["starved"] == 3


def test_who_came_in_the_calm_counts_only_when_lost_or_starved():
    result = figured(story(Ending.LOST, ended_s=1.0, at_s=-1.0), story(begun_s=60.0, ended_s=61.0, at_s=-1.0))
    assert (result["served"], result["lost"], result["starved"]) == (0, 1, 1)


def test_an_eta_is_compared_from_the_tenth_second_on_with_the_wait_that_was_left():
    told = [(5.0, 99.0), (12.0, 10.0), (14.0, 99.0)]
    late = [(31.5, 99.0)]  # less than a second before its turn
    result = figured(
        story(begun_s=32.0, ended_s=33.0, places=told),  # told 10, had 20
        story(begun_s=40.0, ended_s=41.0, places=[(20.0, 30.0)]),  # told 30, had 20
        story(begun_s=32.0, ended_s=33.0, places=late),
        story(Ending.LEFT, ended_s=33.0, places=told),
    )
    assert (result["etas_compared"], result["eta_error_mean"], result["eta_bias_mean"]) == (2, 0.5, 0.0)
    assert result["eta_by_class"]["standard"] == {"eta_error_mean": 0.5, "eta_bias_mean": 0.0}


def test_without_etas_and_tickets_to_follow_nothing_is_claimed():
    result = figured(story(begun_s=1.0, ended_s=2.0))
    unknown = ("eta_error_mean", "hangup_removed_ms_p99", "fairness_jain", "gateway_memory_kib_per_waiting")
    assert [result[name] for name in (*unknown, "redis_ops_per_request")] == [None] * 5


def test_fairness_is_jains_index_of_the_tokens_while_all_were_backlogged():
    """One tenant is served three times as often as the other, until the rush of both is over."""
    stories = [
        story(begun_s=1.0 + turn, ended_s=200.0, tenant=int(turn % 4 == 3), prompt_tokens=5, completion_tokens=5)
        for turn in range(60)
    ]
    alone = [story(sent_s=300.0, begun_s=301.0 + turn, ended_s=400.0, prompt_tokens=99) for turn in range(50)]
    assert fairness(stories + alone) == pytest.approx(60**2 / (2 * (45**2 + 15**2)), abs=0.02)
    assert fairness(stories[:12] + alone) is None, "too few to say"
    equal = [story(begun_s=1.0 + turn, ended_s=99.0, tenant=turn % 2, prompt_tokens=5) for turn in range(60)]
    assert fairness(equal) == pytest.approx(1.0, abs=0.01)


def test_costs_are_divided_by_those_who_caused_them():
    scenario = Scenario(**{name: getattr(SCENARIO, name) for name in SCENARIO.__slots__} | {"users": 10})
    costs = GatewayCosts(rss_before=1 << 20, rss_max=3 << 20, cpu_s=0.05)
    result = figured(scenario=scenario, waiting_max=8, costs=costs, redis_calls=25)
    assert result["gateway_memory_kib_per_waiting"] == 256.0
    assert result["gateway_cpu_ms_per_request"] == 5.0
    assert result["redis_ops_per_request"] == 2.5


def test_a_percentile_is_a_value_that_was_there():
    assert percentile([], 99) is None
    assert [percentile(range(1, 101), percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]


@pytest.mark.redis
async def test_redis_is_asked_once_for_a_script_whatever_the_script_asks(redis_url):
    """Three commands of a client, one of which is a script of twenty; its arguments may look like anything."""
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.ping()  # connected, and its greetings are over
        meter = RedisMeter(urlsplit(redis_url).port, "")
        counting = asyncio.ensure_future(meter.run())
        await until(lambda: meter.calls == 2)  # the answers to AUTH and MONITOR: from now on it hears
        meter.begin()
        await client.set("a", "line\r\nbreak")
        await client.eval("for i = 1, 20 do redis.call('INCR', KEYS[1]) end", 1, "n")
        await client.get("n")
        await until(lambda: meter.calls >= 3)
        assert meter.calls == 3
        counting.cancel()
        await asyncio.wait({counting})
