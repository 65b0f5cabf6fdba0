"""
A gateway that runs already, as a drill's target: found, checked, and left as it was.

It is a target only while every worker it knows is a simulated engine, by the workers' own word: a drill must not be
able to burden people's engines by mistake, so there is no option that overrides this.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from gateway.commands.drill.crowd import Door
from gateway.commands.local.children import Say
from gateway.core.directory import ServiceClass
from gateway.errors import InvalidInput

POLL_S = 0.05
KEYS_KNOWN_S_MAX = 5.0  # gateways follow the Directory within a second
_TIMEOUT_S = 5.0
_SIMULATED = "sim"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a target is: its gateways, what opens its admin plane, and one key to use instead of a drill's own."""

    urls: tuple[str, ...]
    admin_token: str
    key: str | None
    model: str | None


@asynccontextmanager
async def opened(address: Address, tenants: int, say: Say) -> AsyncIterator[Door]:
    """
    Check the target and give the way in; tenants made for the drill are suspended and their keys revoked at the end.

    Raises InvalidInput in one sentence if it is no drill target, or cannot be asked whether it is.
    """
    async with httpx.AsyncClient(
        timeout=_TIMEOUT_S, trust_env=False, headers={"authorization": f"Bearer {address.admin_token}"}
    ) as http:
        admin = _Admin(http, address.urls[0])
        workers = [worker for url in address.urls for worker in await _Admin(http, url).workers()]
        check_is_simulated(workers, address.urls[0])
        model = address.model or _model_of(workers)
        if address.key is not None:
            yield Door(urls=address.urls, model=model, keys=(address.key,))
            return
        async with admin.tenants(f"drill-{secrets.token_hex(3)}", tenants, say) as keys:
            await _wait_until_known(http, address.urls, keys[-1])
            yield Door(urls=address.urls, model=model, keys=keys)


def check_is_simulated(workers: Sequence[dict[str, Any]], url: str) -> None:
    """Raise InvalidInput unless there are workers and each is a simulated engine."""
    real = sorted(
        {f"{worker['worker']} runs {worker.get('engine', 'vllm')}" for worker in workers if not _is_sim(worker)}
    )
    if real:
        raise InvalidInput(
            f"The gateway at {url} is no drill target: {real[0]}, not a simulated engine"
            f"{f' (and {len(real) - 1} more)' if len(real) > 1 else ''}. Drill with --self-contained, or against a "
            "gateway whose workers are all `sluice worker --engine sim`."
        )
    if not any(worker["state"] == "ready" for worker in workers):
        raise InvalidInput(
            f"The gateway at {url} has no ready worker, so nothing says that it is a drill target. Start one with "
            "`sluice worker --engine sim`, or drill with --self-contained."
        )


def _is_sim(worker: dict[str, Any]) -> bool:
    return worker.get("engine") == _SIMULATED


def _model_of(workers: Sequence[dict[str, Any]]) -> str:
    models = sorted({model for worker in workers for model in worker["models"]})
    if len(models) != 1:
        raise InvalidInput(f"The workers serve {', '.join(models)}. Choose one with --model.")
    return str(models[0])


class _Admin:
    """The admin plane of one gateway. Raises InvalidInput, in one sentence, for whatever it does not answer."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def workers(self) -> list[dict[str, Any]]:
        return list((await self._ask("GET", "workers"))["data"])

    @asynccontextmanager
    async def tenants(self, name: str, count: int, say: Say) -> AsyncIterator[tuple[str, ...]]:
        """Have *count* tenants with a key each while the block runs; gives the keys."""
        made: dict[str, dict[str, Any]] = {}
        try:
            for tenant in (f"{name}-{number}" for number in range(1, count + 1)):
                await self._ask("POST", "tenants", {"name": tenant, "service_class": ServiceClass.INTERACTIVE.label})
                made[tenant] = await self._ask("POST", "keys", {"tenant": tenant, "name": "sluice drill"})
            yield tuple(key["key"] for key in made.values())
        finally:
            try:
                for tenant, key in made.items():
                    await self._ask("POST", f"keys/{key['id']}/revoke")
                    await self._ask("POST", f"tenants/{tenant}/suspend")
            except InvalidInput as error:  # the figures are worth more than tidiness
                say(f"Tenants named {name}-… may be left, with keys that work: {error}")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, f"{self._url}/admin/v1/{path}", json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise InvalidInput(f"The gateway at {self._url} cannot be reached: {reason}. Check --url.") from error
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise InvalidInput(
                f"The gateway at {self._url} does not say which engines its workers run: it refuses the admin token. "
                "Set SLUICE_ADMIN_TOKEN to the gateway's own, or name its home with --home."
            )
        if not answer.is_success:
            raise InvalidInput(f"The gateway at {self._url} answered {answer.status_code} to {method} {path}.")
        return dict(answer.json())


async def _wait_until_known(http: httpx.AsyncClient, urls: Sequence[str], key: str) -> None:
    """Return once every gateway knows the newest key, and so all of them."""
    bearer = {"authorization": f"Bearer {key}"}
    until_s = time.monotonic() + KEYS_KNOWN_S_MAX
    for url in urls:
        while not (await http.get(f"{url}/v1/models", headers=bearer)).is_success:
            if time.monotonic() > until_s:
                raise InvalidInput(
                    f"The gateway at {url} does not know the drill's keys after {KEYS_KNOWN_S_MAX:g} s. Do all --url "
                    "share one database?"
                )
            await asyncio.sleep(POLL_S)
