"""A small drill from the command to its figures: real gateways, real Redis, simulated workers, all its own."""

import json
import signal
import xml.etree.ElementTree as ET

import psutil
import pytest

from tests.servers.process import SLUICE, Process

pytestmark = [pytest.mark.redis, pytest.mark.timeout(120)]

SMALL = ("--self-contained", "--users", "160", "--over", "2", "--spike", "40x", "--calm", "1", "--tenants", "4")
FAST = ("--capacity", "30", "--gateways", "2", "--output-tokens", "2", "--prompt-tokens", "50")
MIXED = ("--classes", "interactive=20,standard=70,batch=10")


@pytest.fixture(scope="module")
def burst(drill, tmp_path_factory):
    """The result of one drill, its files beside it."""
    folder = tmp_path_factory.mktemp("burst")
    files = ("--json", str(folder / "burst.json"), "--picture", str(folder / "burst.svg"))
    scale = ("--scale-at", "0.5", "--scale-to", "2x", "--cold-start", "1", "--hangups", "0.1", "--seed", "7")
    status, result, errors = drill(*SMALL, *FAST, *MIXED, *files, *scale)
    assert result is not None, errors
    return status, result, folder


def test_everybody_is_accounted_for_and_nobody_is_lost(burst):
    status, result, _ = burst
    assert result["users"] == 160
    assert result["served"] + result["refused"] + result["left"] + result["lost"] == 160
    assert (result["lost"], result["starved"], result["losses"]) == (0, 0, {})
    assert status == 0


def test_the_figures_agree_with_one_another(burst):
    _, result, _ = burst
    assert sum(tenant["served"] for tenant in result["tenants"].values()) == result["served"]
    assert sum(tenant["tokens"] for tenant in result["tenants"].values()) == result["tokens_served"] > 0
    assert set(result["wait_s"]) == {"interactive", "standard", "batch"}
    for wait in result["wait_s"].values():
        assert 0 < wait["p50"] <= wait["p95"] <= wait["p99"] < result["duration_s"]
    assert 0 < result["first_byte_s_p99"] < result["duration_s"]
    assert 0 < result["waiting_max"] <= 160
    assert (result["gateways"], result["seed"]) == (2, 7)


def test_the_capacity_is_about_what_was_asked_for(burst):
    """Requests at 30/s, at 60/s from the middle on: what is served per second lies near, hang-ups and ramps aside."""
    _, result, _ = burst
    assert 15 < result["served_per_s"] < 60


def test_gateways_and_redis_are_watched(burst):
    _, result, _ = burst
    assert 0 < result["redis_ops_per_request"] < 50
    assert 0 < result["gateway_cpu_ms_per_request"] < 100
    assert 0 < result["gateway_memory_kib_per_waiting"] < 1000


def test_the_file_has_what_was_printed_and_the_picture_can_be_read(burst):
    _, result, folder = burst
    assert json.loads((folder / "burst.json").read_text()) == result
    drawing = ET.parse(folder / "burst.svg").getroot()
    points = [path for path in drawing.iter("{http://www.w3.org/2000/svg}path") if "linecap" in str(path.attrib)]
    assert sum(path.attrib["d"].count("h0") for path in points) >= result["served"]


def test_one_gateway_drills_without_redis_and_prints_tables(tmp_path):
    few = ("--users", "5", "--over", "0.2", "--calm", "0", "--output-tokens", "1")
    process = start_drill(tmp_path, "--self-contained", "--gateways", "1", *few)
    process.wait_until("done", lambda: "duration, s" in process.tail(100), 30)
    assert "Redis operations per request              0.0" in process.tail(100)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_burst_leaves_no_child_and_no_folder(number, tmp_path):
    process = start_drill(tmp_path, *SMALL, "--capacity", "5", "--gateways", "2")
    process.wait_until("under way", lambda: "users within" in process.tail(), 30)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 4, "Redis, two gateways, one process with workers"
    psutil.Process(process.pid).send_signal(number)
    assert psutil.Process(process.pid).wait(30) == 130
    assert not [child for child in children if child.is_running()]
    assert not list(tmp_path.glob("sluice-drill-*"))


def start_drill(folder, *options):
    argv = [SLUICE, "drill", "burst", *options]
    process = Process("drill", argv, folder / "drill.log", {"TMPDIR": str(folder)})
    process.spawn()
    return process
