"""Debian's Prometheus on a free port, scraping several times a second."""

import json
from pathlib import Path

import httpx

from tests.servers.process import Process, free_port

SCRAPE_S = 0.5


class PrometheusServer(Process):
    """A Prometheus with *jobs* (name → list of targets with labels) and the rules of those files."""

    def __init__(self, folder: Path, jobs: dict[str, list[dict]], rules: list[Path]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        config = {
            "global": {"scrape_interval": f"{round(SCRAPE_S * 1000)}ms", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": name, "static_configs": targets} for name, targets in jobs.items()],
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        argv = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        super().__init__("prometheus", argv, folder / "prometheus.log")

    def start(self) -> None:
        self.spawn()
        self.wait_until("ready", self._is_ready, 30)

    def ask(self, query: str) -> tuple[str, list[dict]]:
        """Evaluate *query* now; give the error, or nothing, and the series."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        return answer.get("error", ""), answer.get("data", {}).get("result", [])

    def rules(self) -> list[dict]:
        """List the rules with their health."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False
