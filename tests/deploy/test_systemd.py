"""The units for systemd: sound to its own eyes, hardened, calling verbs that exist, with time to drain."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.test_containers import parse

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
# systemd's own measure, 0 to 10: what is left is network, and for engines code made at run time and devices.
EXPOSED_MAX = {"sluice-gateway.service": 2.0, "sluice-worker@.service": 4.0}


@pytest.fixture
def units(tmp_path):
    """The units in a folder, with programs that are there in place of those of an installation."""
    sluice = str(Path(sys.executable).with_name("sluice"))
    for unit in UNITS.glob("*.service"):
        text = (
            unit.read_text().replace("/opt/sluice/bin/sluice", sluice).replace("/opt/sluice-worker/bin/sluice", sluice)
        )
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def settings(name: str) -> dict[str, str]:
    lines = [line.partition("=") for line in (UNITS / name).read_text().splitlines() if not line.startswith("#")]
    return {key: value for key, equals, value in lines if equals}


def test_every_unit_is_measured():
    assert {path.name for path in UNITS.glob("*.service")} == EXPOSED_MAX.keys()


@pytest.mark.systemd
@pytest.mark.parametrize("name", EXPOSED_MAX)
def test_systemd_finds_a_unit_sound(units, name):
    where = (units / name).rename(units / name.replace("@.", "@0."))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(where))
    assert (done.returncode, done.stderr) == (0, "")


def analyze(*arguments):
    words = ["systemd-analyze", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.systemd
@pytest.mark.parametrize(("name", "most"), EXPOSED_MAX.items())
def test_a_unit_is_hardened(name, most):
    threshold = f"--threshold={round(most * 10)}"
    done = analyze("security", "--offline=true", "--no-pager", threshold, str(UNITS / name))
    assert done.returncode == 0, done.stdout[-500:]


@pytest.mark.parametrize("name", EXPOSED_MAX)
def test_a_unit_calls_verbs_that_there_are_and_lets_them_drain(name):
    unit = settings(name)
    words = shlex.split(unit["ExecStart"].replace("$WORKER_OPTIONS", "--model tiny --pool p").replace("%", ""))
    options = parse(words[1:])
    drain_s = options.get("drain_s") or 30.0
    assert float(unit["TimeoutStopSec"]) >= drain_s + 20
    assert unit["KillMode"] == "mixed"  # the first signal is for the process that drains, not for what it drains


def test_an_engine_may_reach_its_gpu():
    """Each of these closes /dev but for what is named, ProtectClock because it names the clock."""
    unit = settings("sluice-worker@.service")
    assert not {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"} & unit.keys()
    assert "MemoryDenyWriteExecute" not in unit
