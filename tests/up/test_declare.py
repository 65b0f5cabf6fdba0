"""What a start declares, in a real SQLite database."""

from dataclasses import replace

from gateway.commands.local.declare import DEMO, declare
from gateway.core.ids import digest, new_secret
from gateway.settings import Settings
from gateway.stores.database import Database
from gateway.stores.sql_directory import SqlDirectory


def directory(settings):
    return SqlDirectory(Database(settings.sql_url))


def test_a_fresh_home_gets_a_tenant_a_key_and_a_model(tmp_path):
    settings, secret = Settings(home=tmp_path), new_secret()

    assert declare(settings, secret, "tiny") == secret
    snapshot = directory(settings).changes_since(0)
    assert [tenant.id for tenant in snapshot.tenants] == [DEMO]
    assert [key.digest for key in snapshot.keys] == [digest(secret)]
    assert [model.name for model in snapshot.models] == ["tiny"]


def test_declaring_again_changes_nothing(tmp_path):
    settings, secret = Settings(home=tmp_path), new_secret()
    declare(settings, secret, "tiny")
    version = directory(settings).changes_since(0).version
    declare(settings, secret, "tiny")

    assert directory(settings).changes_since(version) is None


def test_a_revoked_key_is_never_printed_again(tmp_path):
    settings, secret = Settings(home=tmp_path), new_secret()
    declare(settings, secret, "tiny")
    [key] = directory(settings).keys(DEMO)
    directory(settings).put_key(replace(key, is_revoked=True))
    newer = declare(settings, secret, "tiny")

    assert newer != secret
    assert {digest(newer), digest(secret)} == {key.digest for key in directory(settings).keys(DEMO)}


def test_a_retired_model_is_served_again(tmp_path):
    settings = Settings(home=tmp_path)
    declare(settings, new_secret(), "tiny")
    directory(settings).put_model(replace(directory(settings).model("tiny"), is_retired=True))
    declare(settings, new_secret(), "tiny")

    assert not directory(settings).model("tiny").is_retired
