"""From a bearer key to a caller: who, how urgent, what share."""

from dataclasses import dataclass, replace

import pytest

from gateway.core.directory import Changes, Key, ServiceClass, Snapshot, Tenant
from gateway.core.ids import digest
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.serve.authn import Authn, Caller

SECRET = "sk-sluice-a-secret"
BEARER = {b"authorization": f"Bearer {SECRET}".encode()}
ACME = Tenant(id="acme", name="Acme", service_class="standard", weight=3)
KEY = Key(id="key_1", tenant="acme", project="p", name="", digest=digest(SECRET), hint="cret", created_ms=1)


@dataclass
class Directory:
    """A `DirectoryReader` that stands still."""

    snapshot: Snapshot


def authn(tenant=ACME, key=KEY):
    return Authn(Directory(Snapshot().apply(Changes(version=1, tenants=(tenant,), keys=(key,)))), lambda: 1000)


def test_a_caller_has_its_tenants_class_and_weight():
    assert authn().identify(BEARER) == Caller("acme", "p", "key_1", ServiceClass.STANDARD, 3)


@pytest.mark.parametrize(
    ("key_class", "tenant_class", "effective"),
    [
        (None, "interactive", ServiceClass.INTERACTIVE),
        (None, "batch", ServiceClass.BATCH),
        ("batch", "interactive", ServiceClass.BATCH),
        ("standard", "standard", ServiceClass.STANDARD),
        ("interactive", "standard", ServiceClass.STANDARD),
        ("standard", "batch", ServiceClass.BATCH),
    ],
)
def test_a_caller_is_never_more_urgent_than_its_key_nor_than_its_tenant(key_class, tenant_class, effective):
    """A tenant's class may have been lowered after its keys were made."""
    caller = authn(replace(ACME, service_class=tenant_class), replace(KEY, service_class=key_class)).identify(BEARER)
    assert caller.service_class is effective


@pytest.mark.parametrize(
    ("tenant", "key", "headers"),
    [
        (ACME, KEY, {}),
        (ACME, KEY, {b"authorization": b"Basic x"}),
        (ACME, KEY, {b"authorization": b"Bearer sk-sluice-another"}),
        (ACME, replace(KEY, is_revoked=True), BEARER),
        (ACME, replace(KEY, expires_ms=1000), BEARER),
        (replace(ACME, is_suspended=True), KEY, BEARER),
        (replace(ACME, id="other"), KEY, BEARER),
    ],
)
def test_whoever_is_not_known_and_in_good_standing_is_a_401_that_tells_no_secret(tenant, key, headers):
    with pytest.raises(Refused) as caught:
        authn(tenant, key).identify(headers)
    assert caught.value.outcome is Outcome.UNAUTHENTICATED
    assert SECRET not in caught.value.message
