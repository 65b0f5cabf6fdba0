"""`sluice check` and `sluice apply` as operators run them: what is found, what is said, what is written."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.control.pool_file import read_pool_file
from gateway.errors import InvalidInput
from gateway.stores.schema import migrate

GOLDEN = Path(__file__).parent / "golden"

GOOD = """\
port: 8080
queue:
  wait_s_max: {interactive: 300}
pools:
  qwen3-8b:
    model: Qwen/Qwen3-8B
    revision: v1.0.0
    serves: [qwen3-8b]
    engine_args: [--max-model-len=16384]
    workers: {min: 1, max: 4}
    gpus_per_worker: {tensor: 2}
    wait_s_max: {interactive: 60}
    hold_s_max: {batch: 1800}
    adapters: {support-bot: acme/support-lora}
    drain_s: 90
  qwen3-8b-next:
    model: Qwen/Qwen3-8B
    workers: {min: 0, max: 2}
    idle_s: 600
    cold_start_s: 100
models:
  qwen-plus: {qwen3-8b: 95, qwen3-8b-next: 5}
"""

WRONG = """\
port: 80800
qeue: {}
pools:
  qwen3-8b:
    model: Qwen/Qwen3-8B
    serves: [qwen3-8b, qwen3-8b]
    engine_args: [--max-model-len=16384, --port=3, --served-model-name=x]
    workers: {min: 5, max: 0}
    wait_s_max: {interactive: 60, stanard: 3}
    hold_s_max: {interactive: 90}
    adapters: {bot: }
    idle_s: 30
  empty: {}
  three: 3
  twice: {model: Qwen/Qwen3-8B, serves: [qwen3-8b], workers: {min: 0, max: 2}, cold_start_s: 500}
models:
  qwen-plus: {qwen3-8b: 95, qwen3-8c: 5}
  nothing: {empty: 0}
  none:
  three: {empty: 1}
  half: {empty: 0.5}
prices: [x]
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a verb in a folder of its own; gives its result."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, text=None):
        if text is not None:
            (tmp_path / "sluice.yaml").write_text(text)
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture
def home(tmp_path):
    migrate(f"sqlite:///{tmp_path / 'home' / 'sluice.db'}")
    return str(tmp_path / "home")


def same_as_golden(name, text):
    """Compare what is said with what it said before; the width of a table is not part of it."""
    text = "\n".join(re.sub(r" {2,}", "  ", line).strip() for line in text.splitlines() if "──" not in line)
    golden = GOLDEN / name
    if not golden.exists():
        golden.write_text(text + "\n")
        pytest.fail(f"{golden} was missing and is written now: look at it")
    assert text + "\n" == golden.read_text()


def before_comparison(output):
    """Cut what depends on the machine: the database that is not there."""
    return output.split("\nNot compared with what is declared")[0]


@pytest.mark.parametrize(("name", "text", "status"), [("good", GOOD, 0), ("wrong", WRONG, 1)])
def test_what_is_said_is_what_the_golden_file_says(run, name, text, status):
    done = run("check", text=text)
    assert done.exit_code == status, done.output
    same_as_golden(f"check_{name}.txt", before_comparison(done.output))


def test_the_same_for_programs(run):
    done = run("check", "--format", "json", text=WRONG)
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["plan"]) == (1, False, None)
    assert {(each["level"], each["line"], each["column"], each["name"]) for each in told["findings"]} >= {
        ("error", 1, 7, "port"),
        ("error", 8, 28, "pools.qwen3-8b.workers.max"),
        ("warning", 12, 13, "pools.qwen3-8b.idle_s"),
        ("error", 17, 39, "models.qwen-plus.qwen3-8c"),
    }
    assert all(each["line"] >= 1 and each["message"] for each in told["findings"])


def test_warnings_alone_have_a_status_of_their_own(run):
    done = run("check", text="pools: {a: {model: m, idle_s: 60}}")
    assert done.exit_code == 2, done.output
    assert "warning: sluice.yaml:1: pools.a.idle_s: has no effect" in done.output


def test_secrets_among_the_settings_are_not_shown(run):
    done = run(
        "check", text="admin_token: hunter2\nworker_token: [hunter3]\ndatabase_url: postgresql://u:hunter4@h/d\n"
    )
    assert "hunter" not in done.output


def test_every_setting_in_the_file_is_explained(run):
    done = run("check", "--format", "json", text="queue:\n  hold_s_max: {batch: 1}\nshares_prefix_cache: true\n")
    lines = {line["name"]: line["effect"] for line in json.loads(done.stdout)["lines"]}
    assert lines.keys() == {"queue.hold_s_max.batch", "shares_prefix_cache"}
    assert "Default: False." in lines["shares_prefix_cache"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pools:\n  a: {model: m}\n  a: {model: n}\n",
            r"sluice.yaml:3: 'a' stands twice, first in line 2 \(column 3\)",
        ),
        ("pools:\n\ta: 1\n", r"sluice.yaml:2: not valid YAML: .*spaces, not tabs"),
        ("pools: [a]\n", r"sluice.yaml:1: pools: a list, must be a mapping of names to pools \(column 1\)"),
        ("pools: {a: {model: m, serves: x}}\n", r"pools.a.serves: 'x', must be a list, such as \[one, two\]"),
        ("pools: {a: {model: m, serves: [[x]]}}\n", r"pools.a.serves.0: a list, must be a text"),
        ("pools: {a: {model: m, drain_s: soon}}\n", r"pools.a.drain_s: 'soon', must be a number of seconds from 0"),
        ("pools: {a: {model: m, idle_s: .nan}}\n", r"pools.a.idle_s: .nan, must be a number of seconds"),
        ("pools: {a: {model: m, workers: 3}}\n", r"pools.a.workers: 3, must be a mapping with min, max"),
        ("pools: {a: {model: m, workers: {min: 1.5}}}\n", r"pools.a.workers.min: 1.5, must be a whole number from 0"),
        ("pools: {a: {model: m, workers: {min: true}}}\n", r"pools.a.workers.min: true, must be a whole number"),
        ("pools: {a: {model: m, adapters: [x]}}\n", r"pools.a.adapters: a list, must be a mapping of names to where"),
        ('pools: {"": {model: m}}\n', r"sluice.yaml:1: pools.: '', a name has 1 to 200 printable characters"),
        ('pools: {a: {model: m, serves: ["x\\ny"]}}\n', r"a name has 1 to 200 printable characters"),
        ("pools: {a: {model: m}}\nmodels: {x: a}\n", r"sluice.yaml:2: models.x: 'a', must be a mapping of pools to"),
        ("pools: {a: {model: m}}\nmodels: {x: {a: -1}}\n", r"models.x.a: -1, must be a whole number from 0"),
        ("port: &p 1\npools: {a: {model: m, drain_s: *p}}\n", r"aliases only of what stands in them"),
    ],
)
def test_every_error_names_its_line(text, message):
    with pytest.raises(InvalidInput, match=message):
        read_pool_file(text.encode(), "sluice.yaml").check()


def test_texts_are_read_as_they_are_written():
    """YAML would make a number of a revision and a boolean of a name."""
    text = b"pools: {8: {model: no, revision: 20250101, serves: [on, 1e3, 2026-01-01]}}"
    pool = read_pool_file(text, "f").pools["8"]
    assert (pool.model, pool.revision, pool.serves) == ("no", "20250101", ("on", "1e3", "2026-01-01"))


def test_a_pool_may_serve_a_name_that_is_shared():
    file = read_pool_file(
        b"pools:\n a: {model: m, serves: [x]}\n b: {model: m, serves: [x]}\nmodels: {x: {a: 9, b: 1}}", "f"
    )
    assert (file.findings, file.names) == ((), {"x": {"a": 9, "b": 1}})


def test_what_cannot_fit_is_an_error_and_what_is_nearly_known_a_warning(run):
    text = """\
pools:
  fits: {model: Qwen/Qwen3-8B, accelerator: H200, gpus_per_worker: 2, engine_args: [--max-model-len=16k]}
  huge: {model: Qwen/Qwen3-235B-A22B, accelerator: H200, gpus_per_worker: 2}
  long: {model: Qwen/Qwen3-8B, accelerator: L4, engine_args: [--max-model-len, "32768"]}
  odd: {model: Qwen/Qwen3-8B, accelerator: H200, gpus_per_worker: 3}
  other: {model: Qwen/Qwen3-8BB, accelerator: H2000}
  unmeasured: {model: Qwen/Qwen3-235B-A22B, accelerator: H200, engine_args: [--quantization=fp8]}
  cpu: {model: Qwen/Qwen3-235B-A22B, accelerator: cpu}
"""
    told = json.loads(run("check", "--format", "json", text=text).stdout)
    found = [(each["level"], each["line"], each["message"]) for each in told["findings"]]
    assert [(level, line) for level, line, _ in found] == [
        *(("error", line) for line in (3, 4, 5)),
        *(("warning", 6), ("warning", 6)),
    ]
    assert "does not fit on H200:2: its weights of" in found[0][2]
    assert "tokens of context fit at most" in found[1][2]
    assert "cannot be split over 3 GPUs" in found[2][2]
    assert "Did you mean Qwen/Qwen3-8B?" in found[3][2]
    assert "'H2000' is not known" in found[4][2]
    lines = {line["name"]: line["effect"] for line in told["lines"]}
    assert re.search(r"fits on 1 of the 2 H200, .* sequences of 16000 tokens", lines["pools.fits.accelerator"])


def test_an_adapter_in_a_folder_is_looked_at(run, tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/qwen3-8b"}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-4B"}')
    (tmp_path / "none").mkdir()
    adapters = "{good: ./good, other: ./other, none: ./none, away: acme/away}"
    done = run("check", text=f"pools: {{a: {{model: Qwen/Qwen3-8B, adapters: {adapters}}}}}\n")
    found = [line for line in done.output.splitlines() if line.startswith(("error", "warning"))]
    assert len(found) == 2
    assert "pools.a.adapters.none: 'none' is no LoRA adapter" in found[1]
    assert "pools.a.adapters.other: the adapter was made for 'Qwen/Qwen3-4B'" in found[0]


def test_check_shows_what_apply_would_change_and_writes_nothing(run, home):
    done = run("check", "--home", home, text=GOOD)
    assert "Never applied:" in done.output
    assert "6 new" in done.output
    assert json.loads(run("apply", "--home", home, "--history", "--format", "json").stdout) == []
    assert run("apply", "--home", home).exit_code == 0
    done = run("check", "--home", home, "--format", "json", text=GOOD.replace("95", "90"))
    steps = {step["name"]: step for step in json.loads(done.stdout)["plan"]["steps"] if step["change"] == "changed"}
    assert steps.keys() == {"qwen-plus"}
    assert "95 % pool qwen3-8b, 5 % pool qwen3-8b-next → " in steps["qwen-plus"]["details"][0]


def test_apply_is_numbered_shown_and_taken_back(run, home):
    first = run("apply", "--home", home, text="admin_token: s\npools: {a: {model: m}}  # one\n")
    assert "Applied as version 1." in first.output
    assert "Nothing to do: version 1 says the same." in run("apply", "--home", home).output
    dry = run("apply", "--home", home, "--dry-run", text="pools: {b: {model: m}}\n")
    assert "Nothing was written: `sluice apply` would make this version 2." in dry.output
    assert "Applied as version 2." in run("apply", "--home", home).output
    assert "Applied as version 3." in run("apply", "--home", home, "--rollback", "1").output
    history = json.loads(run("apply", "--home", home, "--history", "--format", "json").stdout)
    assert [(each["number"], each["rolls_back_to"]) for each in history] == [(3, 1), (2, None), (1, None)]
    assert history[0]["digest"] == history[2]["digest"] != history[1]["digest"]
    assert "@" in history[0]["who"]
    assert run("apply", "--home", home, "--show", "3").output == "pools: {a: {model: m}}  # one\n"


def test_apply_says_what_stands_in_its_way(run, home):
    run("apply", "--home", home, text="pools: {a: {model: m}}\n")
    told = run("apply", "--home", home, "--expect-version", "7", text="pools: {b: {model: m}}\n")
    assert "Version 7 is not what is applied" in str(told.exception)
    assert "was never applied" in str(run("apply", "--home", home, "--rollback", "9").exception)
    told = run("apply", "--home", home, text="pools:\n  a: {}\n  b: {workers: 3}\n")
    assert "sluice.yaml:2: pools.a: model is missing" in str(told.exception)
    assert "sluice.yaml:3: pools.b.workers: 3, must be" in str(told.exception)
    assert len(json.loads(run("apply", "--home", home, "--history", "--format", "json").stdout)) == 1


def test_a_file_that_says_nothing_of_pools_takes_nothing_away(run, home):
    """Somebody is in the wrong folder: to take all away must be said."""
    run("apply", "--home", home, text="pools: {a: {model: m}}\n")
    assert "Is it the right file?" in str(run("apply", "--home", home, text="port: 8080\n").exception)
    assert "Applied as version 2." in run("apply", "--home", home, text="port: 8080\npools: {}\n").output
    assert [
        model["is_retired"] for model in json.loads(run("models", "list", "--home", home, "--format", "json").stdout)
    ]


PRICES = "prices:\n- {model: plus, from: 2099-01-01, currency: USD, input: 1, output: 2}\n"


def test_prices_come_with_the_names_they_are_for(run, home, tmp_path):
    """The price file may name what the same file declares; its path counts from sluice.yaml."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    text = "pools: {a: {model: m}, b: {model: m}}\nmodels: {plus: {a: 1, b: 1}}\nprices: prices.yaml\n"
    done = run("apply", "--home", home, text=text)
    assert done.exit_code == 0, done.exception
    assert re.search(r"new +price +plus", done.output)
    [price] = json.loads(run("prices", "list", "--home", home, "--format", "json").stdout)
    assert (price["model"], price["state"]) == ("plus", "ahead")
    assert "Nothing to do" in run("apply", "--home", home).output


def test_a_price_file_that_is_wrong_leaves_nothing_behind(run, home, tmp_path):
    text = "pools: {a: {model: m}}\nprices: prices.yaml\n"
    assert "sluice.yaml:2: prices: prices.yaml cannot be read" in str(run("apply", "--home", home, text=text).exception)
    (tmp_path / "prices.yaml").write_text(PRICES)
    assert "model 'plus' does not exist" in str(run("apply", "--home", home).exception)
    assert json.loads(run("models", "list", "--home", home, "--format", "json").stdout) == []
