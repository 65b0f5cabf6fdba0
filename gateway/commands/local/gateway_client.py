"""The gateway of an installation as its own tools see it, over HTTP like everybody else."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from gateway.commands.local.home import load_credentials, load_place, reachable
from gateway.errors import StartFailed
from gateway.settings import Settings

TIMEOUT_S = 5.0
FIRST_ANSWER_S_MAX = 120.0


class GatewayClient:
    """Asks the gateway at *url*. Every question raises httpx.HTTPError if there is no answer or a refusal."""

    def __init__(self, url: str, admin_token: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False)
        self._bearer = {"Authorization": f"Bearer {admin_token}"}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def is_live(self) -> bool:
        """Tell whether the gateway answers at all."""
        try:
            return (await self._http.get("/livez")).is_success
        except httpx.HTTPError:
            return False

    async def readiness(self) -> dict[str, Any]:
        """Give what /readyz says; that is an answer also when it is 503."""
        return dict((await self._http.get("/readyz")).json())

    async def workers(self) -> list[dict[str, Any]]:
        """List the workers that beat."""
        answer = await self._http.get("/admin/v1/workers", headers=self._bearer)
        return list(answer.raise_for_status().json()["data"])

    async def scale(self) -> dict[str, Any]:
        """Give the decisions on how many workers pools should have."""
        answer = await self._http.get("/admin/v1/scale", headers=self._bearer)
        return dict(answer.raise_for_status().json())

    async def chat(self, body: Mapping[str, Any], key: str, answer_s_max: float = FIRST_ANSWER_S_MAX) -> dict[str, Any]:
        """Send one chat completion as a client would. Raises StartFailed with what the gateway says."""
        headers = {"Authorization": f"Bearer {key}"}
        answer = await self._http.post("/v1/chat/completions", json=body, headers=headers, timeout=answer_s_max)
        if not answer.is_success:
            raise StartFailed(f"The first request was answered with {answer.status_code}: {answer.text}")
        return dict(answer.json())


def find_gateway(settings: Settings) -> tuple[str, str]:
    """Find the gateway: where `sluice up` left it, else where the settings say; and the token that opens it."""
    place, credentials = load_place(settings.home), load_credentials(settings.home)
    url = place.url if place else f"http://{reachable(settings.host)}:{settings.port}"
    if settings.admin_token:
        return url, settings.admin_token.get_secret_value()
    return url, credentials.admin_token if credentials else ""
