"""What every home of holds does, in memory and in Redis."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.core.hold_refusals import OverLimit
from gateway.core.usage import Usage
from tests.conformance.holds import Journal, ask, budget, limit, open_holds, passes, settle
from tests.conformance.queues import until


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def make_holds(request):
    url = None if request.param == "memory" else request.getfixturevalue("redis_url")
    async with AsyncExitStack() as stack:

        async def make(journal=None, **options):
            return await stack.enter_async_context(open_holds(request.param, url, journal, **options))

        yield make


@pytest.fixture
async def holds(make_holds):
    return await make_holds()


async def test_a_burst_passes_at_once_and_the_next_is_told_when(holds):
    for _ in range(5):
        assert await passes(holds, ask(limit("requests", 60)))
    with pytest.raises(OverLimit) as refused:
        await holds.hold(ask(limit("requests", 60)))
    told = refused.value.limit
    assert (told["scope"], told["subject"], told["metric"], told["current"], told["allowed"]) == (
        "key",
        "k1",
        "requests",
        5,
        60,
    )
    assert 0 < told["clears_in_s"] <= 1
    assert refused.value.retry_after_s == 1


async def test_what_the_third_limit_refuses_has_spent_nothing_of_the_first_two(holds):
    roomy, tokens, full = limit("requests", 600), limit("tokens", 6000, 10), limit("concurrent", 1)
    first = ask(roomy, tokens, full)
    await holds.hold(first)
    for _ in range(20):
        assert not await passes(holds, ask(roomy, tokens, full))
    standings = await holds.standings(ask(roomy, tokens, full))
    assert [one.used for one in standings.limits] == [1, 10, 1]


async def test_what_a_budget_refuses_has_spent_nothing_of_the_limits(holds):
    one = ask(limit("requests", 600), budget(0))
    assert not await passes(holds, one)
    standings = await holds.standings(one)
    assert standings.limits[0].used == 0
    assert standings.budgets[0].held == 0


async def test_what_is_more_than_the_whole_limit_is_not_to_be_tried_again(holds):
    with pytest.raises(OverLimit) as refused:
        await holds.hold(ask(limit("tokens", 100, 101)))
    assert refused.value.should_retry is False
    assert refused.value.limit["clears_in_s"] is None


async def test_a_place_among_those_at_once_is_free_when_its_request_ends(holds):
    one, other = ask(limit("concurrent", 1)), ask(limit("concurrent", 1))
    await holds.hold(one)
    assert not await passes(holds, other)
    settle(holds, one)
    assert await passes(holds, other)


async def test_a_longer_answer_than_foreseen_is_a_debt(holds):
    one = ask(limit("output_tokens", 600, 1))
    await holds.hold(one)
    settle(holds, one, usage=Usage(5, 1200))
    with pytest.raises(OverLimit) as refused:
        await holds.hold(ask(limit("output_tokens", 600, 1)))
    assert refused.value.limit["current"] == 1200
    assert refused.value.should_retry is False  # two minutes: longer than a client obeys
    assert 100 < refused.value.limit["clears_in_s"] <= 121


async def test_a_shorter_answer_than_foreseen_gives_back_the_rest(holds):
    one = ask(limit("output_tokens", 600, 600))
    await holds.hold(one)
    assert not await passes(holds, ask(limit("output_tokens", 600, 1)))
    settle(holds, one, usage=Usage(5, 10))
    assert await passes(holds, ask(limit("output_tokens", 600, 1)))


async def test_what_is_released_cost_nothing(holds):
    for _ in range(100):
        one = ask(limit("requests", 60), limit("concurrent", 1), budget(10, 10))
        await holds.hold(one)
        holds.release(one.id)
        holds.release(one.id)
    standings = await holds.standings(one)
    assert [each.used for each in standings.limits] == [0, 0]
    assert standings.budgets[0].available == 10


async def test_a_hard_budget_holds_the_worst_case_and_frees_what_was_not_used(holds):
    first, second = ask(budget(100, 60)), ask(budget(100, 60))
    await holds.hold(first)
    assert not await passes(holds, second)
    settle(holds, first, nano=5)
    await holds.hold(second)
    standing = (await holds.standings(second)).budgets[0]
    assert (standing.unshipped, standing.held, standing.available) == (5, 60, 35)


async def test_a_soft_budget_admits_while_anything_is_left(holds):
    assert await passes(holds, ask(budget(10, 1000, is_hard=False)))
    with pytest.raises(OverLimit) as refused:
        await holds.hold(ask(budget(10, 1000, is_hard=False)))
    assert refused.value.code == "insufficient_quota"
    assert refused.value.should_retry is False


async def test_a_stream_takes_slices_until_nothing_is_left(holds):
    one = ask(budget(1000, 100, is_hard=False))
    await holds.hold(one)
    taken = 100
    while holds.extend(one.id, taken + 256, 0):
        taken += 256
        standing = (await holds.standings(one)).budgets[0]
        assert standing.held == taken
        assert taken < 3000
    assert 1000 <= taken < 1000 + 256


async def test_a_quota_counts_tokens(holds):
    one = ask(budget(100, 40, kind="tokens"))
    await holds.hold(one)
    holds.settle(one.id, Usage(10, 20), 10**9)
    assert (await holds.standings(one)).budgets[0].unshipped == 30


async def test_settling_again_changes_nothing(holds):
    one = ask(budget(100, 40))
    await holds.hold(one)
    settle(holds, one, nano=7)
    settle(holds, one, nano=9)
    holds.release(one.id)
    standing = (await holds.standings(one)).budgets[0]
    assert (standing.unshipped, standing.held) == (7, 0)


async def test_asking_again_for_the_same_request_takes_nothing_more(holds):
    one = ask(limit("requests", 60), limit("concurrent", 5), budget(100, 40))
    await holds.hold(one)
    await holds.hold(one)
    standings = await holds.standings(one)
    assert [each.used for each in standings.limits] == [1, 1]
    assert standings.budgets[0].held == 40


async def test_what_the_journal_has_is_not_counted_twice_nor_lost(make_holds):
    journal = Journal()
    holds = await make_holds(journal)
    one = ask(budget(100, 40))
    await holds.hold(one)
    settle(holds, one, nano=7)
    base = journal.spend("bud@0", 7)
    await holds.post([base], [one.id])
    await holds.post([base], [one.id])
    standing = (await holds.standings(one)).budgets[0]
    assert (standing.spent, standing.unshipped, standing.available) == (7, 0, 93)


async def test_an_older_base_does_not_replace_a_newer_one(make_holds):
    journal = Journal()
    holds = await make_holds(journal)
    old, new = journal.spend("bud@0", 7), journal.spend("bud@0", 70)
    await holds.post([new], [])
    await holds.post([old], [])
    assert (await holds.standings(ask(budget(100)))).budgets[0].spent == 77


async def test_a_job_that_ran_elsewhere_is_spent_where_it_is_closed(holds):
    asked = budget(100, 40)
    holds.settle("job-1", Usage(1, 1), 7, [asked])
    holds.settle("job-1", Usage(1, 1), 7, [asked])
    standing = (await holds.standings(ask(asked))).budgets[0]
    assert (standing.unshipped, standing.held) == (7, 0)


async def test_a_base_is_read_from_the_journal_once(make_holds):
    journal = Journal()
    journal.spend("bud@0", 95)
    holds = await make_holds(journal)
    verdicts = await asyncio.gather(*(passes(holds, ask(budget(100, 1))) for _ in range(20)))
    assert sum(verdicts) == 5
    assert journal.reads == 1


async def test_money_paid_in_can_be_spent(make_holds):
    journal = Journal()
    journal.spend("bud@0", -50)
    holds = await make_holds(journal)
    assert await passes(holds, ask(budget(0, 50, kind="prepaid")))
    assert not await passes(holds, ask(budget(0, 1, kind="prepaid")))


async def test_without_the_journal_an_unknown_hard_budget_is_refused_and_a_soft_one_is_not(make_holds):
    journal = Journal()
    journal.is_away = True
    holds = await make_holds(journal)
    with pytest.raises(Exception) as refused:  # noqa: PT011  its code is looked at
        await holds.hold(ask(budget(100, 1)))
    assert (refused.value.code, refused.value.retry_after_s) == ("budget_unavailable", 5)
    assert await passes(holds, ask(budget(100, 1, is_hard=False, account="soft@0")))


async def test_a_journal_that_does_not_answer_is_not_waited_for_by_each_request(make_holds):
    journal = Journal()
    journal.is_away = True
    holds = await make_holds(journal)
    for _ in range(10):
        assert await passes(holds, ask(budget(100, 1, is_hard=False)))
    assert journal.reads == 1


async def test_amounts_beyond_what_a_double_holds_are_exact(make_holds):
    journal = Journal()
    journal.spend("bud@0", 2**62)
    holds = await make_holds(journal)
    assert await passes(holds, ask(budget(2**62 + 3, 3)))
    assert not await passes(holds, ask(budget(2**62 + 3, 1)))
    standing = (await holds.standings(ask(budget(2**62 + 3)))).budgets[0]
    assert (standing.spent, standing.held, standing.available) == (2**62, 3, 0)


async def test_cancelling_leaves_nothing_held(holds):
    asked = [ask(limit("concurrent", 100), limit("requests", 6000), budget(100, 1)) for _ in range(20)]
    for turns in range(10):
        tasks = [asyncio.create_task(holds.hold(one)) for one in asked[2 * turns : 2 * turns + 2]]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in asked:
            holds.release(one.id)

    async def is_empty():
        standings = await holds.standings(asked[0])
        return [each.used for each in standings.limits] == [0, 0] and standings.budgets[0].held == 0

    await until(is_empty, 2)


async def test_the_limit_of_a_model_binds_all_tenants_and_costs_nothing_when_a_tenant_is_refused(holds):
    of_model = limit("requests", 60, scope="model", subject="qwen", tenant="")
    for _ in range(3):
        assert not await passes(holds, ask(limit("concurrent", 0), of_model))
    for _ in range(5):
        assert await passes(holds, ask(limit("requests", 600), of_model))
    assert not await passes(holds, ask(limit("requests", 600), of_model))
    standings = await holds.standings(ask(limit("requests", 600), of_model))
    assert [each.used for each in standings.limits] == [5, 5]


async def test_standings_come_in_the_order_in_which_they_were_asked_for(holds):
    def of_model(name):
        return limit("requests", 60, id=f"lim-{name}", scope="model", subject=name, tenant="")

    asked = [of_model("qwen"), limit("requests", 600), of_model("glm"), limit("tokens", 6000)]
    await holds.hold(ask(*asked[:2]))
    standings = await holds.standings(ask(*asked))
    assert [(each.ask.id, each.used) for each in standings.limits] == [
        ("lim-qwen", 1),
        ("lim-key-requests", 1),
        ("lim-glm", 0),
        ("lim-key-tokens", 0),
    ]
