"""The verbs of the `sluice` command that work on the database, as a shell runs them."""

import csv
import io
import json
import subprocess

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.core.ids import digest
from gateway.core.webhooks import tenant_secret
from gateway.errors import SluiceError
from gateway.stores.database import Database
from gateway.stores.sql import SqlJournal
from gateway.stores.sql_directory import SqlDirectory
from tests.finance.test_reconcile import reading, served
from tests.meter_events import event
from tests.servers.process import SLUICE
from tests.tidy.source import ROOT


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def sluice(home, monkeypatch):
    """Run a verb and give its output; an error of ours is raised as it is."""
    monkeypatch.chdir(home.parent)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--home", str(home)])
        if isinstance(done.exception, SluiceError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


@pytest.fixture
def migrated(sluice):
    sluice("migrate")
    sluice("tenants", "create", "Acme")
    return sluice


@pytest.fixture
def database(migrated, home):
    database = Database(f"sqlite:///{home / 'sluice.db'}")
    yield database
    database.close()


def test_before_migrating_every_verb_says_to_migrate(sluice):
    for verb in (["tenants", "list"], ["keys", "list"], ["models", "list"], ["report", "usage"], ["reconcile"]):
        with pytest.raises(SluiceError, match="sluice migrate"):
            sluice(*verb)


def test_migrating_says_which_version_there_is_now(sluice):
    newest = max(path.name[:4] for path in (ROOT / "gateway/stores/migrations/versions").glob("0*.py"))
    assert json.loads(sluice("migrate", "--format", "json")) == {"version": newest}
    assert newest in sluice("migrate")


def test_a_key_is_printed_once_and_works(migrated, database):
    made = json.loads(migrated("keys", "create", "--tenant", "acme", "--name", "bot", "--format", "json"))
    assert set(made) == {
        "key", "id", "tenant", "project", "name", "hint", "created_ms", "expires_ms", "service_class", "is_revoked"
    }  # fmt: skip
    assert SqlDirectory(database).key(made["id"]).digest == digest(made["key"])
    listed = migrated("keys", "list") + migrated("keys", "list", "--format", "json")
    assert made["id"] in listed
    assert made["key"] not in listed
    assert digest(made["key"]) not in listed


def test_a_key_for_a_tenant_that_was_not_there_makes_it_and_says_so(migrated, home):
    verb = [SLUICE, "keys", "create", "--tenant", "bolt", "--format", "json", "--home", str(home)]
    done = subprocess.run(verb, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tenant"] == "bolt"
    assert "'bolt'" in done.stderr
    assert "bolt" in migrated("tenants", "list")


def test_a_key_for_people_stands_on_a_line_of_its_own(migrated):
    first, _, rest = migrated("keys", "create", "--tenant", "acme").partition("\n")
    assert first.startswith("sk-sluice-")
    assert " " not in first
    assert "only time" in rest


def test_a_key_may_expire_at_a_local_midnight(migrated, monkeypatch):
    monkeypatch.setenv("SLUICE_ZONE", "Asia/Shanghai")
    made = json.loads(migrated("keys", "create", "--tenant", "acme", "--expires", "2100-01-01", "--format", "json"))
    assert made["expires_ms"] == 4_102_416_000_000


def test_a_revoked_key_is_revoked_in_the_directory(migrated, database):
    identity = json.loads(migrated("keys", "create", "--tenant", "acme", "--format", "json"))["id"]
    assert json.loads(migrated("keys", "revoke", identity, "--format", "json"))["is_revoked"]
    assert SqlDirectory(database).key(identity).is_revoked
    assert "yes" in migrated("keys", "list", "--tenant", "acme")


def test_a_tenant_is_suspended_and_resumed(migrated):
    assert json.loads(migrated("tenants", "suspend", "acme", "--format", "json"))["is_suspended"]
    assert not json.loads(migrated("tenants", "resume", "acme", "--format", "json"))["is_suspended"]
    assert [tenant["id"] for tenant in json.loads(migrated("tenants", "list", "--format", "json"))] == ["acme"]


def test_a_tenant_is_given_another_class_and_weight(migrated):
    made = json.loads(migrated("tenants", "create", "Bolt", "--class", "batch", "--weight", "2", "--format", "json"))
    assert (made["service_class"], made["weight"]) == ("batch", 2)
    set_ = json.loads(migrated("tenants", "set", "bolt", "--class", "interactive", "--format", "json"))
    assert set_ == {**made, "service_class": "interactive"}
    assert json.loads(migrated("tenants", "set", "bolt", "--weight", "3", "--format", "json")) == {**set_, "weight": 3}
    assert "interactive" in migrated("tenants", "list")


def test_setting_nothing_of_a_tenant_says_what_can_be_set(migrated):
    with pytest.raises(SluiceError, match="--name, --class or --weight"):
        migrated("tenants", "set", "acme")


def test_a_key_may_be_less_urgent_than_its_tenant_and_not_more(migrated):
    made = json.loads(migrated("keys", "create", "--tenant", "acme", "--class", "batch", "--format", "json"))
    assert made["service_class"] == "batch"
    assert "batch" in migrated("keys", "list")
    with pytest.raises(SluiceError, match="sluice tenants set acme --class interactive"):
        migrated("keys", "create", "--tenant", "acme", "--class", "interactive")


def test_a_model_is_served_and_retired(migrated):
    served_ = json.loads(migrated("models", "serve", "Qwen/Qwen3-8B", "--pool", "chat", "--format", "json"))
    assert (served_["name"], served_["pool"], served_["is_retired"]) == ("Qwen/Qwen3-8B", "chat", False)
    migrated("models", "retire", "Qwen/Qwen3-8B")
    assert json.loads(migrated("models", "list", "--format", "json"))[0]["is_retired"]


def test_a_report_is_printed_in_three_forms_with_the_same_numbers(migrated, database):
    SqlJournal(database).append([event(1), event(2, tenant="beta", completion_tokens=1_234_567)])
    asked = ["report", "usage", "--from", "2023-11-01", "--to", "2023-12-01", "--group-by", "tenant"]
    data = json.loads(migrated(*asked, "--format", "json"))
    rows = list(csv.DictReader(io.StringIO(migrated(*asked, "--format", "csv"))))
    table = migrated(*asked)
    assert [row["tenant"] for row in rows] == ["acme", "beta"]
    assert data["totals"]["completion_tokens"] == 1_234_587 == sum(int(row["completion_tokens"]) for row in rows)
    assert "1,234,587" in table
    assert "total" in table


def test_reconciliation_is_printed_in_two_forms(migrated, database):
    journal = SqlJournal(database)
    journal.append([served(1, 2000), served(2, 2000, worker="unread")])
    journal.append_readings([reading(4000, 10, 25)])
    asked = ["reconcile", "--from", "1970-01-01", "--to", "1970-01-02", "--alarm-ratio", "1"]
    assert json.loads(migrated(*asked, "--format", "json"))["totals"]["residue_completion_tokens"] == 5
    table = migrated(*asked)
    assert "residue" in table
    assert "unread" in table


def test_a_table_comes_out_of_a_pipe_whole(migrated):
    name = "a rather long name of a key that no terminal of eighty columns would show in one piece"
    migrated("keys", "create", "--tenant", "acme", "--name", name)
    assert name in migrated("keys", "list")


@pytest.mark.parametrize(
    "verb", ["tenants create", "tenants set", "keys create", "models serve", "report usage", "reconcile", "migrate"]
)
def test_help_has_an_example(sluice, verb):
    words = CliRunner().invoke(app, [*verb.split(), "--help"]).output
    assert f"Example: sluice {verb}" in " ".join(words.split())


def test_an_error_is_one_sentence_on_stderr_and_status_1(home):
    done = subprocess.run([SLUICE, "keys", "list", "--home", str(home)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: There is no database at {home}/sluice.db. Run `sluice migrate` to create it.\n"


def test_a_tenants_webhook_secret_is_its_own_and_follows_from_the_installations(migrated, monkeypatch):
    with pytest.raises(SluiceError, match="SLUICE_JOBS__WEBHOOK_SECRET"):
        migrated("tenants", "webhook-secret", "acme")
    monkeypatch.setenv("SLUICE_JOBS__WEBHOOK_SECRET", "a long random text")
    shown = json.loads(migrated("tenants", "webhook-secret", "acme", "--format", "json"))
    assert shown == {"tenant": "acme", "webhook_secret": tenant_secret("a long random text", "acme")}
    with pytest.raises(SluiceError, match="no tenant 'nobody'"):
        migrated("tenants", "webhook-secret", "nobody")
