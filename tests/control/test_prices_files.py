"""Price files are read exactly, and what cannot be is refused by file, entry and field."""

import csv
import io
import json
import re
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.control.price_files import COLUMNS, FILE_BYTES_MAX, read_prices, write_prices
from gateway.core.prices import PriceVersion, Tier, Unit, parse_price
from gateway.errors import InvalidInput
from tests.control.price_texts import SHANGHAI, at, entry, price_file, read

BY_HAND = """
zone: Asia/Shanghai
currency: USD
prices:
  - model: Qwen/Qwen3-8B
    from: 2026-12-01
    input: 0.3        # per million tokens
    cached_input: 0.06
    output: 0.60
    batch_factor: 0.5
    tiers:
      - {from_tokens: 32768, input: 0.6, cached_input: 0.12, output: 1.2}
  - model: Qwen/Qwen3-8B
    tenant: acme
    pool: chat
    from: 2026-12-01T08:00+00:00
    to: 2027-01-01
    currency: CNY
    input: 0
    output: 2
    reasoning: 3
    image: 0.001
    audio_second: 0.000001
"""


def femto(unit: Unit, text: str) -> int:
    return parse_price(text, unit, "price")


def test_a_file_written_by_hand_is_read_as_it_is_meant():
    general, own = read_prices(BY_HAND.encode(), "yaml", "prices.yaml", ZoneInfo("UTC"))
    assert (general.model, general.pool, general.tenant) == ("Qwen/Qwen3-8B", "", "")
    assert (general.from_ms, general.to_ms, general.currency) == (at("2026-12-01"), None, "USD")
    assert general.batch_thousandths == 500
    assert [tier.from_tokens for tier in general.tiers] == [0, 32_768]
    assert general.tiers[0].femto == {
        Unit.INPUT: 300_000_000,
        Unit.CACHED_INPUT: 60_000_000,
        Unit.OUTPUT: 600_000_000,
    }
    assert (own.pool, own.tenant, own.currency, own.batch_thousandths) == ("chat", "acme", "CNY", 1000)
    assert (own.from_ms, own.to_ms) == (at("2026-12-01T16:00"), at("2027-01-01"))
    assert own.tiers[0].femto[Unit.AUDIO] == 10**6


def test_a_file_without_a_zone_has_that_of_the_settings():
    content = price_file(entry("2027-01-01"), head="currency: CNY")
    assert read_prices(content, "yaml", "p", ZoneInfo("UTC"))[0].from_ms == at("2027-01-01", ZoneInfo("UTC"))
    assert read_prices(content, "yaml", "p", SHANGHAI)[0].from_ms == at("2027-01-01")


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
SCOPES = st.tuples(names, names | st.just(""), names | st.just(""))
moments = st.integers(at("2000-01-02"), at("2199-12-31"))
prices = st.integers(0, 10**10)
ZONES = [ZoneInfo(name) for name in ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/St_Johns", "Pacific/Apia")]


@st.composite
def books(draw):
    found = []
    for number, scope in enumerate(draw(st.sets(SCOPES, min_size=1, max_size=3))):
        starts = sorted(draw(st.sets(moments, min_size=1, max_size=4)))
        units = {Unit.INPUT, Unit.OUTPUT} | draw(st.sets(st.sampled_from(Unit)))
        steps = [0, *sorted(draw(st.sets(st.integers(1, 10**9), max_size=2)))]
        currency, factor = draw(st.sampled_from(["CNY", "USD"])), draw(st.integers(0, 1000))
        for at_ms, following in zip(starts, [*starts[1:], None], strict=True):
            tiers = [
                Tier(step, {u: femto(u, str(draw(prices) // 10**6)) for u in Unit if u in units}) for step in steps
            ]
            found.append(
                PriceVersion(
                    id=f"price_{number}_{at_ms}",
                    model=scope[0],
                    pool=scope[1],
                    tenant=scope[2],
                    from_ms=at_ms,
                    to_ms=draw(st.sampled_from([following, at_ms + 1])),
                    currency=currency,
                    tiers=tuple(tiers),
                    batch_thousandths=factor,
                )
            )
    return found


def facts(each, to_ms):
    return (each.scope, each.from_ms, to_ms, each.currency, each.batch_thousandths, each.tiers)


@pytest.mark.parametrize("form", ["yaml", "csv", "json"])
@settings(max_examples=50)
@given(books(), st.sampled_from(ZONES), st.sampled_from(ZONES))
def test_what_is_written_is_read_back_as_it_was(form, versions, zone, other):
    """An end at which the next version starts goes without saying, so that one may be put between them."""
    starts = {(each.scope, each.from_ms) for each in versions}
    said = [facts(each, None if (each.scope, each.to_ms) in starts else each.to_ms) for each in versions]
    content = write_prices(versions, form, zone).encode()
    found = read_prices(content, form, "prices", other)
    assert sorted(facts(each, each.to_ms) for each in found) == sorted(said, key=lambda fact: fact[:2])


@settings(max_examples=50)
@given(books())
def test_no_cell_starts_as_a_formula_does(versions):
    for row in csv.reader(io.StringIO(write_prices(versions, "csv", SHANGHAI), newline="")):
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_no_number_becomes_a_float_on_the_way():
    """0.1 and 0.2 have no float; seventeen digits would lose the last ones."""
    (found,) = read(entry(input="123456.123457", output="0.000001"))
    assert found.tiers[0].femto == {Unit.INPUT: 123_456_123_457_000, Unit.OUTPUT: 1000}
    (sent,) = read_prices(
        b'{"prices": [{"model": "m", "from": "2027-01-01", "input": 0.1, "output": 1e0}]}'.replace(b"1e0", b"2"),
        "json",
        "body",
        SHANGHAI,
    )
    assert sent.tiers[0].femto[Unit.INPUT] == 100_000_000


def test_an_export_for_people_has_plain_numbers_and_dates():
    (found,) = read(entry())
    version = PriceVersion(id="price_1", model=found.model, from_ms=found.from_ms, tiers=found.tiers)
    text = write_prices([version], "yaml", SHANGHAI)
    assert "from: 2027-01-01\n" in text
    assert "input: 0.5\n" in text
    assert yaml.safe_load(text)["prices"][0]["output"] == 2
    assert json.loads(write_prices([version], "json", SHANGHAI))["prices"][0]["input"] == "0.5"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": "-0.000001"}, "input '-0.000001' is negative"),
        ({"input": "1000000.000001"}, "input '1000000.000001' is too large. The most is 1000000 per million tokens"),
        ({"image": "10001"}, "image '10001' is too large. The most is 10000 per image"),
        ({"audio_second": "10001"}, "too large. The most is 10000 per second"),
        ({"output": "0.1234567"}, "output '0.1234567' has too many decimals. Give at most 6"),
        ({"output": "NaN"}, "output 'NaN' is not a number"),
        ({"output": "Infinity"}, "output 'Infinity' is not a number"),
        ({"output": "1e3"}, "output '1e3' is not a number"),
        ({"output": "0,3"}, "output '0,3' is not a number. Write it as 0.3"),
        ({"output": None}, "output is missing"),
        ({"output": ""}, "output is missing"),
        ({"model": None}, "model is missing"),
        ({"from": None}, "from is missing"),
        ({"model": "x" * 201}, "model has 1 to 200 printable characters"),
        ({"inputs": "1"}, "there is no field 'inputs' here. Known are model, pool, tenant, from, to, currency"),
        ({"from_tokens": "5"}, "there is no field 'from_tokens' here"),
        ({"from": "soon"}, "from 'soon' is neither a date nor a date-time"),
        ({"from": "1926-01-01"}, "from '1926-01-01' is not of the years 2000 to 2199"),
        ({"to": "2027-13-01"}, "to '2027-13-01' is neither"),
        ({"to": "2027-01-01"}, "from 2027-01-01 is not before to 2027-01-01"),
        ({"to": "2026-12-31"}, "from 2027-01-01 is not before to 2026-12-31"),
        ({"currency": "yuan"}, "currency 'yuan' is not a currency's code"),
        ({"batch_factor": "50"}, "batch_factor '50' is out of range. Give 0 to 1"),
        ({"batch_factor": "-0.5"}, "batch_factor '-0.5' is out of range"),
        ({"batch_factor": "0.1234"}, "batch_factor '0.1234' has too many decimals. Give at most 3"),
    ],
)
def test_a_wrong_field_is_refused_by_file_entry_and_name(fields, reason):
    with pytest.raises(InvalidInput) as caught:
        read(entry(), entry(**fields))
    assert str(caught.value).startswith("prices.yaml, entry 2")
    assert reason in str(caught.value)


def test_the_ends_of_every_range_are_in_it():
    most = {"input": "1000000", "output": "0", "image": "10000", "audio_second": "10000"}
    first, second = read(entry(batch_factor="0", **most), entry("2000-01-01", to="2199-12-31", batch_factor="1"))
    assert (first.batch_thousandths, second.batch_thousandths) == (0, 1000)
    assert first.tiers[0].femto[Unit.INPUT] == 10**15


@pytest.mark.parametrize(
    ("tiers", "reason"),
    [
        ("[{from_tokens: 0, input: 1, output: 1}]", r"tier 2: from_tokens 0 does not come after 0"),
        ("[{input: 1, output: 1}]", r"tier 2: from_tokens 0 does not come after 0"),
        (
            "[{from_tokens: 9, input: 1, output: 1}, {from_tokens: 5, input: 1, output: 1}]",
            "tier 3: from_tokens 5 does",
        ),
        ("[{from_tokens: 9.5, input: 1, output: 1}]", "from_tokens '9.5' has too many decimals"),
        ("[{from_tokens: 2000000000, input: 1, output: 1}]", "up to 1000000000"),
        ("[{from_tokens: 9, input: 1}]", "tier 2: output is missing"),
        ("[{from_tokens: 9, input: 1, output: 1, image: 1}]", "image is priced in one tier and not in another"),
        ("[{from_tokens: 9, input: 1, output: 1, to: 2027-01-01}]", "no field 'to' here. Known are from_tokens, input"),
        ("[" + ", ".join(f"{{from_tokens: {n}, input: 1, output: 1}}" for n in range(1, 25)) + "]", "most is 20"),
        ("{from_tokens: 9}", "tiers is no list"),
        ("[9]", "tiers is no list"),
    ],
)
def test_wrong_tiers_are_refused(tiers, reason):
    with pytest.raises(InvalidInput, match=re.escape(reason)):
        read(f"{{model: qwen3, from: 2027-01-01, input: 1, output: 2, tiers: {tiers}}}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no prices"),
        (b"prices: []", "holds no prices"),
        (b"prices: {a: b}", "holds no prices"),
        (b"[1, 2]", "holds no prices"),
        (b"zone: Mars/Olympus\nprices: [{}]", "prices.yaml: zone: There is no time zone 'Mars/Olympus'"),
        (b"colour: red\nprices: [{}]", "there is no field 'colour' at the top"),
        (b"prices: [1]", "entry 1 is no mapping"),
        (b"prices:\n- model: [a]", "entry 1: 'model' is not a single value"),
        (b"prices:\n- model: a\n  input: 1\n  input: 2", "line 4 is not YAML as expected: 'input' stands twice"),
        (b"prices: [", "line 1 is not YAML as expected"),
        (b"prices: !!python/object:os.system {}", "holds no prices"),
        (b"\x00", "is not YAML"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"[" * 5000, "not YAML"),
        (b"a: &a [*a]\nprices: *a", ""),
        (b" " * (FILE_BYTES_MAX + 1), "The most is 1048576"),
    ],
)
def test_what_is_no_price_file_is_refused_by_name(content, reason):
    with pytest.raises(InvalidInput, match=r"^prices\.yaml") as caught:
        read_prices(content, "yaml", "prices.yaml", SHANGHAI)
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b'{"prices": [{"model": "a", "model": "b"}]}', b"[" * 50_000, b'"x"'])
def test_what_is_no_json_is_refused_by_name(content):
    with pytest.raises(InvalidInput, match=r"^body (is not JSON|holds no prices)"):
        read_prices(content, "json", "body", SHANGHAI)


@pytest.mark.parametrize("value", [b"true", b"NaN", b"[1]", b"null"])
def test_json_that_is_no_number_is_no_price(value):
    content = b'{"prices": [{"model": "m", "from": "2027-01-01", "output": 1, "input": %s}]}' % value
    with pytest.raises(InvalidInput, match=r"^body, entry 1.* input|'input' is not a single value"):
        read_prices(content, "json", "body", SHANGHAI)


def rows(*lines: str, head: str = "model,from,to,from_tokens,input,output,currency") -> bytes:
    return "\r\n".join([head, *lines]).encode()


def test_rows_of_a_spreadsheet_are_tiers_of_versions():
    content = b"\xef\xbb\xbf" + rows(
        "m,2027-01-01,,,1,2,USD", ",,,,,,", "m,2027-01-01,,32768,2,4,", "m,2027-02-01,,0,1,1,USD"
    )
    first, second = read_prices(content, "csv", "prices.csv", SHANGHAI)
    assert [tier.from_tokens for tier in first.tiers] == [0, 32_768]
    assert (first.currency, first.from_ms, second.from_ms) == ("USD", at("2027-01-01"), at("2027-02-01"))


def test_semicolons_of_other_spreadsheets_are_read():
    content = rows("m,2027-01-01,,,1,2,USD").replace(b",", b";")
    assert read_prices(content, "csv", "prices.csv", SHANGHAI)[0].currency == "USD"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "prices.csv holds no prices. The first line names the columns: model,pool"),
        (rows(), "holds no prices"),
        (rows("m,2027-01-01,,,1,2,USD", head="model,from,to,from_tokens,input,input,currency"), "input is there twice"),
        (rows(head="model,colour"), "there is no column 'colour'"),
        (rows("m,2027-01-01,,,1,2,USD,9"), "prices.csv, line 2 has 8 cells, the first line 7"),
        (rows("m,2027-01-01,,,1,x,USD"), "prices.csv, line 2: output 'x' is not a number"),
        (rows("m,2027-01-01,,,1,2,USD", "m,2027-01-01,,9,1,,"), "prices.csv, line 3: output is missing"),
        (
            rows("m,2027-01-01,,,1,2,USD", "m,2027-01-01,,9,1,2,CNY"),
            "line 3: currency 'CNY' is not that of prices.csv, line 2",
        ),
        (rows("m,2027-01-01,,,1,2,USD", "m,2027-01-01,,,1,2,USD"), "line 3: from_tokens 0 does not come after 0"),
        (rows('m,"2027-01-01'), "is not CSV"),
        (rows("m,01/01/2027,,,1,2,USD"), "line 2: from '01/01/2027' is neither a date"),
        (rows(",2027-01-01,,,1,2,USD"), "line 2: model is missing"),
        ("model\né".encode("gbk"), "save it as `CSV UTF-8`"),
    ],
)
def test_a_wrong_row_is_refused_by_line_and_column(content, reason):
    with pytest.raises(InvalidInput) as caught:
        read_prices(content, "csv", "prices.csv", SHANGHAI)
    assert reason in str(caught.value)


def test_every_column_that_is_written_is_known():
    assert write_prices([], "csv", SHANGHAI) == ",".join(COLUMNS) + "\r\n"
