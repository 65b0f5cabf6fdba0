"""The agent's requests to its engine. An engine that cannot be reached or answers badly raises EngineSilent."""

from dataclasses import dataclass
from typing import Any

import httpx

from workers.engines.vllm import EngineMetrics, scrape

_SLEEP_TIMEOUT_S = 120.0  # hundreds of gigabytes between devices and the host
_ADAPTER_TIMEOUT_S = 120.0  # read from a disk that may be a network's
_QUOTED_CHARACTERS_MAX = 300
_HEALTH_TIMEOUT_S = 5.0  # a server busy with a thousand streams may take a second to get to it
# A first request this long also mends a fault of vLLM 0.32 on CPUs with AMX: its own bfloat16 kernels, which short
# prompts meet first, use tiles without asking the kernel for leave, and die of an illegal instruction. A matrix of some
# twenty rows goes through oneDNN, which asks, for the whole process.
_WARM_UP_PROMPT = "The wheel turns, and what comes out is counted. " * 8
_WARM_UP_TOKENS = 4  # a prefill and some decoding


class EngineSilent(Exception):  # noqa: N818 (what it says is the point)
    """The engine gave no answer, or not the one that was asked for."""


class EngineRefused(Exception):  # noqa: N818
    """The engine did not do what it was told; says why in its words."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A completion that came back, and the tokens it cost."""

    prompt_tokens: int
    completion_tokens: int


class EngineClient:
    """
    Talks to one engine process, the agent's own child.

    Its certificate is for the name that gateways know it by, not for this way to it, so it is not checked here.
    """

    def __init__(self, url: str, api_key: str) -> None:
        headers, limit_s = {"authorization": f"Bearer {api_key}"}, _HEALTH_TIMEOUT_S
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=limit_s, trust_env=False, verify=False)  # noqa: S501

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

    async def load_adapter(self, name: str, folder: str) -> None:
        """Have the LoRA adapter in *folder* answer to *name*. Raises EngineRefused, EngineSilent."""
        await self._tell("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, _ADAPTER_TIMEOUT_S)

    async def unload_adapter(self, name: str) -> None:
        """Take the LoRA adapter *name* off. Raises EngineRefused, EngineSilent."""
        await self._tell("/v1/unload_lora_adapter", {"lora_name": name}, _ADAPTER_TIMEOUT_S)

    async def sleep(self) -> None:
        """Have the engine give its devices' memory back, its weights kept in the host's. Raises as `load_adapter`."""
        await self._tell("/sleep?level=1", {}, _SLEEP_TIMEOUT_S)

    async def wake(self) -> None:
        """Have the engine take its memory again; returns when it serves. Raises as `load_adapter`."""
        await self._tell("/wake_up", {}, _SLEEP_TIMEOUT_S)

    async def _tell(self, path: str, body: dict[str, Any], timeout_s: float) -> None:
        try:
            answer = await self._http.post(path, json=body, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise EngineSilent(_words(error, timeout_s)) from error
        if not answer.is_success:
            raise EngineRefused(f"{answer.status_code}: {_message(answer)}")

    async def _get(self, path: str) -> httpx.Response:
        try:
            return (await self._http.get(path)).raise_for_status()
        except httpx.HTTPError as error:
            raise EngineSilent(f"{path}: {_words(error, _HEALTH_TIMEOUT_S)}") from error


def _message(answer: httpx.Response) -> str:
    """Give what an error answer says, in OpenAI's form or any other, shortened."""
    try:
        said = answer.json()
        text = str(said.get("error", said).get("message", said))
    except (ValueError, AttributeError):
        text = answer.text
    return text[:_QUOTED_CHARACTERS_MAX]


def _words(error: Exception, timeout_s: float) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout_s:.0f} s"
    if isinstance(error, httpx.HTTPError):
        return "the connection broke off"
    return "its answer has no usage"
