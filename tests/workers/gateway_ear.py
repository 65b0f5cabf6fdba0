"""A receiver for beats: real HTTP, remembers all it hears, and can be made to refuse."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.waiting import let_run_s

TOKEN = "worker-token"


class GatewayEar:
    """Listens as a gateway does to its workers; tests wait on what it hears."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.beats: list[dict] = []
        self.goodbyes: list[str] = []
        self.token = TOKEN
        self.says: dict = {}  # in its answers, beside the lease
        self._heard = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "https" if tls else "http"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        host = "localhost" if self._scheme == "https" else "127.0.0.1"
        return f"{self._scheme}://{host}:{self._server.server_port}"

    @property
    def states(self) -> list[str]:
        """The states in the order of their first beat; a state that comes back is there again."""
        states = [beat["state"] for beat in self.beats]
        return [state for before, state in zip([None, *states], states, strict=False) if state != before]

    def until(self, is_so, within_s: float = 30):
        """Wait until a beat is heard for which *is_so*; give it."""
        return self._wait(lambda: next((beat for beat in self.beats if is_so(beat)), None), within_s)

    def until_goodbye(self, within_s: float = 30):
        return self._wait(lambda: self.goodbyes, within_s)

    def until_count(self, count: int, within_s: float = 30):
        return self._wait(lambda: len(self.beats) >= count, within_s)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _wait(self, found, within_s: float):
        with self._heard:
            assert self._heard.wait_for(found, within_s), f"heard only {self.states}: {self.beats[-1:]}"
            return found()

    def _hear(self, what: list, item) -> None:
        with self._heard:
            what.append(item)
            self._heard.notify_all()

    def _handler(self):
        ear = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self._is_welcome():
                    times = {"at_s": time.monotonic(), "let_run_s": let_run_s()}
                    ear._hear(ear.beats, {**json.loads(body), "path": self.path, **times})
                    self._answer(200, json.dumps({"lease_s": 4.0, **ear.says}).encode())

            def do_DELETE(self):
                if self._is_welcome():
                    ear._hear(ear.goodbyes, self.path)
                    self._answer(204)

            def _is_welcome(self) -> bool:
                if self.headers["authorization"] == f"Bearer {ear.token}":
                    return True
                self._answer(401)
                return False

            def _answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        return Handler
