"""Wrong options of a drill: one clear sentence each, before anything is started."""

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import InvalidInput


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--self-contained", "--spike", "many"), "--spike many: this must be a factor of 1 or more, such as 2x."),
        (("--self-contained", "--scale-at", "0.5", "--scale-to", "0.5x"), "--scale-to 0.5x: this must be a factor"),
        (("--self-contained", "--flood", "nanx"), "--flood nanx: this must be a factor"),
        (("--self-contained", "--classes", "gold=1"), "'gold' is not a class. There are interactive, standard, batch."),
        (("--self-contained", "--classes", "batch=-1"), "'-1' is not a share"),
        (("--self-contained", "--classes", "batch=0"), "at least one share must be above 0"),
        (("--self-contained", "--users", "100000000"), "each user is one. Ask for at most"),
        (("--self-contained", "--prompt-tokens", "6000"), "Lower --prompt-tokens."),
        (("--self-contained", "--url", "http://127.0.0.1:9"), "--url means nothing with --self-contained"),
        (("--self-contained", "--patience", "inf"), "--patience inf: this must be a finite number."),
        (("--self-contained", "--capacity", "inf"), "--capacity inf: this must be a finite number."),
        (("--gateways", "2"), "--gateways needs --self-contained"),
        (("--scale-at", "0.5"), "--scale-at needs --self-contained"),
        (("--self-contained", "--json", "/no/such/folder/x.json"), "/no/such/folder/x.json cannot be written"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_started(options, sentence):
    refusal = CliRunner().invoke(app, ["drill", "burst", *options]).exception
    assert isinstance(refusal, InvalidInput)
    assert sentence in str(refusal)


def test_a_refusal_is_one_sentence_on_stderr(drill):
    status, result, errors = drill("--gateways", "2")
    assert (status, result) == (1, None)
    assert errors == ("error: --gateways needs --self-contained, where gateways and workers are the drill's own.\n")
