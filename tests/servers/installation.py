"""A whole installation for tests: gateways, workers, and the Directory behind them, as real processes."""

import json
import subprocess
from pathlib import Path

import httpx
import sqlalchemy

from tests.servers.process import SLUICE, Process, free_port

WORKER_TOKEN = "test-worker-token"
ADMIN_TOKEN = "test-admin-token"


class GatewayServer(Process):
    """One `sluice serve`. Its port stays the same over restarts."""

    def __init__(self, name: str, home: Path, environ: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"SLUICE_HOME": str(home), "SLUICE_PORT": str(self.port), "SLUICE_GATEWAY_ID": name}
        super().__init__(name, [SLUICE, "serve"], home / "logs" / f"{name}.log", environ | own)

    def start(self) -> None:
        self.spawn()
        self.wait_until("live", self._is_live, 30)

    def readyz(self) -> dict:
        return httpx.get(f"{self.url}/readyz", timeout=5).json()

    def metric(self, name: str, **labels: str) -> float:
        """Give the sum of a metric's samples that have *labels*; 0 if there is none."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics", timeout=5).text.splitlines():
            series, _, value = line.rpartition(" ")
            wanted = all(f'{label}="{text}"' in series for label, text in labels.items())
            if series.split("{")[0] == name and wanted:
                total += float(value)
        return total

    def workers(self) -> list[dict]:
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        return httpx.get(f"{self.url}/admin/v1/workers", headers=headers, timeout=5).json()["data"]

    def ready_workers(self) -> list[str]:
        return sorted(worker["worker"] for worker in self.workers() if worker["state"] == "ready")

    def _is_live(self) -> bool:
        try:
            return httpx.get(f"{self.url}/livez", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False


class WorkerServer(Process):
    """One `sluice worker` with its engine."""

    def __init__(self, name: str, home: Path, gateways: list[GatewayServer], engine: str, *options: str) -> None:
        argv = [SLUICE, "worker", "--worker-id", name, "--engine", engine, "--home", str(home), "--port", "0"]
        argv += ["--served-name", "tiny", "--pool", "tiny", *options]
        for gateway in gateways:
            argv += ["--gateway", gateway.url]
        self.engine_log = home / "logs" / f"{name}-engine.log"
        argv += ["--log-file", str(self.engine_log)]
        self._gateways = gateways
        super().__init__(name, argv, home / "logs" / f"{name}.log", {"SLUICE_WORKER_TOKEN": WORKER_TOKEN})

    def wait_ready(self, within_s: float) -> None:
        self.wait_until("ready", lambda: all(self.name in g.ready_workers() for g in self._gateways), within_s)


class Installation:
    """Gateways and workers over one database and, if given, one Redis."""

    def __init__(self, home: Path, *, redis_url: str = "", database_url: str = "", **environ: str) -> None:
        self.home = home
        self.environ = {
            "SLUICE_WORKER_TOKEN": WORKER_TOKEN,
            "SLUICE_ADMIN_TOKEN": ADMIN_TOKEN,
            "SLUICE_DATABASE_URL": database_url or f"sqlite:///{home / 'sluice.db'}",
            **({"SLUICE_REDIS_URL": redis_url} if redis_url else {}),
            **environ,
        }
        self.gateways: list[GatewayServer] = []
        self.workers: list[WorkerServer] = []
        home.mkdir(parents=True, exist_ok=True)
        self.sluice("migrate")

    def add_gateway(self, *, own_home: bool = False) -> GatewayServer:
        """Start one more gateway; gateways of one host share a home, *own_home* makes one of another host."""
        name = f"gateway-{len(self.gateways) + 1}"
        gateway = GatewayServer(name, self.home / name if own_home else self.home, self.environ)
        gateway.start()
        self.gateways.append(gateway)
        return gateway

    def add_worker(self, engine: str, *options: str) -> WorkerServer:
        """Start one more worker; not waited for."""
        worker = WorkerServer(f"worker-{len(self.workers) + 1}", self.home, self.gateways, engine, *options)
        worker.spawn()
        self.workers.append(worker)
        return worker

    def declare(self, tenant: str = "acme") -> str:
        """Declare a tenant and the model `tiny`; gives an API key."""
        self.sluice("tenants", "create", tenant)
        self.sluice("models", "serve", "tiny")
        return self.sluice_json("keys", "create", "--tenant", tenant)["key"]

    def sluice(self, *args: str) -> str:
        """Run a verb of the command on this installation; gives what it prints."""
        done = subprocess.run(  # noqa: PLW1510  the assertion below says more
            [SLUICE, *args],
            env=Process("", [], self.home).environ | self.environ | {"SLUICE_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"sluice {' '.join(args)} failed: {done.stdout}{done.stderr}"
        return done.stdout

    def sluice_json(self, *args: str):
        """Run a verb with --format json; gives the data."""
        return json.loads(self.sluice(*args, "--format", "json"))

    def engine_metric(self, name: str) -> dict[str, float]:
        """Read a metric from every ready worker's engine itself, by worker."""
        found = {}
        for worker in self.gateways[0].workers():
            lines = httpx.get(f"{worker['url']}/metrics", timeout=5).text.splitlines()
            samples = [line.rpartition(" ")[2] for line in lines if line.startswith((name + "{", name + " "))]
            found[worker["worker"]] = sum(map(float, samples))
        return found

    def running_on_engines(self) -> int:
        """Count the sequences that the engines work on right now."""
        return round(sum(self.engine_metric("vllm:num_requests_running").values()))

    def events(self) -> dict[str, dict]:
        """Read every meter event from the database, by id."""
        engine = sqlalchemy.create_engine(self.environ["SLUICE_DATABASE_URL"])
        with engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text("SELECT * FROM meter_events")).mappings()
            events = {row["id"]: dict(row) for row in rows}
        engine.dispose()
        return events

    def wait_shipped(self, within_s: float = 15) -> None:
        """Wait until no gateway has an event that is not in the Journal."""
        for gateway in self.gateways:
            gateway.wait_until("shipped", lambda g=gateway: g.metric("sluice_spool_backlog_events") == 0, within_s)

    def close(self) -> None:
        """Kill whatever still runs."""
        for process in (*self.workers, *self.gateways):
            if process.is_running:
                process.kill_tree()
