"""The price book finds what is in force, and holds nothing that could not be rated exactly."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.prices import (
    PriceBook,
    PriceVersion,
    Tier,
    Unit,
    format_price,
    parse_price,
    price_from_row,
    price_to_row,
)
from gateway.errors import InvalidInput

PLAIN = PriceVersion(id="price_1", model="m", from_ms=0, tiers=(Tier(0, {Unit.INPUT: 1000, Unit.OUTPUT: 2000}),))
SOME = ("", "a", "b")


@st.composite
def books(draw):
    """Versions without overlap in their scopes; some end early, some are withdrawn."""
    found = []
    scopes = draw(st.sets(st.tuples(st.sampled_from("mn"), st.sampled_from(SOME), st.sampled_from(SOME)), max_size=6))
    for model, pool, tenant in sorted(scopes):
        moments = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=5)))
        for at, following in zip(moments, [*moments[1:], None], strict=True):
            end = draw(st.sampled_from([following, at + 1]))
            found.append(
                replace(
                    PLAIN,
                    id=f"price_{len(found)}",
                    model=model,
                    pool=pool,
                    tenant=tenant,
                    from_ms=at,
                    to_ms=end,
                    is_withdrawn=draw(st.booleans()),
                )
            )
    return draw(st.permutations(found))


def search(versions, tenant, model, pool, at_ms):
    """Look at every version: of those in force that bind the request, the one of the most specific scope."""
    bind = [
        each
        for each in versions
        if not each.is_withdrawn
        and each.model == model
        and each.pool in {"", pool}
        and each.tenant in {"", tenant}
        and each.from_ms <= at_ms
        and (each.to_ms is None or at_ms < each.to_ms)
    ]
    return max(bind, key=lambda each: (bool(each.tenant), bool(each.pool)), default=None)


requests = st.tuples(st.sampled_from("abc"), st.sampled_from("mno"), st.sampled_from("abc"), st.integers(-1, 45))


@given(books(), st.lists(requests, min_size=1, max_size=20))
def test_find_equals_a_search_through_all_versions(versions, asked):
    book = PriceBook.of(versions)
    for tenant, model, pool, at_ms in asked:
        assert book.find(tenant, model, pool, at_ms) == search(versions, tenant, model, pool, at_ms)


@given(books(), books(), requests)
def test_a_changed_book_is_the_book_made_of_all_at_once_and_the_old_one_stays(old, new, asked):
    book = PriceBook.of(old)
    before = book.find(*asked)
    changed = book.apply(new)
    whole = PriceBook.of({each.id: each for each in [*old, *new]}.values())
    assert changed.by_id == whole.by_id
    assert changed.find(*asked) == whole.find(*asked)
    assert book.find(*asked) == before


@given(books())
def test_a_version_goes_through_a_row_and_comes_back_as_it_was(versions):
    for each in versions:
        assert price_from_row(**json.loads(json.dumps(price_to_row(each)))) == each


@given(st.integers(0, 10**12), st.sampled_from(Unit))
def test_every_price_of_six_decimals_is_whole_in_femto_units_and_written_as_it_was_read(micros, unit):
    text = f"{micros // 10**6}.{micros % 10**6:06d}"
    femto = parse_price(text, unit, "price")
    assert type(femto) is int
    assert parse_price(format_price(femto, unit), unit, "price") == femto
    Tier(0, {unit: femto})  # takes only what any factor of three decimals leaves whole


@pytest.mark.parametrize(
    ("unit", "femto"), [(Unit.INPUT, 3 * 10**8), (Unit.IMAGE, 3 * 10**14), (Unit.AUDIO, 3 * 10**11)]
)
def test_prices_are_per_million_tokens_per_image_and_per_second_of_audio(unit, femto):
    assert parse_price("0.3", unit, "price") == femto
    assert format_price(femto, unit) == "0.3"


def test_a_seventh_decimal_is_refused():
    with pytest.raises(InvalidInput, match=r"too many decimals\. Give at most 6\."):
        parse_price("0.0000001", Unit.INPUT, "input")


def test_what_a_book_leaves_out_costs_what_its_likes_cost():
    (tier,) = PLAIN.tiers
    assert (tier.of(Unit.CACHED_INPUT), tier.of(Unit.REASONING)) == (1000, 2000)
    assert (tier.of(Unit.IMAGE), tier.of(Unit.AUDIO)) == (0, 0)
    assert Tier(0, {Unit.INPUT: 1000, Unit.CACHED_INPUT: 0}).of(Unit.CACHED_INPUT) == 0


@pytest.mark.parametrize("femto", [-1000, 1, 999, 0.5, 1000.0, True, "1000"])
def test_a_price_that_could_not_be_rated_exactly_cannot_be(femto):
    with pytest.raises(ValueError, match="multiple of 1000 femto-units"):
        Tier(0, {Unit.INPUT: femto})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tiers": ()}, "ascend"),
        ({"tiers": (Tier(1, {}),)}, "ascend"),
        ({"tiers": (Tier(0, {}), Tier(5, {}), Tier(5, {}))}, "ascend"),
        ({"to_ms": 0}, "end before"),
        ({"batch_thousandths": -1}, "factor"),
        ({"batch_thousandths": 0.5}, "factor"),
    ],
)
def test_a_version_that_makes_no_sense_cannot_be(values, reason):
    with pytest.raises(ValueError, match=reason):
        replace(PLAIN, **values)


@pytest.mark.parametrize(
    "tiers", ['[[0, {"input": 0.5}]]', '[[0, {"gold": 1000}]]', "[]", "{", "[[0]]", '[[0, {"input": -1000}]]']
)
def test_a_row_that_is_no_version_is_refused(tiers):
    with pytest.raises((ValueError, LookupError, TypeError)):
        price_from_row(**price_to_row(PLAIN) | {"tiers": tiers})
