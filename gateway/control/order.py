"""What may be declared about order: classes, and a tenant's weight."""

from gateway.core.directory import SERVICE_CLASSES, WEIGHT_MAX, ServiceClass, Tenant
from gateway.errors import InvalidInput


def parse_class(label: str) -> ServiceClass:
    """Find the class of that *label*. Raises InvalidInput."""
    known = SERVICE_CLASSES.get(label)
    if known is None:
        raise InvalidInput(f"There is no service class {label!r}. Choose one of {', '.join(SERVICE_CLASSES)}.")
    return known


def check_weight(weight: int) -> None:
    """Raise InvalidInput unless *weight* is one that a tenant may have."""
    if not 1 <= weight <= WEIGHT_MAX:
        raise InvalidInput(f"A tenant's weight is 1 to {WEIGHT_MAX}, not {weight}. Most tenants have 1.")


def check_key_class(label: str, tenant: Tenant) -> None:
    """Raise InvalidInput if there is no such class, or if it is more urgent than that of the key's *tenant*."""
    if parse_class(label) < parse_class(tenant.service_class):
        fix = f"Raise the tenant's first: `sluice tenants set {tenant.id} --class {label}`."
        bound = f"the class of its tenant {tenant.id!r}, {tenant.service_class!r}"
        raise InvalidInput(f"A key of class {label!r} would be more urgent than {bound}. {fix}")
