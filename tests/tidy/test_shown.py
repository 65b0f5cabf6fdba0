"""What docs/finance.md says is billed is shown by a test that there is, for every flag an event can have."""

import re
from pathlib import Path

from gateway.core.usage import Flag
from tests.tidy.source import ROOT, text

FINANCE = Path("docs/finance.md")
ROW = re.compile(r"^\| (.+) \| `(tests/[\w/]+\.py)::(\w+)` \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def section(heading):
    """Give the part of the page under *heading*."""
    return text(FINANCE).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_every_test_that_is_named_exists():
    named = NAMED.findall(text(FINANCE))
    assert len(named) > 30, "the tables were not found"
    missing = {f"{file}::{name}" for file, name in named if not _has_test(file, name)}
    assert not missing


def _has_test(file, name):
    path = ROOT / file
    return path.exists() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE) is not None


def test_every_case_names_its_test_and_every_flag_has_a_case():
    table = section("What is billed").split("| request | billed | flag | shown by |\n|---|---|---|---|\n", 1)[1]
    lines = table.split("\n\n", 1)[0].splitlines()
    assert [line for line in lines if not ROW.match(line)] == []
    flags = {flag for line in lines for flag in re.findall(r"\| `(\w+)` \| `tests/", line)}
    assert flags == {flag.value for flag in Flag}


def test_every_way_of_losing_money_names_its_test():
    lines = section("How money is lost elsewhere").split("|---|---|\n", 1)[1].strip().splitlines()
    assert [line for line in lines if not ROW.match(line)] == []
