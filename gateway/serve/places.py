"""GET /v1/queue/{id} for a request whose client waits: where it stands, by its id or by its caller's name for it."""

import json

from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane
from gateway.serve.waiting import shown

PREFIX = "/v1/queue/"


async def serve_place(call: Call, plane: Plane, reply: Reply) -> bool:
    """
    Answer with the ticket of a request that waits or runs, at any gateway; tell whether there is one of the caller's.

    It costs nothing and leaves no meter event, like the list of models.
    """
    tenant = plane.authn.identify(call.headers).tenant
    pools = {pool for model in plane.directory.snapshot.models.values() for pool in model.pools}
    found = await plane.admission.find(tenant, call.path.removeprefix(PREFIX), pools)
    if found is None:
        return False
    request_id, where = found
    ticket = shown("queue.ticket", request_id, where.place)
    ticket["status"] = "queued" if where.is_waiting else "running"
    await reply.answer(200, json.dumps(ticket).encode())
    return True
