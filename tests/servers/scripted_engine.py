"""An engine that says, word for word, what a test has it say: what no engine at hand can be made to."""

import asyncio
import json
from contextlib import asynccontextmanager

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: {}\r\nconnection: close\r\n{}\r\n"


def whole(message, **fields):
    """Make a whole answer of *message*; *fields* such as usage stand beside it."""
    body = json.dumps({"id": "1", "choices": [{"index": 0, "message": message}], **fields}, separators=(",", ":"))
    return HEAD.format("application/json", f"content-length: {len(body.encode())}\r\n").encode() + body.encode()


def stream(*events, is_cut=False):
    """Make a stream of *events*, to its end or cut off before that."""
    data = "".join(f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events)
    chunks = data.encode() + (b"" if is_cut else b"data: [DONE]\n\n")
    head = HEAD.format("text/event-stream", "transfer-encoding: chunked\r\n").encode()
    return head + b"%x\r\n%s\r\n" % (len(chunks), chunks) + (b"" if is_cut else b"0\r\n\r\n")


def delta(**fields):
    """Make an event of a stream whose delta has *fields*; *usage* stands beside its choice."""
    usage = {"usage": fields.pop("usage")} if "usage" in fields else {}
    return {"id": "1", "choices": [{"index": 0, "delta": fields, "finish_reason": None}], **usage}


@asynccontextmanager
async def scripted_engine(*answers):
    """Serve one of *answers* to each request, in turn; gives the URL."""
    left = list(answers)

    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.write(left.pop(0))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def accept_only(reader, writer):
    """Take requests and never answer, as an engine does whose process is stopped."""
    await reader.read(1 << 20)


async def say_head_only(reader, writer):
    """Answer with a stream's head, then hang, as an engine does whose core is stuck behind a live HTTP server."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD.format("text/event-stream", "transfer-encoding: chunked\r\n").encode())
    await writer.drain()


async def trickle(reader, writer):
    """Send a stream byte by byte, each within any limit on silence, and never a whole frame."""
    await say_head_only(reader, writer)
    for byte in b"data: " + b"x" * 10_000:
        writer.write(b"1\r\n%c\r\n" % byte)
        await writer.drain()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def hung_engine(how):
    """Hang on every connection as *how* says, until the other side leaves; gives the URL and the open connections."""
    held = set()

    async def hang(reader, writer):
        held.add(writer)
        try:
            await how(reader, writer)
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        finally:
            held.discard(writer)
            writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", held
        for writer in list(held):
            writer.transport.abort()
