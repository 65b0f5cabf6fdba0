"""Whom a limit or a budget binds, as people say it: a tenant, one of its projects, a key, or a model for everybody."""

import hashlib
import json
from dataclasses import dataclass

from gateway.core.binding import project_subject
from gateway.core.directory import Snapshot
from gateway.core.limits import Scope
from gateway.core.liveness import key_works
from gateway.errors import InvalidInput, NotFoundError
from gateway.ports.directory import DirectoryStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Whom it binds; what is empty was not named."""

    tenant: str = ""
    project: str = ""
    key: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The same as limits and budgets have it."""

    scope: str
    subject: str
    tenant: str
    model: str


def find_subject(store: DirectoryStore, who: Who, now_ms: int) -> Subject:
    """
    Make sure that all of *who* exists.

    Raises NotFoundError for a tenant, project, key or model that does not, InvalidInput for words that do not agree.
    """
    if who.model:
        _check_model(store, who.model)
    if who.key:
        return _of_key(store, who, now_ms)
    if who.tenant:
        return _of_tenant(store, who, now_ms)
    if who.project:
        raise InvalidInput(f"project {who.project!r} needs its tenant: projects are named in a tenant. Give it too.")
    if who.model:
        return Subject(scope=Scope.MODEL.value, subject=who.model, tenant="", model="")
    raise InvalidInput("It binds nobody. Name a tenant, a tenant and its project, a key, or a model.")


def rule_id(prefix: str, *parts: str) -> str:
    """Make the id of a limit or budget from what it is about: declaring it again changes it."""
    return f"{prefix}_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def read_directory(store: DirectoryStore) -> Snapshot:
    """Read all of the Directory."""
    changes = store.changes_since(-1)
    return Snapshot().apply(changes) if changes else Snapshot()


def _of_key(store: DirectoryStore, who: Who, now_ms: int) -> Subject:
    key = store.key(who.key)
    if key is None:
        raise NotFoundError(f"There is no key {who.key!r}. See `sluice keys list`; a key's id starts with key_.")
    if not key_works(key, now_ms):
        raise InvalidInput(f"key {key.id!r} is revoked or expired: nothing would be bound. Name one that works.")
    if who.tenant not in ("", key.tenant):
        raise InvalidInput(f"key {key.id!r} is of tenant {key.tenant!r}, not of {who.tenant!r}. Leave the tenant out.")
    if who.project not in ("", key.project):
        raise InvalidInput(f"key {key.id!r} is of project {key.project!r}, not {who.project!r}. Leave the project out.")
    return Subject(scope=Scope.KEY.value, subject=key.id, tenant=key.tenant, model=who.model)


def _of_tenant(store: DirectoryStore, who: Who, now_ms: int) -> Subject:
    if store.tenant(who.tenant) is None:
        raise NotFoundError(f"There is no tenant {who.tenant!r}. See `sluice tenants list`.")
    if not who.project:
        return Subject(scope=Scope.TENANT.value, subject=who.tenant, tenant=who.tenant, model=who.model)
    if not any(key.project == who.project and key_works(key, now_ms) for key in store.keys(who.tenant)):
        advice = f"See `sluice keys list --tenant {who.tenant}`, or make one first."
        raise NotFoundError(f"No key of tenant {who.tenant!r} is of project {who.project!r}. {advice}")
    subject = project_subject(who.tenant, who.project)
    return Subject(scope=Scope.PROJECT.value, subject=subject, tenant=who.tenant, model=who.model)


def _check_model(store: DirectoryStore, name: str) -> None:
    model = store.model(name)
    if model is None or model.is_retired:
        state = "retired" if model else "not declared"
        raise NotFoundError(f"The model {name!r} is {state}. See `sluice models list`, or declare it first.")
