"""/admin/v1/requests/{id}/route: why a request went to the worker that it went to."""

from typing import Any, Protocol

from fastapi import APIRouter

from gateway.errors import NotFoundError


class RoutesKept(Protocol):
    """Where routes are kept."""

    def find(self, name: str) -> dict[str, Any] | None:
        """Give the route of a request as JSON; None if it is not known here."""


def routes_router(kept: RoutesKept) -> APIRouter:
    """Make the route. A gateway knows the last requests that it placed itself, and no other's."""
    router = APIRouter(prefix="/requests")

    @router.get("/{request_id}/route")
    async def show_route(request_id: str) -> dict[str, Any]:
        found = kept.find(request_id)
        if found is None:
            raise NotFoundError(
                f"This gateway has no route of the request {request_id!r}. Each keeps those of the last 1,000 requests "
                "that it placed itself: ask the gateway that the request's event names."
            )
        return found

    return router
