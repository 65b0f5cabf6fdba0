"""
What the examples render, run as processes: its commands, its variables, its files and its secrets.

Only paths, names of hosts and ports are those of this machine, and the engine is simulated.
"""

import base64
import contextlib

import httpx
import pytest

from gateway.stores.database import Database
from gateway.stores.sql_directory import SqlDirectory
from tests.chart.rendered import containers, example, named, variables
from tests.servers.process import SLUICE, Process, free_port

pytestmark = [pytest.mark.helm, pytest.mark.redis]


class Pod:
    """The containers of an example, made to run here; *secrets* are those that it names and does not render."""

    def __init__(self, folder, redis_url, name="trial", **secrets) -> None:
        self.folder, self.port, self.engine_port = folder, free_port(), free_port()
        self.objects, self._secrets = example(name), secrets
        for part in ("home", "objects", "worker", "etc"):
            (folder / part).mkdir()
        config = named(self.objects, "ConfigMap", "s-sluice-config")["data"]["sluice.yaml"]
        (folder / "etc" / "sluice.yaml").write_text(config)
        self._here = {
            "redis://:$(REDIS_PASSWORD)@s-sluice-redis:6379/0": redis_url,
            "http://s-sluice-gateway-0.s-sluice-gateway-peers:8080": f"http://127.0.0.1:{self.port}",
            "/var/lib/sluice-objects": str(folder / "objects"),
            "/etc/sluice": str(folder / "etc"),
            "0.0.0.0": "127.0.0.1",
            "$(POD_IP)": "127.0.0.1",
            "$(POD_NAME)": "pod-1",
        }

    def process(self, name: str, home: str, *more: str) -> Process:
        """Give the process of that container."""
        (container,) = (each for where, each in containers(self.objects) if where.endswith(name))
        given = variables(container)
        environ = {key: self._value(value, home) for key, value in given.items() if not self._is_of_pod(value)}
        if "SLUICE_PORT" in environ:
            environ |= {"SLUICE_PORT": str(self.port), "SLUICE_GATEWAY_ID": "s-sluice-gateway-0"}
        words = [self._put(word, home) for word in container["args"]]
        return Process(name, [SLUICE, *words, *more], self.folder / f"{name.replace('/', '-')}.log", environ)

    @staticmethod
    def _is_of_pod(value) -> bool:
        return isinstance(value, dict) and "fieldRef" in value

    def _value(self, value, home) -> str:
        if isinstance(value, str):
            return self._put(value, home)
        reference = value["secretKeyRef"]
        if reference["name"] in self._secrets:
            return self._secrets[reference["name"]]
        return base64.b64decode(named(self.objects, "Secret", reference["name"])["data"][reference["key"]]).decode()

    def _put(self, text: str, home: str) -> str:
        for there, here in self._here.items():
            text = text.replace(there, here)
        text = text.replace("/var/lib/sluice", str(self.folder / home))
        return text.replace("--port=8000", f"--port={self.engine_port}")

    def run(self, name: str) -> None:
        """Run the process of an init container to its end."""
        process = self.process(name, "home")
        process.spawn()
        assert process._process.wait(120) == 0, process.tail()

    def verb(self, *words: str) -> str:
        """Run a verb beside the gateway, as `kubectl exec` does; gives what it prints last."""
        process = self.process("-gateway/gateway", "home")
        process.argv = [SLUICE, *words]
        process.log = self.folder / "verb.log"
        process.log.unlink(missing_ok=True)
        process.spawn()
        assert process._process.wait(120) == 0, process.tail()
        return process.log.read_text()


@pytest.fixture
def pod(tmp_path, redis_url):
    return Pod(tmp_path, redis_url)


def test_what_the_trial_renders_serves_and_drains(pod):
    pod.run("gateway/migrate")
    pod.run("gateway/apply")
    gateway, worker = pod.process("-gateway/gateway", "home"), pod.process("/worker", "worker", "--engine=sim")
    url = f"http://127.0.0.1:{pod.port}"
    try:
        gateway.spawn()
        gateway.wait_until("live", lambda: answers(f"{url}/livez"), 120)
        worker.spawn()
        worker.wait_until("healthy", lambda: answers(f"http://127.0.0.1:{pod.engine_port}/health"), 120)
        pod.verb("tenants", "create", "acme")
        key = next(
            word for word in pod.verb("keys", "create", "--tenant", "acme").split() if word.startswith("sk-sluice-")
        )
        asked = {"model": "qwen3-0.6b", "messages": [{"role": "user", "content": "Hello!"}]}
        bearer = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/v1/chat/completions", json=asked, headers=bearer, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0
        assert answers(f"{url}/readyz")
        assert (worker.stop(), gateway.stop()) == (0, 0)
    finally:
        for process in (worker, gateway):
            if process.is_running:
                process.kill_tree()


@pytest.mark.postgres
def test_the_migration_makes_tables_and_pools_before_any_gateway(tmp_path, redis_url, postgres_url):
    pod = Pod(tmp_path, redis_url, "ha", **{"sluice-database": postgres_url})
    pod.run("-migration/migrate")
    pod.run("-migration/apply")
    with contextlib.closing(Database(postgres_url)) as database:
        pools = SqlDirectory(database).changes_since(0).pools
    assert {pool.name: (pool.workers_min, pool.workers_max) for pool in pools} == {
        "qwen3-8b": (2, 16),
        "qwen3-32b": (0, 4),
    }


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
