"""`sluice prices`, as a shell runs it."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import SluiceError
from gateway.stores.database import Database
from gateway.stores.sql import SqlJournal
from tests.control.price_texts import entry, price_file
from tests.meter_events import event

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NEXT_WEEK, NEXT_MONTH = ((TODAY + timedelta(days=days)).date().isoformat() for days in (7, 31))


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def sluice(home, monkeypatch):
    """Run a verb and give its output; an error of ours is raised as it is."""
    monkeypatch.chdir(home.parent)

    def run(*arguments: str, stdin: bytes = b"") -> str:
        done = CliRunner().invoke(app, [*arguments, "--home", str(home)], input=stdin)
        if isinstance(done.exception, SluiceError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    run("migrate")
    run("tenants", "create", "Acme")
    run("models", "serve", "qwen3")
    return run


@pytest.fixture
def prices(sluice):
    """Run `sluice prices` and give its JSON."""

    def run(*arguments: str, stdin: bytes = b""):
        return json.loads(sluice("prices", *arguments, "--format", "json", stdin=stdin))

    return run


@pytest.fixture
def write(home):
    """Write a price file of entries beside the home; gives its name."""

    def write(*entries: str, name: str = "prices.yaml") -> str:
        (home.parent / name).write_bytes(price_file(*entries, head="zone: UTC"))
        return name

    return write


def test_a_file_goes_in_and_comes_out(sluice, prices, write, home):
    done = prices("import", write(entry(NEXT_WEEK), entry(NEXT_MONTH, input="0.3")))
    assert done["counts"] == {"new": 2, "closed": 0, "prolonged": 0, "withdrawn": 0, "unchanged": 0}
    for form in ("yaml", "csv", "json"):
        (home.parent / f"out.{form}").write_text(sluice("prices", "export", "--format", form), newline="")
        assert prices("import", f"out.{form}")["counts"]["unchanged"] == 2
    rows = list(csv.DictReader(io.StringIO(sluice("prices", "export", "--format", "csv"))))
    assert [Decimal(row["input"]) for row in rows] == [Decimal("0.5"), Decimal("0.3")]


def test_a_diff_shows_old_and_new_prices_and_writes_nothing(sluice, prices, write):
    sluice("prices", "import", write(entry(NEXT_WEEK)))
    shown = sluice("prices", "diff", write(entry(NEXT_WEEK), entry(NEXT_MONTH, input="0.3")))
    assert "0.5 → 0.3" in shown
    assert "1 new, 1 closed. Nothing was written" in shown
    assert len(prices("list")) == 1


def test_a_preview_says_what_past_usage_costs_by_both_books(sluice, prices, write, home):
    sluice("prices", "import", write(entry("2020-01-01", input="1", output="0")), "--backdate")
    database = Database(f"sqlite:///{home / 'sluice.db'}")
    many = {"prompt_tokens": 3_000_000, "cached_tokens": 0}
    SqlJournal(database).append([event(1, **many), event(2, tenant="beta", **many)])
    database.close()
    file = write(entry(NEXT_WEEK, input="0.7", output="0"))
    asked = ["diff", file, "--preview-from", "2023-11-01", "--preview-to", "2023-12-01"]
    seen = prices(*asked)["preview"]
    assert seen["at"] == NEXT_WEEK
    assert [(line["tenant"], line["before"], line["after"]) for line in seen["lines"]] == [
        ("acme", "3.00", "2.10"),
        ("beta", "3.00", "2.10"),
    ]
    assert seen["totals"] == [{"currency": "CNY", "before": "6.00", "after": "4.20", "difference": "-1.80"}]
    assert "total CNY: 6.00 → 4.20 (-1.80)" in sluice("prices", *asked)
    assert prices(*asked, "--preview-at", "2022-01-01")["preview"]["totals"][0]["difference"] == "0.00"


def test_the_past_is_in_the_history_and_not_in_the_list(sluice, prices, write):
    assert "keeps what it has" in sluice("prices", "import", write(entry("2020-01-01")), "--backdate")
    sluice("prices", "import", write(entry(NEXT_WEEK, input="0.3")))
    ahead = prices("list")[1]["id"]
    withdrawn = sluice("prices", "withdraw", ahead)
    assert "1 prolonged, 1 withdrawn. Done" in withdrawn
    assert "withdrawn already" in sluice("prices", "withdraw", ahead)
    assert [each["state"] for each in prices("list")] == ["in_force"]
    assert [each["state"] for each in prices("history", "--model", "qwen3")] == ["in_force", "withdrawn"]
    assert prices("list", "--at", "2019-01-01")[0]["state"] == "ahead"
    assert prices("list", "--tenant", "acme") == []
    assert ahead in sluice("prices", "history")


def test_standard_input_is_a_file_too(prices):
    assert prices("import", "-", stdin=price_file(entry(NEXT_WEEK)))["counts"]["new"] == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("prices.yaml", price_file(entry(NEXT_WEEK), entry(input="-1")), r"^prices\.yaml, entry 2 .*negative"),
        ("prices.txt", b"", r"^prices\.txt ends in none of \.yaml, \.yml, \.csv, \.json"),
        ("prices.csv", b"model\n", r"^prices\.csv holds no prices"),
        ("prices.json", b"{", r"^prices\.json is not JSON"),
    ],
)
def test_a_wrong_file_is_refused_whole(prices, home, name, content, reason):
    (home.parent / name).write_bytes(content)
    with pytest.raises(SluiceError, match=reason):
        prices("import", name)
    assert not prices("history")


def test_a_file_that_is_not_there_is_named(prices):
    with pytest.raises(SluiceError, match=r"^ghost\.yaml cannot be read: No such file"):
        prices("import", "ghost.yaml")


def test_a_preview_from_after_to_is_refused(prices, write):
    with pytest.raises(SluiceError, match="is not before to"):
        prices("diff", write(entry(NEXT_WEEK)), "--preview-from", "2023-12-01", "--preview-to", "2023-11-01")


@pytest.mark.parametrize("verb", ["list", "history", "export", "import", "diff", "withdraw"])
def test_help_has_an_example(verb):
    words = CliRunner().invoke(app, ["prices", verb, "--help"]).output
    assert f"Example: sluice prices {verb}" in " ".join(words.split())


@pytest.mark.parametrize("verb", ["import", "diff"])
def test_prices_in_another_currency_than_a_budget_or_a_balance_are_refused(sluice, prices, write, verb):
    sluice("budgets", "set", "--tenant", "acme", "--prepaid")
    sluice("balance", "topup", "acme", "5")
    file = write(entry(NEXT_WEEK, currency="USD"))
    with pytest.raises(SluiceError, match=r"^prices\.yaml, entry 1 \(qwen3\): currency 'USD' .* budget bud_.*, CNY\. "):
        prices(verb, file)
    sluice("budgets", "remove", json.loads(sluice("budgets", "list", "--format", "json"))[0]["id"])
    with pytest.raises(SluiceError, match=r"that of the balance of 5\.00 of tenant 'acme', CNY\. Price qwen3 in CNY"):
        prices(verb, file)
    assert not prices("history")
