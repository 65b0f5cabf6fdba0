"""Chat completions: the path of one request, from bearer key to meter event."""

from gateway.core.request import parse_chat
from gateway.core.sse import DONE, strip_usage
from gateway.serve.http import Call, Reply
from gateway.serve.metering import MeterRecord
from gateway.serve.plane import Plane
from gateway.serve.upstream import Answer

PATH = "/v1/chat/completions"


async def serve_chat(call: Call, plane: Plane, reply: Reply) -> None:
    """
    Carry one chat completion from bearer key to meter event.

    Read top to bottom: each line may refuse; leaving a block undoes that block.
    """
    async with plane.metering.open(call) as record:  # one event, however this ends
        record.caller = caller = plane.authn.identify(call.headers)  # 401
        record.request = request = parse_chat(await call.body(), plane.cache_salt(caller))  # 400, 413
        record.model = model = plane.model(request.model)  # 404
        async with (
            plane.admission.enter(model, record),  # 429 full, 503 draining or no worker
            plane.placement.place(model.pool, request) as place,  # on a worker with credit; 503 none
            plane.upstream.open(place, request, PATH, record.dispatch) as answer,  # 502, 504
        ):
            reply.describe(answer.worker, record.queue_ms)
            await relay(answer, record, reply)


async def relay(answer: Answer, record: MeterRecord, reply: Reply) -> None:
    """Hand the engine's answer to the client; the record is durable before the last byte leaves."""
    if not answer.is_stream:
        await record.settle(answer.status, answer.body)
        await reply.answer(answer.status, answer.body)
        return
    request = record.request
    assert request is not None, "an answer belongs to a request"
    await record.opened()
    await reply.begin_stream()
    async for frames in answer.frames():
        record.observe(frames)
        kept = frames if request.continuous_usage else strip_usage(frames, keep_final=request.include_usage)
        if kept:
            await reply.send(kept)
        record.deliver()
    await record.settle()
    await reply.finish(DONE)
