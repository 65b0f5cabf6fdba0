"""`sluice reconcile` as a shell runs it: its exit status is the alarm."""

import json

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from tests.finance.test_reconcile import reading, served

pytestmark = pytest.mark.parametrize("journal", ["sqlite"], indirect=True)


@pytest.fixture
def reconciled(journal, tmp_path, monkeypatch):
    """A function that runs the verb over an engine with 5 unexplained tokens of 10,000."""
    monkeypatch.chdir(tmp_path)
    journal.append([served(1, 2000, prompt=4000, completion=5995)])
    journal.append_readings([reading(4000, 4000, 6000)])

    def run(*options):
        url = f"sqlite:///{tmp_path / 'sluice.db'}"
        asked = ["reconcile", "--from", "1970-01-01", "--to", "1970-01-02", "--database-url", url]
        return CliRunner().invoke(app, [*asked, *options])

    return run


def test_a_residue_within_the_limits_is_no_alarm(reconciled):
    done = reconciled()
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [("--alarm-ratio", "0.0004"), ("--alarm-tokens", "4")])
def test_a_residue_above_either_limit_fails_and_says_what_is_known_of_it(reconciled, options):
    done = reconciled(*options)
    assert done.exit_code == 1
    assert "Of 10,000 tokens of w1, 0 of prompts and 5 of answers are explained by nothing." in done.stderr
    assert "unexplained" in done.stdout


def test_a_limit_that_is_just_reached_is_no_alarm(reconciled):
    assert reconciled("--alarm-ratio", "0.0005", "--alarm-tokens", "5").exit_code == 0


def test_the_limits_may_be_set_for_good(reconciled, monkeypatch):
    monkeypatch.setenv("SLUICE_RECONCILE__ALARM_TOKENS", "4")
    assert reconciled().exit_code == 1
    assert reconciled("--alarm-tokens", "5").exit_code == 0


def test_programs_get_the_same_with_each_worker_summed_up(reconciled):
    done = reconciled("--format", "json", "--alarm-tokens", "4")
    result = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [(worker["worker"], worker["unexplained_tokens"]) for worker in result["workers"]] == [("w1", 5)]
    assert result["totals"]["unexplained_completion_tokens"] == result["lines"][0]["unexplained_completion_tokens"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--from", "1970-01-03"), "is not before"),
        (("--zone", "Mars"), "There is no time zone 'Mars'"),
        (("--alarm-ratio", "-1"), "alarm-ratio"),
    ],
)
def test_a_wrong_question_is_refused_and_named(reconciled, options, words):
    done = reconciled(*options)
    assert done.exit_code != 0
    assert words in f"{done.output} {done.exception}"
