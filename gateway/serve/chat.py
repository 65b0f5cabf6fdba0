"""Chat completions, and the path of one request for any kind of text, from bearer key to meter event."""

from collections.abc import Callable

from gateway.core.request import ChatRequest, parse_chat
from gateway.core.sse import DONE, strip_usage
from gateway.serve import receipts
from gateway.serve.http import Call, Reply
from gateway.serve.metering import MeterRecord
from gateway.serve.plane import Plane
from gateway.serve.upstream import Answer
from gateway.serve.wishes import read_wishes

PATH = "/v1/chat/completions"


async def serve_chat(call: Call, plane: Plane, reply: Reply) -> None:
    """Answer POST /v1/chat/completions."""
    await serve_request(call, plane, reply, parse_chat)


async def serve_request(call: Call, plane: Plane, reply: Reply, parse: Callable[..., ChatRequest]) -> None:
    """
    Carry one request from bearer key to meter event.

    Read top to bottom: each line may refuse; leaving a block undoes that block.
    """
    async with plane.metering.open(call) as record:  # one event, however this ends
        record.caller = caller = plane.authn.identify(call.headers)  # 401
        record.wishes = read_wishes(call.headers, caller.service_class)  # 400, 403
        record.request = request = plane.read(parse, caller, await call.body())  # 400
        record.model = model = plane.route(record, reply)  # 404; by now it is known which pool
        record.price = plane.price(caller.tenant, model, call.arrived_ms)  # frozen, whatever is declared meanwhile
        record.request = request = await plane.holds.hold(record, reply)  # 429 over a limit or budget, 503
        async with (
            plane.waiting.post(record, reply),  # from here on, the client of a stream is told how its wait goes
            plane.admission.enter(model, record) as place,  # on a worker with credit; 429 full or late, 503 no worker
            plane.upstream.open(place, request, call.path, record) as answer,  # 502, 504
        ):
            reply.describe(answer.worker, record.queue_ms, place.cached_tokens if answer.is_stream else None)
            await relay(answer, record, reply)
        await conclude(answer, record, reply)  # the engine is done: its slot is free before the disk is waited for


async def relay(answer: Answer, record: MeterRecord, reply: Reply) -> None:
    """Hand on what comes from the engine, as it comes; a whole answer is only taken note of."""
    if not answer.is_stream:
        record.receive(answer.status, answer.body)
        return
    request = record.request
    assert request is not None, "an answer belongs to a request"
    await record.opened()
    await reply.begin_answer()
    async for frames in answer.frames():
        record.observe(frames)
        kept = frames if request.continuous_usage else strip_usage(frames, keep_final=request.include_usage)
        if kept:
            await reply.send(kept)
        record.deliver()


async def conclude(answer: Answer, record: MeterRecord, reply: Reply) -> None:
    """Make the record durable, then let the last byte go."""
    await record.settle(answer.status)
    if answer.is_stream:
        await reply.finish(receipts.frame(record) + DONE)
    else:
        reply.headers += receipts.headers(record)
        await reply.answer(answer.status, answer.body)
