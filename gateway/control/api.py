"""/admin/v1: what operators do over HTTP, behind the admin token. Endpoints are plain functions: stores block."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gateway.control import keys, models, tenants
from gateway.control.money_api import MoneyDesk, money_routers
from gateway.control.names import NAME_CHARS_MAX
from gateway.control.prices_api import prices_router
from gateway.control.routes_api import RoutesKept, routes_router
from gateway.control.scale_api import ScaleDecisions, scale_router
from gateway.control.workers import workers_router
from gateway.core.directory import ServiceClass
from gateway.planes import plane_app
from gateway.ports.directory import DirectoryStore
from gateway.ports.roster import Roster

PREFIX = "/admin/v1"
_Name = Annotated[str, Field(max_length=NAME_CHARS_MAX)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewTenant(_Body):
    """The body of POST /admin/v1/tenants."""

    name: _Name
    id: _Name | None = None
    service_class: str = ServiceClass.STANDARD.label
    weight: int = 1


class TenantChange(_Body):
    """The body of PATCH /admin/v1/tenants/{id}; what is absent or null stays as it is."""

    name: _Name | None = None
    service_class: str | None = None
    weight: int | None = None
    is_suspended: bool | None = None


class NewKey(_Body):
    """The body of POST /admin/v1/keys; *expires_ms* is Unix time in milliseconds."""

    tenant: _Name
    project: _Name = keys.PROJECT
    name: _Name = ""
    expires_ms: int | None = None
    service_class: str | None = None


class NewModel(_Body):
    """The body of POST /admin/v1/models; the pool is called like the model unless told otherwise."""

    name: _Name
    pool: _Name | None = None


def control_app(
    directory: DirectoryStore,
    roster: Roster,
    admin_token: SecretStr | None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    zone: str = "UTC",
    money: MoneyDesk | None = None,
    scale: ScaleDecisions | None = None,
    routes: RoutesKept | None = None,
) -> FastAPI:
    """
    Make the app of the control plane; dates are those of *zone* unless a request names another.

    Without a desk for *money* there are no paths for limits, budgets, balances and holds; without *scale* and *routes*
    none for these.
    """
    app = plane_app("Sluice control", admin_token, "SLUICE_ADMIN_TOKEN")
    for router in (
        *(money_routers(money) if money else ()),
        *((scale_router(scale),) if scale else ()),
        *((routes_router(routes),) if routes else ()),
        _tenants(directory),
        _keys(directory, now_ms),
        _models(directory, now_ms),
        prices_router(directory, money.ledger if money else None, now_ms, zone),
        workers_router(roster, now_ms),
    ):
        app.include_router(router, prefix=PREFIX)
    return app


def _tenants(directory: DirectoryStore) -> APIRouter:
    router = APIRouter(prefix="/tenants")

    @router.get("")
    def list_tenants() -> dict[str, Any]:
        return _listed(map(asdict, directory.tenants()))

    @router.post("", status_code=201)
    def create_tenant(body: NewTenant) -> dict[str, Any]:
        return asdict(tenants.create_tenant(directory, body.name, body.service_class, body.id, body.weight))

    @router.patch("/{tenant_id}")
    def set_tenant(tenant_id: str, body: TenantChange) -> dict[str, Any]:
        return asdict(tenants.set_tenant(directory, tenant_id, **dict(body)))

    @router.post("/{tenant_id}/suspend")
    def suspend_tenant(tenant_id: str) -> dict[str, Any]:
        return asdict(tenants.suspend_tenant(directory, tenant_id))

    @router.post("/{tenant_id}/resume")
    def resume_tenant(tenant_id: str) -> dict[str, Any]:
        return asdict(tenants.resume_tenant(directory, tenant_id))

    return router


def _keys(directory: DirectoryStore, now_ms: Callable[[], int]) -> APIRouter:
    router = APIRouter(prefix="/keys")

    @router.get("")
    def list_keys(tenant: Annotated[str | None, Query()] = None) -> dict[str, Any]:
        return _listed(map(keys.to_json, directory.keys(tenant)))

    @router.post("", status_code=201)
    def create_key(body: NewKey) -> dict[str, Any]:
        key, secret = keys.create_key(directory, now_ms=now_ms(), **dict(body))
        return {"key": secret, **keys.to_json(key)}

    @router.post("/{key_id}/revoke")
    @router.delete("/{key_id}")
    def revoke_key(key_id: str) -> dict[str, Any]:
        return keys.to_json(keys.revoke_key(directory, key_id))

    return router


def _models(directory: DirectoryStore, now_ms: Callable[[], int]) -> APIRouter:
    router = APIRouter(prefix="/models")

    @router.get("")
    def list_models() -> dict[str, Any]:
        return _listed(map(asdict, directory.models()))

    @router.post("", status_code=201)
    def declare_model(body: NewModel) -> dict[str, Any]:
        return asdict(models.declare_model(directory, body.name, body.pool or body.name, now_ms=now_ms()))

    @router.post("/{name:path}/retire")
    @router.delete("/{name:path}")
    def retire_model(name: str) -> dict[str, Any]:
        return asdict(models.retire_model(directory, name))

    return router


def _listed(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": list(rows)}
