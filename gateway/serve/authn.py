"""Who is calling: from a bearer key to a tenant, out of the snapshot in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.directory import SERVICE_CLASSES, Key, ServiceClass, Tenant
from gateway.core.ids import KEY_PREFIX, digest
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.ports.directory import DirectoryReader


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who pays for a request, by which key, how urgent its requests are and what its tenant's share weighs.

    *service_class* is the most urgent that it may ask for: the key's, never above its tenant's.
    """

    tenant: str
    project: str
    key: str
    service_class: ServiceClass
    weight: int


class Authn:
    """Identifies callers. The secret itself is hashed at once and goes nowhere else."""

    def __init__(self, directory: DirectoryReader, now_ms: Callable[[], int]) -> None:
        self._directory = directory
        self._now_ms = now_ms

    def identify(self, headers: dict[bytes, bytes]) -> Caller:
        """Find the caller by `Authorization: Bearer`; raise Refused(UNAUTHENTICATED)."""
        secret = bearer(headers)
        if not secret:
            message = f"No API key was given. Send it as `Authorization: Bearer {KEY_PREFIX}…`."
            raise Refused(Outcome.UNAUTHENTICATED, message)
        snapshot = self._directory.snapshot
        key = snapshot.keys.get(digest(secret))
        if key is None:
            raise Refused(Outcome.UNAUTHENTICATED, f"The API key {_hint(secret)} is not known here.")
        return self._admit(key, snapshot.tenants.get(key.tenant))

    def _admit(self, key: Key, tenant: Tenant | None) -> Caller:
        if key.is_revoked:
            raise Refused(Outcome.UNAUTHENTICATED, f"The API key {key.id} has been revoked.")
        if key.expires_ms is not None and key.expires_ms <= self._now_ms():
            raise Refused(Outcome.UNAUTHENTICATED, f"The API key {key.id} has expired.")
        if tenant is None or tenant.is_suspended:
            raise Refused(Outcome.UNAUTHENTICATED, f"The tenant {key.tenant!r} of this API key is suspended.")
        return Caller(tenant.id, key.project, key.id, _service_class(key, tenant), tenant.weight)


def bearer(headers: dict[bytes, bytes]) -> str:
    """Give the bearer token among *headers*, or ''."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _service_class(key: Key, tenant: Tenant) -> ServiceClass:
    """Give the less urgent of the two: a tenant's class may have been lowered since the key was made."""
    bound = SERVICE_CLASSES[tenant.service_class]
    return max(bound, SERVICE_CLASSES[key.service_class]) if key.service_class else bound


def _hint(secret: str) -> str:
    """Show just enough of a wrong key to recognise it: nothing of one that could be some other service's."""
    return f"{KEY_PREFIX}…{secret[-4:]}" if secret.startswith(KEY_PREFIX) else "that was sent"
