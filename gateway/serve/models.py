"""GET /v1/models: what can be asked for."""

import json

from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane

PATH = "/v1/models"


async def serve_models(call: Call, plane: Plane, reply: Reply) -> None:
    """List the declared models to any known caller, in OpenAI's form."""
    plane.authn.identify(call.headers)
    models = plane.directory.snapshot.models.values()
    data = [
        {"id": model.name, "object": "model", "created": model.created_ms // 1000, "owned_by": "sluice"}
        for model in sorted(models, key=lambda model: model.name)
        if not model.is_retired
    ]
    await reply.answer(200, json.dumps({"object": "list", "data": data}).encode())
