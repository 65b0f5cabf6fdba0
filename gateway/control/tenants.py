"""Tenants: who pays. Verbs over the Directory."""

import re
import unicodedata
from typing import Any

from gateway.control.names import check_name
from gateway.control.order import check_weight, parse_class
from gateway.core.directory import ServiceClass, Tenant
from gateway.errors import InvalidInput
from gateway.ports.directory import DirectoryStore

ID_FORM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, so that ids fit anywhere


def create_tenant(
    store: DirectoryStore,
    name: str,
    service_class: str = ServiceClass.STANDARD.label,
    tenant_id: str | None = None,
    weight: int = 1,
) -> Tenant:
    """
    Create a tenant; its id is made from *name* unless given, "Acme GmbH" becomes acme-gmbh.

    Raises AlreadyExists for a taken id, InvalidInput for a name, class or weight that cannot be.
    """
    parse_class(service_class)
    check_weight(weight)
    check_name("A tenant's name", name)
    identity = tenant_id if tenant_id is not None else _slug(name)
    if not ID_FORM.fullmatch(identity):
        form = "1 to 63 of a-z, 0-9 and -, such as acme-gmbh"
        raise InvalidInput(f"{identity!r} cannot be the id of tenant {name!r}. Give one yourself: {form}.")
    tenant = Tenant(id=identity, name=name.strip(), service_class=service_class, weight=weight)
    store.put_tenant(tenant, must_be_new=True)
    return tenant


def set_tenant(
    store: DirectoryStore,
    tenant_id: str,
    *,
    name: str | None = None,
    service_class: str | None = None,
    weight: int | None = None,
    is_suspended: bool | None = None,
) -> Tenant:
    """
    Change what is given of a tenant, leave the rest. Idempotent; within a second on all gateways.

    A key of a class more urgent than the tenant's new one keeps it, and is held to the tenant's. Raises NotFoundError,
    InvalidInput for a name, class or weight that cannot be.
    """
    if name is not None:
        check_name("A tenant's name", name)
        name = name.strip()
    if service_class is not None:
        parse_class(service_class)
    if weight is not None:
        check_weight(weight)
    wanted = {"name": name, "service_class": service_class, "weight": weight, "is_suspended": is_suspended}
    values: dict[str, Any] = {field: value for field, value in wanted.items() if value is not None}
    return store.change_tenant(tenant_id, **values)


def suspend_tenant(store: DirectoryStore, tenant_id: str) -> Tenant:
    """Refuse the tenant's keys until it is resumed. Idempotent. Raises NotFoundError."""
    return store.change_tenant(tenant_id, is_suspended=True)


def resume_tenant(store: DirectoryStore, tenant_id: str) -> Tenant:
    """Accept the tenant's keys again. Idempotent. Raises NotFoundError."""
    return store.change_tenant(tenant_id, is_suspended=False)


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-")
