"""Who comes when: repeatable, and distributed as promised."""

import statistics
from collections import Counter
from dataclasses import replace

import pytest

from gateway.commands.drill.capacity import SEQS, fleet_for
from gateway.commands.drill.scenario import Scenario, draw
from gateway.errors import InvalidInput

SCENARIO = Scenario(
    users=4000,
    over_s=20.0,
    spike=100.0,
    calm_s=30.0,
    tenants=4,
    classes={"interactive": 0.2, "standard": 0.8},
    prompt_tokens=200,
    output_tokens=16,
    hangups=0.1,
    patience_s=30.0,
)


def test_the_same_seed_draws_the_same_visits_and_another_one_others():
    assert draw(SCENARIO) == draw(SCENARIO)
    assert draw(SCENARIO) != draw(replace(SCENARIO, seed=2))


def test_the_calm_before_has_the_base_rate_and_the_burst_all_users():
    visits = draw(SCENARIO)
    burst = [visit for visit in visits if visit.is_burst]
    assert len(burst) == 4000
    assert len(visits) - len(burst) == 4000 / 20 / 100 * 30
    assert [visit.at_s for visit in visits] == sorted(visit.at_s for visit in visits)
    assert all(visit.at_s <= 20 for visit in burst)


def test_shares_means_and_medians_are_those_asked_for():
    visits = draw(SCENARIO)
    assert Counter(v.service_class for v in visits)["interactive"] / len(visits) == pytest.approx(0.2, abs=0.03)
    assert statistics.mean(v.prompt_tokens for v in visits) == pytest.approx(200, rel=0.05)
    assert statistics.mean(v.output_tokens for v in visits) == pytest.approx(16, rel=0.05)
    assert statistics.median(v.patience_s for v in visits if v.is_burst) == pytest.approx(30, rel=0.1)
    assert sum(v.hangs_up_s < 20 for v in visits) / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_flooding_tenant_asks_for_so_many_times_as_much_as_each_other():
    tenants = Counter(visit.tenant for visit in draw(replace(SCENARIO, flood=10.0)))
    others = [tenants[number] for number in range(1, 4)]
    assert tenants[0] / statistics.mean(others) == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize("rate", [1, 7.5, 60, 200])
def test_a_fleet_serves_the_rate_it_was_made_for(rate):
    fleet = fleet_for(rate, 2.0, load_s=0, prompt_tokens=200, output_tokens=16)
    prefill_share = rate / fleet.workers * 200 / fleet.prefill_tokens_per_s  # of a worker's time
    steps_per_s = (1 - prefill_share) / fleet.inter_token_s
    assert fleet.added == fleet.workers
    assert fleet.workers * SEQS * steps_per_s / 17 == pytest.approx(rate)


def test_prompts_that_leave_no_time_for_answers_are_refused():
    with pytest.raises(InvalidInput, match="--prompt-tokens"):
        fleet_for(60, 1.0, load_s=0, prompt_tokens=1_000_000, output_tokens=16)
