"""The agent's requests to its engine. An engine that cannot be reached or answers badly raises EngineSilent."""

from dataclasses import dataclass
from typing import Any

import httpx

from workers.engines.vllm import EngineMetrics, scrape

_HEALTH_TIMEOUT_S = 5.0  # a server busy with a thousand streams may take a second to get to it
# A first request this long also mends a fault of vLLM 0.32 on CPUs with AMX: its own bfloat16 kernels, which short
# prompts meet first, use tiles without asking the kernel for leave, and die of an illegal instruction. A matrix of some
# twenty rows goes through oneDNN, which asks, for the whole process.
_WARM_UP_PROMPT = "The wheel turns, and what comes out is counted. " * 8
_WARM_UP_TOKENS = 4  # a prefill and some decoding


class EngineSilent(Exception):  # noqa: N818 (what it says is the point)
    """The engine gave no answer, or not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A completion that came back, and the tokens it cost."""

    prompt_tokens: int
    completion_tokens: int


class EngineClient:
    """Talks to one engine process."""

    def __init__(self, url: str, api_key: str) -> None:
        headers = {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=_HEALTH_TIMEOUT_S, trust_env=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        """Ask /health."""
        try:
            return (await self._http.get("/health")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def metrics(self) -> EngineMetrics:
        """Read /metrics."""
        return scrape((await self._get("/metrics")).text)

    async def max_model_len(self) -> int:
        """Read the context length from /v1/models."""
        models = (await self._get("/v1/models")).json()["data"]
        return int(models[0].get("max_model_len") or 0)

    async def complete(self, model: str, timeout_s: float) -> Probe:
        """Have a real, short completion made: the only proof that the engine can."""
        wanted = {"max_tokens": _WARM_UP_TOKENS, "temperature": 0, "ignore_eos": True}
        body = {"model": model, "prompt": _WARM_UP_PROMPT, **wanted}
        try:
            answer = await self._http.post("/v1/completions", json=body, timeout=timeout_s)
            answer.raise_for_status()
            usage: dict[str, Any] = answer.json()["usage"]
            return Probe(usage["prompt_tokens"], usage["completion_tokens"])
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise EngineSilent(_words(error, timeout_s)) from error

    async def _get(self, path: str) -> httpx.Response:
        try:
            return (await self._http.get(path)).raise_for_status()
        except httpx.HTTPError as error:
            raise EngineSilent(f"{path}: {_words(error, _HEALTH_TIMEOUT_S)}") from error


def _words(error: Exception, timeout_s: float) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout_s:.0f} s"
    if isinstance(error, httpx.HTTPError):
        return "the connection broke off"
    return "its answer has no usage"
