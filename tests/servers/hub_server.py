"""
A hub that speaks ModelScope's HTTP: listings by branch or commit, files behind a redirect, ranges, and its faults.

Shapes as modelscope.cn answers them: `Data.Files[].Path, Size, Sha256, Type`, `Data.LatestCommitter.Id`; small files
come at once and whole, large ones through a redirect to a store that knows ranges.
"""

import contextlib
import hashlib
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

SMALL = 4096  # bytes up to which a file is answered at once
CHUNK = 16 << 10


@dataclass
class Faults:
    """What goes wrong; every list is used up from its front, one entry per request."""

    listing: list = field(default_factory=list)  # (status, headers) instead of a listing
    file: list = field(default_factory=list)  # (status, headers) instead of a file
    cuts: list = field(default_factory=list)  # bytes of a body after which the connection is cut
    wrong: list = field(default_factory=list)  # paths whose bytes come wrong, once each
    chunk_s: float = 0.0  # a pause before every CHUNK of a body
    token: str = ""  # who does not send it is answered 401, or 403 with another one
    tells_commit: bool = True
    tells_hashes: bool = True


class Hub:
    """Models by id, revision and path; `put` publishes a commit on a branch. Everything it sends is counted."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.sent: Counter[str] = Counter()
        self.asked: list[tuple[float, str]] = []
        self.cut_lengths: list[int] = []
        self.resumed: list[int] = []  # from which bytes files were asked for again
        self.is_serving = threading.Event()  # set when the first byte of a large file has left
        self._lock = threading.Lock()
        self.url = ""

    def put(self, model: str, files: dict[str, bytes], branch: str = "master") -> str:
        """Publish *files* as the newest commit of *branch*; give the commit."""
        lines = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())})
        commit = hashlib.sha1(f"{model}{lines}".encode()).hexdigest()
        self.commits[model, commit] = files
        self.branches[model, branch] = commit
        return commit

    def commit(self, model: str, revision: str) -> str | None:
        return revision if (model, revision) in self.commits else self.branches.get((model, revision))

    def take(self, name: str):
        """Use up the next fault of a list; None if there is none left."""
        with self._lock:
            left = getattr(self.faults, name)
            return left.pop(0) if left else None

    def takes_wrong(self, path: str) -> bool:
        with self._lock:
            if path in self.faults.wrong:
                self.faults.wrong.remove(path)
                return True
            return False

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.sent[path] += size


@contextlib.contextmanager
def running_hub():
    """Serve a Hub on a free port until the block ends."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that was killed is what some tests are about, not an error worth a trace."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self):
        return self.server.hub

    def do_GET(self):
        self.hub.asked.append((time.monotonic(), self.path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer()

    def _answer(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if parts[0] == "store":
            self._stored("/".join(parts[1:3]), parts[3], query["path"])
        elif parts[:3] == ["api", "v1", "models"] and parts[5:6] == ["repo"]:
            self._repo("/".join(parts[3:5]), parts[6:], query)
        else:
            self._json(200, {"Code": 200, "Data": {}})

    def _repo(self, model, rest, query):
        fault = self.hub.take("listing" if rest == ["files"] else "file")
        commit = self.hub.commit(model, query["Revision"])
        if status := self._denied():
            self._json(status, {"Code": status, "Message": "access denied"})
        elif fault:
            self._json(fault[0], {"Code": fault[0], "Message": "not now"}, fault[1])
        elif commit is None:
            self._json(404, {"Code": 404, "Message": "no such revision"})
        elif rest == ["files"]:
            self._json(200, {"Code": 200, "Success": True, "Data": _listing(self.hub, model, commit)})
        else:
            self._file(model, commit, query["FilePath"])

    def _denied(self):
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.hub.faults.token or given == self.hub.faults.token:
            return None
        return 403 if given else 401

    def _file(self, model, commit, path):
        data = self.hub.commits[model, commit][path]
        if len(data) <= SMALL:
            self._body(200, path, data, {})
            return
        self.send_response(302)
        self.send_header("Location", f"{self.hub.url}/store/{model}/{commit}?path={quote(path, safe='')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _stored(self, model, commit, path):
        data = self.hub.commits[model, commit][path]
        if self.hub.takes_wrong(path):
            data = bytes([data[0] ^ 1]) + data[1:]
        given = self.headers.get("Range")
        if given is None:
            self._body(200, path, data, {})
            return
        start = int(given.removeprefix("bytes=").split("-")[0])
        self.hub.resumed.append(start)
        if start >= len(data):
            self._json(416, {}, {"Content-Range": f"bytes */{len(data)}"})
            return
        self._body(206, path, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    def _body(self, status, path, data, headers):
        cut = self.hub.take("cuts") if len(data) > SMALL else None
        self._head(status, len(data), {"Content-Type": "application/octet-stream", **headers})
        end = len(data) if cut is None else min(cut, len(data))
        for start in range(0, end, CHUNK):
            time.sleep(self.hub.faults.chunk_s if len(data) > SMALL else 0)
            chunk = data[start : min(start + CHUNK, end)]
            self.wfile.write(chunk)
            self.hub.count(path, len(chunk))
            if len(data) > SMALL:
                self.hub.is_serving.set()
        if cut is not None:
            self.hub.cut_lengths.append(end)
            self.close_connection = True
            self.connection.shutdown(2)

    def _json(self, status, tree, headers=None):
        body = json.dumps(tree).encode()
        self._head(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        self.wfile.write(body)

    def _head(self, status, length, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


def _listing(hub: Hub, model: str, commit: str) -> dict:
    files = [
        {
            "Path": path,
            "Name": path.rpartition("/")[2],
            "Size": len(data),
            "Type": "blob",
            "Sha256": hashlib.sha256(data).hexdigest() if hub.faults.tells_hashes else "",
            "Revision": commit,
        }
        for path, data in hub.commits[model, commit].items()
    ]
    folders = [{"Path": "inner", "Name": "inner", "Size": 0, "Type": "tree", "Sha256": ""}]
    committer = {"Id": commit if hub.faults.tells_commit else "", "ShortId": commit[:8]}
    return {"Files": files + folders, "LatestCommitter": committer}


def small_model(seed: int = 1, megabytes: float = 2) -> dict[str, bytes]:
    """Make a model of random bytes: config, tokenizer, a file in a folder and two shards."""
    rng = random.Random(seed)
    half = int(megabytes * 500_000)
    return {
        "config.json": b'{"model_type": "qwen3"}',
        "tokenizer.json": rng.randbytes(3000),
        "inner/empty.txt": b"",
        "model-00001-of-00002.safetensors": rng.randbytes(half),
        "model-00002-of-00002.safetensors": rng.randbytes(half),
    }
