"""
The front door: one raw ASGI app that sends each request to its handler and turns what it raises into an answer.

The hot endpoints and the probes are handled here; control and finance are ASGI apps of their own behind their prefixes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from gateway.core.ids import request_id
from gateway.core.outcome import Outcome
from gateway.errors import Refused
from gateway.serve import agents, chat, completions, limits_api, models, places, usage_api
from gateway.serve.agents import Agents
from gateway.serve.health import Health
from gateway.serve.http import Call, ClientGone, Receive, Reply, Scope, Send, run_until_client_leaves
from gateway.serve.jobs import RESULT, Jobs
from gateway.serve.plane import Plane
from gateway.serve.usage_api import UsageApi

log = structlog.get_logger()

Handler = Callable[[Call, Reply], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Edge:
    """The ASGI app of a gateway. *planes* maps a path prefix to the ASGI app behind it."""

    def __init__(
        self,
        plane: Plane,
        jobs: Jobs,
        agents_: Agents,
        usage: UsageApi,
        health: Health,
        planes: Mapping[str, AsgiApp],
        now_ms: Callable[[], int],
        body_bytes_max: int,
    ) -> None:
        self._plane = plane
        self._jobs = jobs
        self._agents = agents_
        self._usage = usage
        self._planes = planes
        self._now_ms = now_ms
        self._body_bytes_max = body_bytes_max
        self._probes = {"/livez": health.livez, "/readyz": health.readyz, "/metrics": health.metrics}
        self._paths: dict[str, dict[str, Any]] = {
            chat.PATH: {"POST": chat.serve_chat},
            completions.PATH: {"POST": completions.serve_completion},
            models.PATH: {"GET": models.serve_models},
            usage_api.PATH: {"GET": usage.serve},
            limits_api.PATH: {"GET": limits_api.serve_limits},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} here")
        path: str = scope["path"]
        if probe := self._probes.get(path):
            await probe(Reply(scope, send))
            return
        for prefix, app in self._planes.items():
            if path.startswith(prefix):
                await app(scope, receive, send)
                return
        await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        now_ms = self._now_ms()
        identity = request_id(now_ms)
        call = Call(scope, receive, id=identity, arrived_ms=now_ms, body_bytes_max=self._body_bytes_max)
        reply = Reply(scope, send)
        reply.headers.append((b"x-request-id", identity.encode()))
        try:
            await run_until_client_leaves(self._handle(call, reply), call.run())
        except Refused as refusal:
            await reply.refuse(refusal)
        except ClientGone:
            return
        except asyncio.CancelledError:  # the server stops, after its drain time
            message = "This gateway is shutting down and could not wait any longer. Retry: another one answers."
            await reply.refuse(Refused(Outcome.DRAINING, message, retry_after_s=1))
        except Exception:  # the edge: logged whole, told without its insides
            log.exception("bug", request_id=identity, path=call.path)
            message = f"Something went wrong here; the operator finds it under the request id {identity}."
            await reply.refuse(Refused(Outcome.BUG, message))

    def _methods(self, path: str) -> dict[str, Any] | None:
        if path.startswith(places.PREFIX):
            methods = self._jobs.methods(path)
            return methods if path.endswith(RESULT) else methods | {"GET": self._serve_ticket}
        if path.startswith(usage_api.PREFIX):
            return {"GET": self._usage.serve_receipt}
        return {"GET": models.serve_model} if path.startswith(models.PREFIX) else self._paths.get(path)

    async def _serve_ticket(self, call: Call, plane: Plane, reply: Reply) -> None:
        """Answer for the request of an id while its client waits, else for the job of that id."""
        if not await places.serve_place(call, plane, reply):
            await self._jobs.serve(call, plane, reply)

    async def _handle(self, call: Call, reply: Reply) -> None:
        if call.path.startswith(agents.PREFIX):
            await self._agents.serve(call, reply)
            return
        methods = self._methods(call.path)
        if methods is None:
            raise Refused(Outcome.NOT_FOUND, f"There is no {call.path} here.")
        handler = methods.get(call.method)
        if handler is None:
            allowed = ", ".join(methods)
            reply.headers.append((b"allow", allowed.encode()))
            raise Refused(Outcome.METHOD_NOT_ALLOWED, f"{call.path} takes {allowed}, not {call.method}.")
        await (self._jobs.submit if self._jobs.wants(call) else handler)(call, self._plane, reply)
