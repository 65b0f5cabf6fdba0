"""Tenants: who pays. Verbs over the Directory."""

import re
import unicodedata
from dataclasses import replace

from gateway.control.names import check_name
from gateway.core.directory import ServiceClass, Tenant
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.directory import DirectoryStore

ID_FORM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, so that ids fit anywhere


def create_tenant(
    store: DirectoryStore, name: str, service_class: str = ServiceClass.STANDARD.label, tenant_id: str | None = None
) -> Tenant:
    """
    Create a tenant; its id is made from *name* unless given, "Acme GmbH" becomes acme-gmbh.

    Raises AlreadyExists for a taken id, InvalidInput for a name or class that cannot be.
    """
    classes = [known.label for known in ServiceClass]
    if service_class not in classes:
        raise InvalidInput(f"There is no service class {service_class!r}. Choose one of {', '.join(classes)}.")
    check_name("A tenant's name", name)
    identity = tenant_id if tenant_id is not None else _slug(name)
    if not ID_FORM.fullmatch(identity):
        form = "1 to 63 of a-z, 0-9 and -, such as acme-gmbh"
        raise InvalidInput(f"{identity!r} cannot be the id of tenant {name!r}. Give one yourself: {form}.")
    tenant = Tenant(id=identity, name=name.strip(), service_class=service_class)
    store.put_tenant(tenant, must_be_new=True)
    return tenant


def suspend_tenant(store: DirectoryStore, tenant_id: str) -> Tenant:
    """Refuse the tenant's keys until it is resumed. Idempotent. Raises NotFoundError."""
    return _set_suspended(store, tenant_id, is_suspended=True)


def resume_tenant(store: DirectoryStore, tenant_id: str) -> Tenant:
    """Accept the tenant's keys again. Idempotent. Raises NotFoundError."""
    return _set_suspended(store, tenant_id, is_suspended=False)


def _set_suspended(store: DirectoryStore, tenant_id: str, *, is_suspended: bool) -> Tenant:
    tenant = store.tenant(tenant_id)
    if tenant is None:
        raise NotFoundError(f"There is no tenant {tenant_id!r}. See `sluice tenants list`.")
    changed = replace(tenant, is_suspended=is_suspended)
    if changed != tenant:
        store.put_tenant(changed)
    return changed


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
