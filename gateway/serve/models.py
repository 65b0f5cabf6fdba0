"""GET /v1/models and /v1/models/{name}: what can be asked for."""

import json
from typing import Any

from gateway.core.directory import Model
from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane

PATH = "/v1/models"
PREFIX = "/v1/models/"  # a name may hold slashes: Qwen/Qwen3-8B


async def serve_models(call: Call, plane: Plane, reply: Reply) -> None:
    """List the declared models to any known caller, in OpenAI's form."""
    plane.authn.identify(call.headers)
    models = sorted(plane.directory.snapshot.models.values(), key=lambda model: model.name)
    data = [_to_json(model) for model in models if not model.is_retired]
    await reply.answer(200, json.dumps({"object": "list", "data": data}).encode())


async def serve_model(call: Call, plane: Plane, reply: Reply) -> None:
    """Show one declared model to any known caller; raises Refused(UNKNOWN_MODEL)."""
    plane.authn.identify(call.headers)
    await reply.answer(200, json.dumps(_to_json(plane.model(call.path.removeprefix(PREFIX)))).encode())


def _to_json(model: Model) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created_ms // 1000, "owned_by": "sluice"}
