"""The sluice.yaml of docs/operators.md is a good one, and shows every field there is."""

import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.pool_file import POOL_FIELDS

DOCS = Path(__file__).parents[2] / "docs" / "operators.md"
PRICES = "prices:\n- {model: qwen-plus, from: 2099-01-01, currency: USD, input: 1, output: 2}\n"


def documented():
    [text] = re.findall(r"```yaml\n(# sluice\.yaml:.*?)```", DOCS.read_text(), re.DOTALL)
    return text


def test_the_documented_file_has_nothing_wrong_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sluice.yaml").write_text(documented())
    Path("prices.yaml").write_text(PRICES)
    monkeypatch.setenv("SLUICE_DATABASE_URL", "sqlite:///away.db")
    done = CliRunner().invoke(app, ["check"])
    assert (done.exit_code, "2 pools, 4 names; 0 errors, 0 warnings" in done.output) == (0, True), done.output


def test_it_shows_every_field():
    shown = {field for pool in yaml.safe_load(documented())["pools"].values() for field in pool}
    assert shown == set(POOL_FIELDS)
