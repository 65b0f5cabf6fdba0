"""Each row of docs/failure-modes.md says what becomes of whom, and names a test that there is."""

import re
from pathlib import Path

from tests.tidy.source import ROOT, modules, text

PAGE = Path("docs/failure-modes.md")
HEAD = (
    "| what fails | what the user sees | what is kept | what operators are told | shown by |\n|---|---|---|---|---|\n"
)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
EVENT = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")
# A word of the first column for each part that a gateway stands or falls with.
PARTS = (
    "**Redis** is killed",
    "**The database** is unreachable",
    "**The spool's disk**",
    "**A worker** dies",
    "**All workers of a pool**",
    "**An agent**",
    "**Prometheus**",
    "**ModelScope**",
    "**A clock**",
    "**A gateway** is killed",
    "**A gateway** is stopped",
    "network between a gateway and a worker",
    "network between a gateway and Redis",
    "network between a gateway and the database",
)


def rows() -> list[list[str]]:
    table = text(PAGE).split(HEAD, 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]


def test_every_row_is_whole():
    assert [row for row in rows() if len(row) != 5 or not all(row)] == []


def test_every_part_has_a_row():
    subjects = [row[0] for row in rows()]
    assert [part for part in PARTS if not any(part in subject for subject in subjects)] == []


def test_every_row_names_a_test_that_exists():
    assert [row[0] for row in rows() if not TEST.search(row[4])] == []
    named = [found for row in rows() for found in TEST.findall(row[4])]
    assert [f"{file}::{name}" for file, name in named if not _has_test(file, name or r"test_\w+")] == []


def _has_test(file: str, name: str) -> bool:
    path = ROOT / file
    return path.exists() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE) is not None


def test_what_operators_are_told_is_told():
    """Metrics are held to the source by test_docs.py; here the events of the log, outcomes and codes."""
    source = "".join(text(path) for path in modules("gateway", "workers"))
    told = {event for row in rows() for event in EVENT.findall(row[3]) if not event.startswith("sluice_")}
    assert told
    assert sorted(event for event in told if f'"{event}"' not in source) == []
