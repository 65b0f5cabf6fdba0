"""Loads that are described: rates, spikes, shares; and how people write them."""

import re
from collections import Counter

import pytest

from gateway.core.directory import ServiceClass
from gateway.errors import InvalidInput
from gateway.planner.load import Crowd, Lengths, Load, Request, draw_load, multiply, populate
from gateway.planner.quantities import (
    Share,
    Spike,
    parse_classes,
    parse_duration_s,
    parse_goal,
    parse_spike,
    parse_tenant,
)


def between(requests, start_s, end_s):
    return sum(start_s <= one.at_s < end_s for one in requests)


def test_a_spike_multiplies_the_rate_for_its_time():
    requests = draw_load(Load(rps=2, length_s=1000, spike=Spike(50, 400, 100)), seed=1)
    assert between(requests, 0, 400) == pytest.approx(800, rel=0.15)
    assert between(requests, 400, 500) == pytest.approx(10_000, rel=0.05)
    assert between(requests, 500, 1000) == pytest.approx(1000, rel=0.15)
    assert [one.at_s for one in requests] == sorted(one.at_s for one in requests)


def test_so_many_users_come_exactly_most_of_them_in_the_spike():
    requests = draw_load(Load(users=1000, length_s=100, spike=Spike(9, 50, 10)), seed=1)
    assert len(requests) == 1000
    assert between(requests, 50, 60) == pytest.approx(500, rel=0.1)


def test_a_spike_over_a_trace_repeats_its_own_requests_within_the_spike():
    trace = [Request(at_s=n, prompt_tokens=n + 1, output_tokens=1) for n in range(100)]
    spiked = multiply(trace, Spike(3.5, 20, 40), seed=1)
    assert between(spiked, 20, 60) == pytest.approx(140, abs=15)
    assert [one for one in spiked if not 20 <= one.at_s < 60] == [one for one in trace if not 20 <= one.at_s < 60]
    assert {one.prompt_tokens for one in spiked if 20 <= one.at_s < 60} <= set(range(21, 61))


def test_a_spike_that_says_only_its_factor_takes_the_second_quarter():
    requests = draw_load(Load(rps=1, length_s=400, spike=parse_spike("100x")), seed=1)
    assert between(requests, 100, 200) > 9000
    assert between(requests, 200, 400) < 300


def test_a_spike_after_the_end_is_refused():
    with pytest.raises(InvalidInput, match="begins at 500 s, but the load ends at 400 s"):
        draw_load(Load(rps=1, length_s=400, spike=Spike(2, 500, 5)), seed=1)


def test_lengths_have_their_mean_and_none_is_below_one():
    requests = draw_load(Load(rps=100, length_s=100, lengths=Lengths(prompt_tokens=500, output_tokens=2)), seed=1)
    assert sum(one.prompt_tokens for one in requests) / len(requests) == pytest.approx(500, rel=0.05)
    assert min(one.output_tokens for one in requests) >= 1


def test_tenants_come_by_their_shares_with_their_class_and_weight():
    bare = [Request(at_s=n, prompt_tokens=1000, output_tokens=1) for n in range(4000)]
    shares = (Share("big", 3, ServiceClass.BATCH, 7), Share("small", 1))
    requests = populate(bare, Crowd(shares=shares, cached_share=0.25), seed=1)
    assert Counter(one.tenant for one in requests)["big"] == pytest.approx(3000, rel=0.05)
    assert {(one.tenant, one.service_class, one.weight) for one in requests} == {
        ("big", ServiceClass.BATCH, 7),
        ("small", ServiceClass.STANDARD, 1),
    }
    assert {one.prompt_tokens for one in requests} == {750}


def test_half_of_the_clients_stay_for_the_median_patience():
    bare = [Request(at_s=n, prompt_tokens=1, output_tokens=1) for n in range(4000)]
    requests = populate(bare, Crowd(patience_s=30), seed=1)
    assert sum(one.patience_s > 30 for one in requests) == pytest.approx(2000, rel=0.05)


def test_a_load_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(InvalidInput, match="takes 2,000,000 at most"):
        draw_load(Load(rps=1e6, length_s=3600), seed=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("90", 90), ("1.5m", 90), ("2min", 120), ("1h", 3600), (" 5 s ", 5)]
)
def test_durations_are_read(text, seconds):
    assert parse_duration_s(text, "--for") == pytest.approx(seconds)


def test_spikes_goals_classes_and_tenants_are_read():
    assert parse_spike("300x@600s+15m") == Spike(300, 600, 900)
    assert parse_spike("2.5x+10s") == Spike(2.5, None, 10)
    assert str(parse_goal("P95 wait < 10s")) == "p95 wait < 10s"
    assert str(parse_goal("p99.9 ttft<500ms")) == "p99.9 ttft < 0.5s"
    assert str(parse_goal("mean wait < 1m")) == "mean wait < 60s"
    assert parse_classes("interactive=1, batch=0.5") == {ServiceClass.INTERACTIVE: 1, ServiceClass.BATCH: 0.5}
    assert parse_tenant("acme=3:interactive:10") == Share("acme", 3, ServiceClass.INTERACTIVE, 10)
    assert parse_tenant("acme=0.5") == Share("acme", 0.5)


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_spike, "300", "--spike is '300'; it must be a factor, a start and a length"),
        (parse_spike, "3x@soon", "--spike is 'soon'; it must be a duration"),
        (parse_spike, "3x@5s+0s", "must last longer than 0 s"),
        (parse_goal, "fast", "--goal is 'fast'; it must be such as 'p95 wait < 10s'"),
        (parse_goal, "p95 wait < soon", "must be a duration"),
        (parse_goal, "p0 wait < 1s", "p0 says nothing"),
        (parse_goal, "p95 cost < 1s", "it must be such as"),
        (parse_classes, "gold=1", "each part must be CLASS=SHARE, with a class of interactive, standard, batch"),
        (parse_classes, "batch=0", "at least one share must be above 0"),
        (parse_tenant, "acme", "must be NAME=SHARE"),
        (parse_tenant, "acme=1:gold", "must be NAME=SHARE"),
        (parse_tenant, "acme=1:batch:101", "a weight must be 1 to 100"),
    ],
)
def test_what_is_written_wrong_is_told_with_the_right_form(parse, text, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        parse(text)
