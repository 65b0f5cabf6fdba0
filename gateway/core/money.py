"""
Money: whole nano-units of a currency (1e-9); exact amounts, before their one rounding, in whole femto-units (1e-15).

A price has at most six decimals per million tokens, and the factor of a batch three, so that a token's price is a
whole number of femto-units and every product and sum of them is exact. An amount is rounded once, half to even: where a
line of an invoice, a receipt or a hold is made of it.
"""

import re
from decimal import Decimal, InvalidOperation

from gateway.errors import InvalidInput

NANO = 10**9
FEMTO_PER_NANO = 10**6
CURRENCY = "CNY"
AMOUNT_NANO_MAX = 2**63 - 1  # what a database's integer holds: nine thousand million of any currency

_CURRENCY = re.compile(r"[A-Z]{3}")


def round_to_nano(femto: int) -> int:
    """Round an exact amount to nano-units, half to even, which over many lines favours nobody."""
    nano, rest = divmod(femto, FEMTO_PER_NANO)
    twice = 2 * rest
    return nano + (twice > FEMTO_PER_NANO or (twice == FEMTO_PER_NANO and nano % 2 == 1))


def format_nano(nano: int) -> str:
    """Write an amount in units of its currency, exactly, with at least two decimals: 1.50, -0.000000001."""
    units, rest = divmod(abs(nano), NANO)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{units}.{decimals}"


def parse_nano(text: str, what: str) -> int:
    """Read an amount in units of its currency, exactly. Raises InvalidInput, which calls it *what*."""
    nano = parse_decimal(text, what).scaleb(9)
    if nano != int(nano):
        raise InvalidInput(f"{what} {text!r} is finer than a nano-unit. Give at most 9 decimals.")
    if abs(nano) > AMOUNT_NANO_MAX:
        raise InvalidInput(f"{what} {text!r} is too large. The most is {format_nano(AMOUNT_NANO_MAX)}.")
    return int(nano)


def parse_decimal(text: str, what: str) -> Decimal:
    """Read a finite decimal number. Raises InvalidInput, which calls it *what*."""
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise InvalidInput(f"{what} {text!r} is not a number. Write it as 0.3 or 12.")
    return number


def check_currency(text: str, what: str = "currency") -> str:
    """Give *text* back if it has the form of an ISO 4217 code; raises InvalidInput."""
    if not _CURRENCY.fullmatch(text):
        raise InvalidInput(f"{what} {text!r} is not a currency's code. Write three capitals, such as {CURRENCY}.")
    return text
