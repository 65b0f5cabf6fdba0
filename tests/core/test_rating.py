"""Rating is exact: over any split of quantities or of a period, for every price and factor that may be declared."""

import ast
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import FEMTO_PER_NANO, round_to_nano
from gateway.core.prices import FACTOR_ONE, PriceVersion, Tier, Unit, format_price, parse_price
from gateway.core.rating import charge, cost_nano, quantities, rate, rated
from tests.meter_events import event

PER = {Unit.IMAGE: 1, Unit.AUDIO: 1000}  # counted units that one price is for; tokens: a million
MICROS_MAX = 10**12  # a million of the currency, in millionths

price_texts = st.integers(min_value=0, max_value=MICROS_MAX).map(
    lambda micros: f"{micros // 10**6}.{micros % 10**6:06d}"
)
factors = st.integers(min_value=0, max_value=FACTOR_ONE)
counts = st.integers(min_value=0, max_value=10**9)
counted = st.dictionaries(st.sampled_from(Unit), counts, min_size=1)


@st.composite
def tiers(draw, from_tokens=0):
    optional = draw(st.sets(st.sampled_from([Unit.CACHED_INPUT, Unit.REASONING, Unit.IMAGE, Unit.AUDIO])))
    named = {Unit.INPUT, Unit.OUTPUT} | optional
    return Tier(from_tokens, {unit: parse_price(draw(price_texts), unit, "price") for unit in sorted(named, key=str)})


@st.composite
def versions(draw):
    further = sorted(draw(st.sets(st.integers(min_value=1, max_value=200_000), max_size=3)))
    steps = tuple(draw(tiers(start)) for start in [0, *further])
    return PriceVersion(id="price_1", model="m", from_ms=0, tiers=steps, batch_thousandths=draw(factors))


@st.composite
def events(draw, **fields):
    prompt, completion = draw(st.integers(0, 300_000)), draw(st.integers(0, 100_000))
    return event(
        draw(st.integers(0, 10**9)),
        prompt_tokens=prompt,
        cached_tokens=draw(st.integers(0, prompt)),
        completion_tokens=completion,
        reasoning_tokens=draw(st.integers(0, completion)),
        images=draw(st.integers(0, 100)),
        audio_ms=draw(st.integers(0, 10**7)),
        service_class=draw(st.sampled_from(["interactive", "standard", "batch"])),
        **fields,
    )


def as_written(price: PriceVersion, tier: Tier, unit: Unit, quantity: int, *, is_batch: bool) -> Fraction:
    """What the text of a price says that *quantity* costs, in exact fractions of the currency."""
    per_unit = Fraction(format_price(tier.of(unit), unit)) / PER.get(unit, 10**6)
    return quantity * per_unit * (Fraction(price.batch_thousandths, FACTOR_ONE) if is_batch else 1)


@given(versions(), counted, st.booleans())
def test_an_amount_is_exactly_quantity_times_price_times_factor_for_all_that_may_be_declared(price, what, is_batch):
    for index, tier in enumerate(price.tiers):
        for line in charge(what, price, index, is_batch=is_batch):
            expected = as_written(price, tier, line.unit, line.quantity, is_batch=is_batch)
            assert Fraction(line.femto, 10**15) == expected
            assert type(line.femto) is type(line.nano) is int


@given(versions(), counted, counted, st.booleans())
def test_rating_a_sum_of_quantities_is_the_sum_of_their_ratings(price, one, other, is_batch):
    both = {unit: one.get(unit, 0) + other.get(unit, 0) for unit in {*one, *other}}

    def femto(what):
        return sum(line.femto for line in charge(what, price, 0, is_batch=is_batch))

    assert femto(both) == femto(one) + femto(other)


@given(versions(), st.lists(events(), max_size=20), st.data())
def test_a_period_costs_the_same_however_it_is_cut(price, listed, data):
    """What a report does: quantities are added up by tier and class, and rated then."""
    cut = data.draw(st.integers(0, len(listed)))
    assert rated_as_sums(price, listed) == rated_as_sums(price, listed[:cut]) + rated_as_sums(price, listed[cut:])
    assert rated_as_sums(price, listed) == sum(line.femto for each in listed for line in rate(each, price))


def rated_as_sums(price, listed) -> int:
    sums = {}
    for each in listed:
        group = sums.setdefault((price.tier_of(each.prompt_tokens), each.service_class == "batch"), {})
        for unit, quantity in quantities(each).items():
            group[unit] = group.get(unit, 0) + quantity
    return sum(
        line.femto for (tier, is_batch), group in sums.items() for line in charge(group, price, tier, is_batch=is_batch)
    )


@given(versions(), events())
def test_a_request_costs_the_sum_of_its_lines_rounded_once(price, what):
    lines = rate(what, price)
    assert cost_nano(lines) == round_to_nano(sum(line.femto for line in lines))
    assert abs(cost_nano(lines) * FEMTO_PER_NANO - sum(line.femto for line in lines)) * 2 <= FEMTO_PER_NANO
    assert rated(what, price).cost_nano == cost_nano(lines)


@given(events())
def test_quantities_count_each_token_once(what):
    counted_ = quantities(what)
    assert counted_.get(Unit.INPUT, 0) + counted_.get(Unit.CACHED_INPUT, 0) == what.prompt_tokens
    assert counted_.get(Unit.OUTPUT, 0) + counted_.get(Unit.REASONING, 0) == what.completion_tokens
    assert all(counted_.values())


@pytest.mark.parametrize(
    ("prompt_tokens", "tier", "nano"), [(32_767, 0, 32_767_000), (32_768, 1, 65_536_000), (10**6, 1, 2 * 10**9)]
)
def test_the_whole_prompt_is_priced_by_the_tier_it_reaches(prompt_tokens, tier, nano):
    steps = (Tier(0, {Unit.INPUT: 10**9}), Tier(32_768, {Unit.INPUT: 2 * 10**9}))
    price = PriceVersion(id="price_1", model="m", from_ms=0, tiers=steps)
    nothing = {"cached_tokens": 0, "completion_tokens": 0, "reasoning_tokens": 0}
    found = rated(event(prompt_tokens=prompt_tokens, **nothing), price)
    assert (found.tier, found.cost_nano, found.currency) == (tier, nano, "CNY")


def test_an_event_without_a_known_price_costs_nothing_known():
    found = rated(event(), None)
    assert (found.cost_nano, found.currency, found.tier) == (None, "", 0)


@pytest.mark.parametrize("module", ["money", "prices", "rating"])
def test_there_is_no_float_and_no_true_division_where_money_is_reckoned(module):
    path = Path(__file__).parents[2] / "gateway" / "core" / f"{module}.py"
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"line {node.lineno}"
        assert not (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)), f"line {node.lineno}"
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"}), f"line {node.lineno}"
