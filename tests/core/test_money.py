"""Amounts are whole numbers, read and written exactly, rounded once and half to even."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import (
    AMOUNT_NANO_MAX,
    FEMTO_PER_NANO,
    check_currency,
    format_nano,
    format_scaled,
    parse_decimal,
    parse_nano,
    parse_scaled,
    round_to_nano,
)
from gateway.errors import InvalidInput

femto = st.integers(min_value=-(10**30), max_value=10**30)
halves = st.integers(min_value=-(10**20), max_value=10**20).map(lambda n: n * FEMTO_PER_NANO + FEMTO_PER_NANO // 2)


@given(femto | halves)
def test_rounding_is_what_decimal_calls_half_to_even(amount):
    with localcontext() as context:
        context.prec = 60
        expected = (Decimal(amount) / FEMTO_PER_NANO).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    assert round_to_nano(amount) == int(expected)
    assert type(round_to_nano(amount)) is int


@given(halves)
def test_a_half_goes_to_the_even_neighbour_and_nobody_is_favoured(amount):
    assert round_to_nano(amount) % 2 == 0
    assert round_to_nano(-amount) == -round_to_nano(amount)


@given(st.lists(femto, max_size=50))
def test_rounding_lines_errs_by_at_most_half_a_nano_unit_per_line(lines):
    total = sum(map(round_to_nano, lines)) * FEMTO_PER_NANO
    assert 2 * abs(total - sum(lines)) <= FEMTO_PER_NANO * len(lines)


@given(st.integers(min_value=-AMOUNT_NANO_MAX, max_value=AMOUNT_NANO_MAX))
def test_what_is_written_is_read_back_to_the_nano(nano):
    assert parse_nano(format_nano(nano), "amount") == nano


@given(st.integers(min_value=-(10**18), max_value=10**18), st.integers(min_value=0, max_value=12))
def test_a_number_of_any_scale_is_read_back_as_it_was(number, decimals):
    text = format_scaled(number, decimals)
    assert parse_scaled(text, decimals, "number") == number
    assert Decimal(text) == Decimal(number).scaleb(-decimals)
    assert not ("." in text and text.endswith(("0", ".")))


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0.00"), (1_500_000_000, "1.50"), (-1, "-0.000000001"), (10**12, "1000.00")]
)
def test_amounts_have_two_decimals_at_least(nano, text):
    assert format_nano(nano) == text


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("1", 10**9),
        (" 0.3 ", 3 * 10**8),
        (".5", 5 * 10**8),
        ("5.", 5 * 10**9),
        ("+2", 2 * 10**9),
        ("-0", 0),
        ("0.0000000010000000000000", 1),
    ],
)
def test_what_people_write_as_an_amount_is_read(text, nano):
    assert parse_nano(text, "amount") == nano


@pytest.mark.parametrize(
    "text", ["", " ", ".", "-", "NaN", "Infinity", "-inf", "1e9", "1_000", "1,000", "0,3", "٣", "¥3"]
)
def test_what_is_no_plain_number_is_refused_by_name(text):
    with pytest.raises(InvalidInput, match=r"^amount .* is not a number\. Write it as 0\.3 or 12\.$"):
        parse_nano(text, "amount")


@pytest.mark.parametrize("text", ["0.0000000001", "1.0000000000000000000000000001"])
def test_what_is_finer_than_a_nano_unit_is_refused_even_beyond_the_precision_of_decimals(text):
    with pytest.raises(InvalidInput, match=r"amount .* too many decimals\. Give at most 9\."):
        parse_nano(text, "amount")


@pytest.mark.parametrize("text", ["9223372036.854775808", "-9223372036.854775808", "9" * 30])
def test_an_amount_that_no_database_could_hold_is_refused(text):
    with pytest.raises(InvalidInput, match=r"too large\. The most is 9223372036\.854775807"):
        parse_nano(text, "amount")


def test_a_long_text_is_not_repeated_whole():
    with pytest.raises(InvalidInput) as caught:
        parse_decimal("9" * 10_000_000, "amount")
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("text", ["cny", "CN", "CNYY", "", "C1Y", "CNY\n", "ＣＮＹ"])
def test_a_currency_is_three_capitals(text):
    assert check_currency("CNY") == "CNY"
    with pytest.raises(InvalidInput, match="currency"):
        check_currency(text)
