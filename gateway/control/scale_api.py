"""/admin/v1/scale: how many workers each pool should have, and why; for people, and for whoever scales pools."""

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query

SCALER_CHARS_MAX = 64


class ScaleDecisions(Protocol):
    """Where decisions come from."""

    async def follow(self, after: str | None, wait_s: float, scaler: str | None) -> dict[str, Any]:
        """Give all decisions as JSON: at once, or when they are no longer those of version *after*."""


def scale_router(decisions: ScaleDecisions) -> APIRouter:
    """
    Make the route. With `after=VERSION&wait_s=N` it answers when a decision changes, or after N seconds.

    `scaler=NAME` says that the caller starts and stops workers by the answer: waiting clients are then told when a
    worker that was asked for is expected.
    """
    router = APIRouter(prefix="/scale")

    @router.get("")
    async def show_scale(
        after: Annotated[str | None, Query(max_length=SCALER_CHARS_MAX)] = None,
        wait_s: Annotated[float, Query(ge=0, le=60)] = 0.0,
        scaler: Annotated[str | None, Query(max_length=SCALER_CHARS_MAX)] = None,
    ) -> dict[str, Any]:
        return await decisions.follow(after, wait_s, scaler)

    return router
