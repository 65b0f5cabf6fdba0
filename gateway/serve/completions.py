"""Text completions: a prompt goes on, without a chat's template. The path is that of a chat (chat.py)."""

from gateway.core.request import parse_completion
from gateway.serve.chat import serve_request
from gateway.serve.http import Call, Reply
from gateway.serve.plane import Plane

PATH = "/v1/completions"


async def serve_completion(call: Call, plane: Plane, reply: Reply) -> None:
    """Answer POST /v1/completions."""
    await serve_request(call, plane, reply, parse_completion)
