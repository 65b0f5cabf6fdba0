"""Imports point inwards. The table in ARCHITECTURE.md is the rule; this only reads it."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.tidy.source import PACKAGES, dotted, imports, modules, text

ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \|", re.MULTILINE)
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def may_import() -> dict[str, set[str]]:
    """Read the import table: unit → the units it may import, itself included."""
    section = text("ARCHITECTURE.md").split("## Imports", 1)[1].split("\n## ", 1)[0]
    return {unit: {unit, *re.findall(r"`([\w.]+)`", allowed)} for unit, allowed in ROW.findall(section)}


def unit(module: str) -> str:
    """Give the row of the table that a module belongs to: the longest one that is a prefix of its name."""
    rows = [row for row in may_import() if module == row or module.startswith(row + ".")]
    return max(rows, key=len, default=module)


def illegal_imports(path: Path) -> list[str]:
    row = unit(dotted(path))
    allowed = may_import().get(row, set())
    return [f"{path}: `{row}` may not import {name}" for name in sorted(imports(path)) if unit(name) not in allowed]


def test_modules_import_only_what_the_table_grants_them():
    assert not [line for path in modules(*PACKAGES) for line in illegal_imports(path)]


def test_every_module_belongs_to_a_row_of_the_table():
    assert (
        not {dotted(path) for path in modules(*PACKAGES)}
        - set(PACKAGES)
        - {dotted(path) for path in modules(*PACKAGES) if unit(dotted(path)) in may_import()}
    )


def test_no_modules_import_each_other_in_a_circle():
    graph = {dotted(path): imports(path) - {dotted(path)} for path in modules(*PACKAGES)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " → ".join(error.args[1]))


def test_every_row_of_the_table_exists():
    units = {dotted(path) for path in modules(*PACKAGES)}
    named = set(may_import()).union(*may_import().values())
    assert len(may_import()) > 10, "the table was not found"
    assert not {name for name in named if name not in units}


def test_the_three_planes_never_import_one_another():
    """The table itself may not be loosened on this: control, data plane and finance meet in stores only."""
    planes = {"gateway.serve", "gateway.control", "gateway.finance"}
    for plane in planes:
        assert may_import()[plane] & planes == {plane}
    assert not {name for name in may_import()["workers"] if name.startswith("gateway")}


def test_modules_have_names_that_say_what_they_are():
    assert not [path for path in modules(*PACKAGES, "tests") if FORBIDDEN_NAMES & set(path.with_suffix("").parts)]
