"""
uvicorn's HTTP protocol with three things added: the client's transport, errors in OpenAI's form, an orderly close.

Clients keep connections; one that a server closes under them may carry a request at that very moment. So a gateway that
goes says with each answer that this connection ends.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.core.outcome import Outcome
from gateway.errors import error_body
from gateway.serve.http import TRANSPORT_EXTENSION


class Door:
    """Whether the clients of a server are to come back by another door: then each answer closes its connection."""

    def __init__(self) -> None:
        self.is_closing = False


class SluiceProtocol(HttpToolsProtocol):
    """
    One client connection.

    ASGI does not tell whether a sent message still reached the client: uvicorn drops it in silence once the connection
    is closing. What was delivered is billed, so a reply must be able to ask.
    """

    def __init__(self, *args: Any, door: Door | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door or Door()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way: none has come yet, or the last one is answered."""
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    def close_with_answer(self) -> None:
        """Have the answer that is under way close the connection, and say so, if its head has not been sent."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._door.is_closing:
            self.close_with_answer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT_EXTENSION: {"transport": self.transport}}

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        body = error_body(msg, Outcome.BAD_REQUEST.error_type, None, "invalid_http")
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()
