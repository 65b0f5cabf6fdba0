"""Tenants, keys and models as operators declare them."""

import pytest

from gateway.control.keys import create_key, revoke_key
from gateway.control.models import declare_model, retire_model
from gateway.control.tenants import create_tenant, resume_tenant, set_tenant, suspend_tenant
from gateway.core.directory import Model, Tenant
from gateway.core.ids import KEY_PREFIX, digest
from gateway.errors import AlreadyExists, InvalidInput, NotFoundError


@pytest.mark.parametrize(
    ("name", "identity"),
    [("Acme", "acme"), ("Acme GmbH & Co. KG", "acme-gmbh-co-kg"), ("Café Zoë", "cafe-zoe"), ("x" * 100, "x" * 63)],
)
def test_a_tenants_id_is_made_from_its_name(directory, name, identity):
    assert create_tenant(directory, name).id == identity
    assert directory.tenant(identity).name == name


def test_a_name_without_a_latin_letter_needs_an_id(directory):
    with pytest.raises(InvalidInput, match="Give one yourself"):
        create_tenant(directory, "通义")
    assert create_tenant(directory, "通义", tenant_id="tongyi").name == "通义"


@pytest.mark.parametrize("identity", ["", "-a", "a-", "A", "a b", "a/b", "a" * 64])
def test_an_id_that_would_not_fit_everywhere_is_refused(directory, identity):
    with pytest.raises(InvalidInput, match="cannot be the id"):
        create_tenant(directory, "Acme", tenant_id=identity)


def test_a_taken_id_is_refused_and_nothing_is_overwritten(directory):
    create_tenant(directory, "Acme", "batch")
    with pytest.raises(AlreadyExists, match="'acme'"):
        create_tenant(directory, "ACME", "interactive")
    assert directory.tenant("acme").service_class == "batch"


def test_an_unknown_class_is_refused_naming_those_there_are(directory):
    with pytest.raises(InvalidInput, match=r"'gold'.*interactive, standard, batch"):
        create_tenant(directory, "Acme", "gold")


@pytest.mark.parametrize("weight", [0, -1, 101, 10**30])
def test_a_weight_out_of_its_range_is_refused_and_nothing_is_written(directory, weight):
    create_tenant(directory, "Acme", weight=100)
    with pytest.raises(InvalidInput, match=f"1 to 100, not {weight}"):
        create_tenant(directory, "Bolt", weight=weight)
    with pytest.raises(InvalidInput, match=f"1 to 100, not {weight}"):
        set_tenant(directory, "acme", name="Other", weight=weight)
    assert directory.tenants() == [Tenant(id="acme", name="Acme", weight=100)]


def test_setting_what_is_so_already_changes_nothing(directory):
    tenant = create_tenant(directory, "Acme", "interactive", weight=3)
    version = directory.changes_since(0).version
    assert set_tenant(directory, "acme", name=" Acme ", service_class="interactive", weight=3) == tenant
    assert set_tenant(directory, "acme") == tenant
    assert directory.changes_since(version) is None


def test_setting_what_cannot_be_is_refused_and_leaves_the_tenant(directory):
    tenant = create_tenant(directory, "Acme")
    for values in ({"service_class": "gold"}, {"name": "a\nb"}, {"name": " "}, {"service_class": ""}):
        with pytest.raises(InvalidInput):
            set_tenant(directory, "acme", **values)
    assert directory.tenant("acme") == tenant


@pytest.mark.parametrize(
    ("key_class", "tenant_class", "is_allowed"),
    [
        ("interactive", "interactive", True),
        ("batch", "interactive", True),
        ("standard", "standard", True),
        ("interactive", "standard", False),
        ("standard", "batch", False),
    ],
)
def test_a_keys_class_is_bounded_by_its_tenants(directory, key_class, tenant_class, is_allowed):
    create_tenant(directory, "Acme", tenant_class)
    if is_allowed:
        assert create_key(directory, "acme", now_ms=5, service_class=key_class)[0].service_class == key_class
    else:
        with pytest.raises(InvalidInput, match=f"'{key_class}' would be more urgent than .* '{tenant_class}'"):
            create_key(directory, "acme", now_ms=5, service_class=key_class)
        assert not directory.keys("acme")


def test_a_key_of_an_unknown_class_is_refused_naming_those_there_are(directory):
    create_tenant(directory, "Acme")
    with pytest.raises(InvalidInput, match=r"'gold'.*interactive, standard, batch"):
        create_key(directory, "acme", now_ms=5, service_class="gold")


def test_a_key_without_a_class_has_its_tenants_whatever_that_becomes(directory):
    create_tenant(directory, "Acme")
    key, _ = create_key(directory, "acme", now_ms=5)
    set_tenant(directory, "acme", service_class="interactive")
    assert directory.key(key.id).service_class is None


def test_suspending_and_resuming_twice_changes_nothing_more(directory):
    create_tenant(directory, "Acme")
    assert suspend_tenant(directory, "acme").is_suspended
    version = directory.changes_since(0).version
    suspend_tenant(directory, "acme")
    assert directory.changes_since(version) is None
    assert not resume_tenant(directory, "acme").is_suspended


def test_a_key_is_stored_hashed_and_found_by_its_digest(directory):
    create_tenant(directory, "Acme")
    key, secret = create_key(directory, "acme", now_ms=5, name="bot", expires_ms=9)
    assert secret.startswith(KEY_PREFIX)
    assert directory.keys("acme") == [key]
    assert (key.digest, key.hint, key.created_ms, key.expires_ms) == (digest(secret), secret[-4:], 5, 9)
    assert secret not in repr(key)
    assert key.digest not in repr(key)


def test_no_two_keys_are_alike(directory):
    create_tenant(directory, "Acme")
    assert len({create_key(directory, "acme", now_ms=1)[1] for _ in range(100)}) == 100


def test_a_key_that_would_be_dead_at_birth_is_refused(directory):
    create_tenant(directory, "Acme")
    with pytest.raises(InvalidInput, match="past"):
        create_key(directory, "acme", now_ms=5, expires_ms=5)


def test_a_key_of_nobody_is_refused(directory):
    with pytest.raises(NotFoundError, match="no tenant 'acme'"):
        create_key(directory, "acme", now_ms=5)


def test_revoking_twice_is_fine(directory):
    create_tenant(directory, "Acme")
    key, _ = create_key(directory, "acme", now_ms=5)
    assert revoke_key(directory, key.id).is_revoked
    assert revoke_key(directory, key.id).is_revoked
    assert directory.key(key.id).is_revoked


def test_a_model_is_declared_once_however_often_it_is_said(directory):
    first = declare_model(directory, "qwen3", "pool", now_ms=5)
    assert declare_model(directory, "qwen3", "pool", now_ms=9) == first
    with pytest.raises(AlreadyExists, match=r"'pool' already\. Retire it first"):
        declare_model(directory, "qwen3", "other", now_ms=9)


def test_a_retired_model_can_come_back_in_another_pool(directory):
    declare_model(directory, "qwen3", "pool", now_ms=5)
    assert retire_model(directory, "qwen3").is_retired
    back = declare_model(directory, "qwen3", "other", now_ms=9)
    assert (back.is_retired, back.pool, back.created_ms) == (False, "other", 5)


@pytest.mark.parametrize("verb", [suspend_tenant, resume_tenant, set_tenant, revoke_key, retire_model])
def test_what_is_not_there_is_named(directory, verb):
    with pytest.raises(NotFoundError, match="'ghost'"):
        verb(directory, "ghost")


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "\ud800", "x" * 201])
def test_a_name_that_a_database_or_a_terminal_would_choke_on_is_refused(directory, name):
    create_tenant(directory, "Acme")
    for declare in (
        lambda: create_tenant(directory, name, tenant_id="a"),
        lambda: create_key(directory, "acme", now_ms=1, project=name),
        lambda: create_key(directory, "acme", now_ms=1, name=name or "\n"),
        lambda: declare_model(directory, name, "pool", now_ms=1),
        lambda: declare_model(directory, "model", name, now_ms=1),
    ):
        with pytest.raises(InvalidInput, match="printable"):
            declare()
    assert len(directory.tenants()) == 1
    assert not directory.keys(None)
    assert not directory.models()


def test_a_shared_name_is_not_declared_anew_by_hand(directory):
    directory.put_model(Model(name="plus", pool="a", created_ms=1, weights={"a": 9, "b": 1}, is_from_file=True))
    with pytest.raises(AlreadyExists, match=r"'plus' is shared by pools 'a' and 'b', as sluice.yaml says"):
        declare_model(directory, "plus", "a", now_ms=2)
    retire_model(directory, "plus")
    assert declare_model(directory, "plus", "a", now_ms=2) == Model(name="plus", pool="a", created_ms=1)
