"""/livez, /readyz and /metrics: answered from memory, on the spot, whatever else the gateway is doing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.serve.http import Reply
from gateway.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Component:
    """How one part is doing. A gateway goes on serving without the parts that are not *is_vital*."""

    is_ok: bool
    is_vital: bool
    detail: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Give what /readyz shows."""
        return {"ok": self.is_ok, "vital": self.is_vital, **self.detail}


class Health:
    """Answers probes. *components* is asked anew each time and must not block."""

    def __init__(self, components: Callable[[], dict[str, Component]], metrics: Metrics) -> None:
        self._components = components
        self._metrics = metrics

    async def livez(self, reply: Reply) -> None:
        """The process answers: that is all a liveness probe may ask."""
        await reply.answer(200, b'{"live": true}')

    async def readyz(self, reply: Reply) -> None:
        """Say 200 if requests are served, 503 if not; and in either case how each part is doing."""
        parts = self._components()
        is_ready = all(part.is_ok for part in parts.values() if part.is_vital)
        degraded = sorted(name for name, part in parts.items() if not part.is_ok)
        components = {name: part.to_json() for name, part in parts.items()}
        body = {"ready": is_ready, "degraded": degraded, "components": components}
        await reply.answer(200 if is_ready else 503, json.dumps(body).encode())

    async def metrics(self, reply: Reply) -> None:
        """Render the metrics for Prometheus."""
        await reply.answer(200, self._metrics.render(), b"text/plain; version=0.0.4; charset=utf-8")
