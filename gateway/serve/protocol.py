"""uvicorn's HTTP protocol with two things added: the client's transport in the scope, and errors in OpenAI's form."""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.core.outcome import Outcome
from gateway.errors import error_body
from gateway.serve.http import TRANSPORT_EXTENSION


class SluiceProtocol(HttpToolsProtocol):
    """
    One client connection.

    ASGI does not tell whether a sent message still reached the client: uvicorn drops it in silence once the connection
    is closing. What was delivered is billed, so a reply must be able to ask.
    """

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT_EXTENSION: {"transport": self.transport}}

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        body = error_body(msg, Outcome.BAD_REQUEST.error_type, None, "invalid_http")
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()
