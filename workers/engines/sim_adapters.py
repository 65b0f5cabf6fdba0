"""LoRA adapters of the simulated engine: names that come and go, with vLLM's answers. They change no token."""

import json
from collections.abc import Callable

from workers.engines.sim_api import RequestRefused
from workers.engines.sim_http import Exchange


class SimAdapters:
    """
    Answers POST /v1/load_lora_adapter and /v1/unload_lora_adapter; *on_change* is told all names there are.

    A path with "missing" in it cannot be found, so that tests have one.
    """

    def __init__(self, on_change: Callable[[tuple[str, ...]], None]) -> None:
        self._paths: dict[str, str] = {}
        self._on_change = on_change

    def load(self, exchange: Exchange) -> None:
        """Take an adapter in. Raises RequestRefused."""
        asked = json.loads(exchange.request.body)
        name, path = asked["lora_name"], asked["lora_path"]
        if "missing" in path:
            message = f"Loading lora {name} failed: No adapter found for <path>"
            raise RequestRefused(404, message, "NotFoundError", None)
        if name in self._paths:
            message = f"The lora adapter '{name}' has already been loaded."
            raise RequestRefused(400, message, "InvalidUserInput", None)
        self._paths[name] = path
        self._on_change(tuple(self._paths))
        exchange.reply(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "text/plain")

    def unload(self, exchange: Exchange) -> None:
        """Take an adapter off. Raises RequestRefused."""
        name = json.loads(exchange.request.body)["lora_name"]
        if self._paths.pop(name, None) is None:
            raise RequestRefused(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError", None)
        self._on_change(tuple(self._paths))
        exchange.reply(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "text/plain")
