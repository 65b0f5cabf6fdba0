"""
What the examples render, run as processes: its commands, its variables, its files and its secrets.

Only paths, names of hosts and ports are those of this machine, and the engine is simulated.
"""

import base64
import contextlib
import re
import ssl

import httpx
import pytest
import yaml

from gateway.stores.database import Database
from gateway.stores.sql_directory import SqlDirectory
from tests.chart.rendered import EXAMPLES, containers, example, named, pod_templates, render, variables
from tests.jobs.receivers import certified
from tests.servers.process import SLUICE, Process, free_port
from tests.workers.gateway_ear import GatewayEar

pytestmark = [pytest.mark.helm, pytest.mark.redis]
TOKEN_VERB = ("worker", "token", "qwen3-0.6b", "--format", "json")


class Pod:
    """The containers of what was rendered, made to run here; *secrets* has what it names and does not render."""

    def __init__(self, folder, redis_url, objects, secrets=None, gateways="") -> None:
        self.folder, self.port, self.engine_port = folder, free_port(), free_port()
        self.objects, self.secrets = objects, secrets or {}
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
            ".s-sluice-qwen3-0-6b-engines.llm.svc": "",
            "https://llm.example.com": gateways,
        }
        for _, template in pod_templates(objects):
            self._mount(template["spec"])

    def _mount(self, pod) -> None:
        """Write the files of the secrets that are known, and have them found where the pod expects them."""
        volumes = [(volume["name"], volume.get("secret", {})) for volume in pod["volumes"]]
        secrets = {name: secret for name, secret in volumes if secret.get("secretName") in self.secrets}
        for mount in (
            mount for each in pod["containers"] for mount in each["volumeMounts"] if mount["name"] in secrets
        ):
            here, secret = self.folder / mount["name"], secrets[mount["name"]]
            here.mkdir()
            for item in secret["items"]:
                (here / item["path"]).write_text(self.secrets[secret["secretName"]][item["key"]])
            self._here[mount["mountPath"]] = str(here)

    def process(self, name: str, home: str, *more: str) -> Process:
        """Give the process of that container."""
        (container,) = (each for where, each in containers(self.objects) if where.endswith(name))
        given = variables(container)
        environ = {key: self._value(value, home) for key, value in given.items() if not self._is_of_pod(value)}
        if "SLUICE_PORT" in environ:
            environ |= {"SLUICE_PORT": str(self.port), "SLUICE_GATEWAY_ID": "s-sluice-gateway-0"}
        command = [SLUICE if word == "sluice" else word for word in container.get("command", ["sluice"])]
        words = [self._put(word, home) for word in (*command, *container["args"])]
        environ["POD_IP"] = "localhost"
        return Process(name, [*words, *more], self.folder / f"{name.replace('/', '-')}.log", environ)

    @staticmethod
    def _is_of_pod(value) -> bool:
        return isinstance(value, dict) and "fieldRef" in value

    def _value(self, value, home) -> str:
        if isinstance(value, str):
            return self._put(value, home)
        reference = value["secretKeyRef"]
        if reference["name"] in self.secrets:
            return self.secrets[reference["name"]][reference["key"]]
        return base64.b64decode(named(self.objects, "Secret", reference["name"])["data"][reference["key"]]).decode()

    def _put(self, text: str, home: str) -> str:
        for there in sorted(self._here, key=len, reverse=True):
            text = text.replace(there, self._here[there])
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

    def ask(self, url: str) -> None:
        """Make a tenant and a key, and have a question answered."""
        self.verb("tenants", "create", "acme")
        words = self.verb("keys", "create", "--tenant", "acme").split()
        bearer = {"authorization": f"Bearer {next(word for word in words if word.startswith('sk-sluice-'))}"}
        asked = {"model": "qwen3-0.6b", "messages": [{"role": "user", "content": "Hello!"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=asked, headers=bearer, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0


@contextlib.contextmanager
def serving(pod, engine, trusted=True):
    """Run a gateway and a worker, and give them when both are up; what is left of them in the end is killed."""
    gateway, worker = pod.process("-gateway/gateway", "home"), pod.process("/worker", "worker", "--engine=sim")
    try:
        gateway.spawn()
        gateway.wait_until("live", lambda: answers(f"http://127.0.0.1:{pod.port}/livez"), 120)
        worker.spawn()
        worker.wait_until("healthy", lambda: answers(f"{engine}/health", trusted), 120)
        yield gateway, worker
    finally:
        for process in (worker, gateway):
            if process.is_running:
                process.kill_tree()


@pytest.fixture
def pod(tmp_path, redis_url):
    return Pod(tmp_path, redis_url, example("trial"))


def test_what_the_trial_renders_serves_and_drains(pod):
    pod.run("gateway/migrate")
    pod.run("gateway/apply")
    url = f"http://127.0.0.1:{pod.port}"
    with serving(pod, f"http://127.0.0.1:{pod.engine_port}") as (gateway, worker):
        pod.ask(url)
        assert answers(f"{url}/readyz")
        assert (worker.stop(), gateway.stop()) == (0, 0)


@pytest.fixture
def certificate(tmp_path):
    """A certificate that this host is reached by, as an operator would put it into Secrets."""
    context, pem = certified(tmp_path, "localhost")
    return context, {"tls.crt": pem.read_text(), "tls.key": pem.with_suffix(".key").read_text()}


def test_a_pool_with_its_own_token_and_certificate_serves_as_another(tmp_path, redis_url, certificate):
    _, files = certificate
    own = {"token": {"existingSecret": "own"}, "tls": {"existingSecret": "engine"}}
    pod = Pod(tmp_path, redis_url, trial_with(tmp_path, own), {"engine": files, "ca": {"ca.crt": files["tls.crt"]}})
    pod.run("gateway/migrate")
    pod.run("gateway/apply")
    pod.secrets["own"] = {"token": re.search('wt-[^"]+', pod.verb(*TOKEN_VERB))[0]}
    trusted = ssl.create_default_context(cadata=files["tls.crt"])
    with serving(pod, f"https://localhost:{pod.engine_port}", trusted) as (gateway, worker):
        pod.ask(f"http://127.0.0.1:{pod.port}")
        assert (worker.stop(), gateway.stop()) == (0, 0)


def test_workers_report_by_https_to_a_gateway_that_their_authority_vouches_for(tmp_path, certificate):
    context, files = certificate
    ear = GatewayEar(tls=context)
    own = {"gateways": ["https://llm.example.com"], "token": {"existingSecret": "own"}}
    own["tls"] = {"ca": {"existingSecret": "ca"}}
    secrets = {"own": {"token": ear.token}, "ca": {"ca.crt": files["tls.crt"]}}
    pod = Pod(tmp_path, "", trial_with(tmp_path, own), secrets, ear.url)
    worker = pod.process("/worker", "worker", "--engine=sim")
    try:
        worker.spawn()
        beat = ear.until(lambda beat: beat["state"] == "ready", 120)
        assert beat["pool"] == "qwen3-0.6b"
        assert worker.stop() == 0
    finally:
        if worker.is_running:
            worker.kill_tree()
        ear.close()


def trial_with(folder, kubernetes):
    """Give what the trial renders with these values for its pool, and gateways that trust the Secret `ca`."""
    path = folder / "own.yaml"
    pools = {"qwen3-0.6b": {"kubernetes": kubernetes}}
    path.write_text(yaml.safe_dump({"pools": pools, "gateway": {"engineCa": {"existingSecret": "ca"}}}))
    return render(str(EXAMPLES["trial"]), str(path))


@pytest.mark.postgres
def test_the_migration_makes_tables_and_pools_before_any_gateway(tmp_path, redis_url, postgres_url):
    pod = Pod(tmp_path, redis_url, example("ha"), {"sluice-database": {"url": postgres_url}})
    pod.run("-migration/migrate")
    pod.run("-migration/apply")
    with contextlib.closing(Database(postgres_url)) as database:
        pools = SqlDirectory(database).changes_since(0).pools
    assert {pool.name: (pool.workers_min, pool.workers_max) for pool in pools} == {
        "qwen3-8b": (2, 16),
        "qwen3-32b": (0, 4),
    }


def answers(url: str, trusted: ssl.SSLContext | bool = True) -> bool:
    try:
        return httpx.get(url, timeout=2, verify=trusted).status_code == 200
    except httpx.HTTPError:
        return False
