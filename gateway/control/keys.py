"""API keys. Verbs over the Directory; the secret leaves `create_key` once and is kept nowhere."""

from dataclasses import asdict, replace
from typing import Any

from gateway.control.names import check_name
from gateway.control.order import check_key_class
from gateway.core.directory import Key
from gateway.core.ids import digest, new_secret, time_sorted_id
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.directory import DirectoryStore

PROJECT = "default"
HINT_CHARS = 4


def create_key(
    store: DirectoryStore,
    tenant: str,
    *,
    now_ms: int,
    project: str = PROJECT,
    name: str = "",
    expires_ms: int | None = None,
    service_class: str | None = None,
) -> tuple[Key, str]:
    """
    Create a key; gives it and its secret. Within a second all gateways know it. Without a class it has its tenant's.

    Raises NotFoundError for an unknown tenant, InvalidInput for an expiry that is past, a name that cannot be, or a
    class that is unknown or more urgent than the tenant's.
    """
    if expires_ms is not None and expires_ms <= now_ms:
        raise InvalidInput("The key would expire in the past. Choose a later time, or none.")
    check_name("A key's project", project)
    check_name("A key's name", name or PROJECT)
    if service_class is not None:
        _check_class(store, tenant, service_class)
    secret = new_secret()
    key = Key(
        id=time_sorted_id("key", now_ms),
        tenant=tenant,
        project=project,
        name=name,
        digest=digest(secret),
        hint=secret[-HINT_CHARS:],
        created_ms=now_ms,
        expires_ms=expires_ms,
        service_class=service_class,
    )
    store.put_key(key)
    return key, secret


def revoke_key(store: DirectoryStore, key_id: str) -> Key:
    """Refuse the key for good; within a second on all gateways. Idempotent. Raises NotFoundError."""
    key = store.key(key_id)
    if key is None:
        raise NotFoundError(f"There is no key {key_id!r}. See `sluice keys list`; a key's id starts with key_.")
    revoked = replace(key, is_revoked=True)
    if revoked != key:
        store.put_key(revoked)
    return revoked


def _check_class(store: DirectoryStore, tenant: str, service_class: str) -> None:
    """Check it against the tenant's, if there is one; `put_key` is who refuses a key without."""
    payer = store.tenant(tenant)
    if payer is not None:
        check_key_class(service_class, payer)


def to_json(key: Key) -> dict[str, Any]:
    """Give what may be shown of a key, as plain data with stable field names."""
    return {name: value for name, value in asdict(key).items() if name != "digest"}
