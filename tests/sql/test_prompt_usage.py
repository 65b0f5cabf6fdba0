"""Past usage by length of prompt: what a preview of prices rates equals the events rated one by one."""

from dataclasses import replace

from gateway.control.price_preview import Amount, preview, preview_moment
from gateway.control.prices import Change, PricePlan, Step
from gateway.core.money import round_to_nano
from gateway.core.prices import PriceVersion, Tier, Unit
from gateway.core.rating import rate
from gateway.stores.sql_prompt_usage import SqlPromptUsage
from tests.meter_events import PLAIN, event

HOUR_MS = 3_600_000
FROM_MS = PLAIN.arrived_ms
AT_MS = FROM_MS + 1000 * HOUR_MS


def tier(from_tokens: int, base: int) -> Tier:
    return Tier(from_tokens, {unit: base * 1000 + place * 1000 for place, unit in enumerate(Unit)})


OLD = PriceVersion(id="price_old", model="qwen3", from_ms=0, to_ms=AT_MS, tiers=(tier(0, 7), tier(40, 11)))
NEW = replace(OLD, id="price_new", from_ms=AT_MS, to_ms=None, tiers=(tier(0, 5), tier(20, 9)), batch_thousandths=333)
OWN = replace(NEW, id="price_own", tenant="bolt", from_ms=AT_MS - 1, currency="USD", batch_thousandths=1000)
PLAN = PricePlan([replace(OLD, to_ms=None)], (Step(Change.CLOSED, OLD), Step(Change.NEW, NEW), Step(Change.NEW, OWN)))


def mixed(number: int):
    """Give one of many unlike events: around each bound, in each class, with all that can be counted."""
    return event(
        number,
        tenant=("acme", "bolt", "crow")[number % 3],
        model="qwen3" if number % 7 else "unpriced",
        service_class=("interactive", "batch")[number % 2],
        arrived_ms=FROM_MS + number,
        prompt_tokens=number % 60,
        cached_tokens=number % 60 // 2,
        completion_tokens=number % 11,
        reasoning_tokens=number % 11 // 3,
        images=number % 3,
        audio_ms=number % 5 * 100,
    )


def test_past_usage_is_summed_by_bracket_of_prompt_length(database, journal):
    journal.append([event(1, prompt_tokens=19), event(2, prompt_tokens=20), event(3, prompt_tokens=39)])
    journal.append([event(4, prompt_tokens=40), event(5, prompt_tokens=0, cached_tokens=0, completion_tokens=0)])
    sums = SqlPromptUsage(database).usage_by_prompt(FROM_MS, FROM_MS + 1, [20, 40])
    assert [(each.bracket, each.requests, each.prompt_tokens) for each in sums] == [(0, 1, 19), (1, 2, 59), (2, 1, 40)]
    (whole,) = SqlPromptUsage(database).usage_by_prompt(FROM_MS, FROM_MS + 1, [])
    assert (whole.bracket, whole.requests, whole.prompt_tokens) == (0, 4, 118)
    assert not SqlPromptUsage(database).usage_by_prompt(FROM_MS + 1, FROM_MS + 2, [20])


def test_a_preview_equals_the_events_rated_one_by_one(database, journal):
    events = [mixed(number) for number in range(300)]
    journal.append(events)
    before, after = PLAN.before, PLAN.after
    seen = preview(SqlPromptUsage(database), PLAN, FROM_MS + 10, FROM_MS + 290, AT_MS)
    assert {line.tenant for line in seen.lines} == {"acme", "bolt", "crow"}
    for line in seen.lines:
        of_line = [each for each in events[10:290] if (each.tenant, each.model) == (line.tenant, line.model)]
        counted = [
            each for each in of_line if each.prompt_tokens or each.completion_tokens or each.images or each.audio_ms
        ]
        assert line.requests == len(counted)
        for book, amount in ((before, line.before), (after, line.after)):
            price = book.find(line.tenant, line.model, line.pool, AT_MS)
            assert (price is None) == (amount is None) == (line.model == "unpriced")
            if price:
                femto = sum(charge.femto for each in of_line for charge in rate(each, price))
                assert amount == Amount(price.currency, round_to_nano(femto))


def test_amounts_of_two_currencies_are_never_subtracted(database, journal):
    journal.append([mixed(number) for number in range(60)])
    seen = preview(SqlPromptUsage(database), PLAN, FROM_MS, FROM_MS + 60, AT_MS)
    differences = {(line.tenant, line.model): line.difference_nano for line in seen.lines}
    assert differences["bolt", "qwen3"] is differences["acme", "unpriced"] is None
    assert differences["acme", "qwen3"] == next(
        line.after.nano - line.before.nano for line in seen.lines if (line.tenant, line.model) == ("acme", "qwen3")
    )
    totals = seen.totals()
    assert set(totals) == {"CNY", "USD"}
    assert totals["USD"][0] == 0
    assert totals["CNY"][1] == sum(
        line.after.nano for line in seen.lines if line.after and line.after.currency == "CNY"
    )


def test_a_preview_is_of_the_moment_when_the_last_new_version_starts():
    assert preview_moment(PLAN, now_ms=5) == AT_MS
    assert preview_moment(PricePlan([], ()), now_ms=5) == 5
