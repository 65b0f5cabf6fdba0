"""
A tap between a client and a gateway: what each client was given, byte for byte.

It stands at the client's end of the wire. When the client leaves, the tap half-closes towards the gateway and goes on
reading until the gateway hangs up: all that the gateway handed to the client's connection is then in the record, which
is what "delivered" means on a bill.
"""

import asyncio
import threading
from contextlib import contextmanager, suppress

import httptools

from gateway.core.sse import last_usage
from gateway.core.usage import Usage


class Delivered:
    """One answer as it came to the client."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_complete = False

    @property
    def usage(self) -> Usage:
        return last_usage(self.body) or Usage()


class _Recorder:
    """Parses the answers of one connection into *answers*, by request id."""

    def __init__(self, answers: dict[str, Delivered]) -> None:
        self._answers = answers
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Delivered()

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._answer = Delivered()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answers[self._answer.headers["x-request-id"]] = self._answer

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.is_complete = True


class Tap:
    """Listens on a free port and passes everything on to *port*; `answers` holds what came back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: dict[str, Delivered] = {}
        self.open_connections = 0
        self._passing: set[asyncio.Task[None] | None] = set()
        self.url = ""

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            started.set()
            await stop.wait()

    async def _pass_on(self, from_client, to_client) -> None:
        self.open_connections += 1
        # asyncio lets go of a handler once its client has left; uncollected it must read the gateway's side to its end.
        self._passing.add(asyncio.current_task())
        recorder = _Recorder(self.answers)
        try:
            from_gateway, to_gateway = await asyncio.open_connection("127.0.0.1", self._port)
            sending = asyncio.create_task(self._send(from_client, to_gateway))
            while data := await from_gateway.read(65536):
                recorder.feed(data)
                with suppress(ConnectionError):
                    to_client.write(data)
            sending.cancel()
            to_gateway.close()
        except ConnectionError:
            pass
        finally:
            to_client.close()
            self.open_connections -= 1
            self._passing.discard(asyncio.current_task())

    @staticmethod
    async def _send(from_client, to_gateway) -> None:
        with suppress(ConnectionError):
            while data := await from_client.read(65536):
                to_gateway.write(data)
        with suppress(ConnectionError, OSError):
            to_gateway.write_eof()


@contextmanager
def tapped(port: int):
    """Run a tap in front of the gateway at *port*, on a thread of its own."""
    tap = Tap(port)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(tap.serve(started, stop),))
    thread.start()
    try:
        assert started.wait(5)
        yield tap
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
