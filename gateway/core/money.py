"""
Money: whole nano-units of a currency (1e-9); exact amounts, before their one rounding, in whole femto-units (1e-15).

A price has at most six decimals per million tokens, and the factor of a batch three, so that a token's price is a
whole number of femto-units and every product and sum of them is exact. An amount is rounded once, half to even: where a
line of an invoice, a receipt or a hold is made of it.
"""

import re
from decimal import Decimal

from gateway.errors import InvalidInput

NANO = 10**9
NANO_DECIMALS = 9
FEMTO_PER_NANO = 10**6
CURRENCY = "CNY"
AMOUNT_NANO_MAX = 2**63 - 1  # what a database's integer holds: nine thousand million of any currency

_CURRENCY = re.compile(r"[A-Z]{3}")
# Digits and a point, as people write money. Python's own numbers are more: 1e9, 1_000, Infinity, digits of any script.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})")
_SHOWN_CHARS_MAX = 40


def round_to_nano(femto: int) -> int:
    """Round an exact amount to nano-units, half to even, which over many lines favours nobody."""
    nano, rest = divmod(femto, FEMTO_PER_NANO)
    twice = 2 * rest
    return nano + (twice > FEMTO_PER_NANO or (twice == FEMTO_PER_NANO and nano % 2 == 1))


def format_nano(nano: int) -> str:
    """Write an amount in units of its currency, exactly, with at least two decimals: 1.50, -0.000000001."""
    return format_scaled(nano, NANO_DECIMALS, decimals_min=2)


def format_scaled(number: int, decimals: int, *, decimals_min: int = 0) -> str:
    """Write *number* × 10^-*decimals* exactly, with no more decimals than it needs: 12, 0.3, -0.000001."""
    whole, rest = divmod(abs(number), 10**decimals)
    fraction = f"{rest:0{decimals}d}".rstrip("0").ljust(decimals_min, "0")
    return f"{'-' if number < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


def parse_nano(text: str, what: str) -> int:
    """Read an amount in units of its currency, exactly. Raises InvalidInput, which calls it *what*."""
    nano = parse_scaled(text, NANO_DECIMALS, what)
    if abs(nano) > AMOUNT_NANO_MAX:
        raise InvalidInput(f"{what} {shown(text)} is too large. The most is {format_nano(AMOUNT_NANO_MAX)}.")
    return nano


def parse_scaled(text: str, decimals: int, what: str) -> int:
    """
    Read a number of at most so many *decimals* as a whole number of 10^-*decimals*, exactly.

    Raises InvalidInput, which calls it *what*. Zeros at the end are no decimals.
    """
    numerator, denominator = parse_decimal(text, what).as_integer_ratio()
    scaled, rest = divmod(numerator * int(10**decimals), denominator)
    if rest:
        raise InvalidInput(f"{what} {shown(text)} has too many decimals. Give at most {decimals}.")
    return scaled


def parse_decimal(text: str, what: str) -> Decimal:
    """Read a finite decimal number, exactly. Raises InvalidInput, which calls it *what*."""
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidInput(f"{what} {shown(text)} is not a number. Write it as 0.3 or 12.")
    return Decimal(text.strip())


def check_currency(text: str, what: str = "currency") -> str:
    """Give *text* back if it has the form of an ISO 4217 code; raises InvalidInput."""
    if not _CURRENCY.fullmatch(text):
        raise InvalidInput(f"{what} {shown(text)} is not a currency's code. Write three capitals, such as {CURRENCY}.")
    return text


def shown(text: str) -> str:
    """Quote what somebody wrote, cut to what fits into a sentence."""
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…")
