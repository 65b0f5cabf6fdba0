"""`sluice up` with a real engine: what is printed works, what is stopped is gone, what is kept is used."""

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.servers.process import SLUICE, Process, free_port

pytestmark = [pytest.mark.vllm, pytest.mark.redis, pytest.mark.timeout(900)]

START_S_MAX = 400
STOP_S_MAX = 60
LAST_LINE = "Ctrl-C stops everything"


class Up(Process):
    """One `sluice up`; `text` is what it printed since its start."""

    def __init__(self, home, port):
        super().__init__(
            "up", [SLUICE, "up", "--home", str(home), "--port", str(port)], home.with_name(f"{home.name}.log")
        )

    def start(self):
        self.log.unlink(missing_ok=True)
        self.spawn()
        self.wait_until("up", lambda: LAST_LINE in self.text, START_S_MAX)
        return self

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def key(self) -> str:
        return re.search(r"sk-sluice-\w+", self.text).group()

    def wait(self) -> int:
        return self._process.wait(STOP_S_MAX)

    def descendants(self):
        return psutil.Process(self.pid).children(recursive=True)

    def child(self, words: str) -> psutil.Process:
        return next(child for child in self.descendants() if words in " ".join(child.cmdline()))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("up") / "home"


@pytest.fixture(scope="module")
def up(home):
    """One start for the whole file; the tests run in order and the last ones stop it and start it again."""
    up = Up(home, free_port()).start()
    yield up
    if up.is_running:
        up.kill_tree()


def run(*argv, **options):
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=120, **options)


def answered(up) -> dict:
    line = re.search(r"^\s+curl +(curl .*)$", up.text, re.MULTILINE).group(1)
    return json.loads(run("bash", "-c", line).stdout)


def test_the_curl_line_works_as_printed(up):
    answer = answered(up)
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_the_python_snippet_works_as_printed(up):
    snippet = re.search(r"^from openai.*?^print\(answer\.usage\)$", up.text, re.MULTILINE | re.DOTALL).group()
    done = run(sys.executable, "-c", snippet)
    assert "completion_tokens=" in done.stdout, done.stderr


def test_status_says_that_a_request_would_be_served(up, home):
    done = run(SLUICE, "status", "--home", str(home), "--format", "json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["ready"]) == (0, True)
    assert [worker["state"] for worker in facts["workers"]] == ["ready"]


def test_what_was_asked_is_in_the_report(up, home):
    span = ["--from", "2020-01-01", "--to", "2100-01-01"]
    up.wait_until("shipped", lambda: _requests(home, span) >= 3, 30)


def _requests(home, span) -> int:
    done = run(SLUICE, "report", "usage", *span, "--home", str(home), "--format", "json")
    return json.loads(done.stdout)["totals"]["requests"]


def test_no_secret_is_in_a_command_line_or_a_log(up, home):
    secrets = json.loads((home / "credentials.json").read_text()).values()
    spoken = [" ".join(child.cmdline()) for child in up.descendants()]
    spoken += [log.read_text(errors="replace") for log in (home / "logs").iterdir()]
    assert not [text for text in spoken for secret in secrets if secret in text]


def test_a_second_start_on_the_same_home_is_told_who_has_it(up, home):
    done = run(SLUICE, "up", "--home", str(home), "--port", str(free_port()))
    assert done.returncode == 1
    assert f"in use by process {up.pid}" in done.stderr


def test_a_second_installation_on_the_same_port_is_told_who_has_it(up, tmp_path):
    port = re.search(r"http://127\.0\.0\.1:(\d+)/v1", up.text).group(1)
    done = run(SLUICE, "up", "--home", str(tmp_path / "other"), "--port", port)
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken by process" in done.stderr


@pytest.mark.parametrize("part", ["gateway serve", "redis-server"])
def test_a_part_that_is_killed_comes_back_and_requests_go_on(up, part):
    up.child(part).kill()
    up.wait_until("told of it", lambda: "was killed by SIGKILL" in up.text.rpartition(LAST_LINE)[2], 20)
    up.wait_until("serving again", lambda: _is_answered(up), 60)


def _is_answered(up) -> bool:
    try:
        return "usage" in answered(up)
    except ValueError:  # curl printed nothing: not listening yet
        return False


def test_the_interrupt_stops_everything(up):
    started = up.descendants()
    os.killpg(up.pid, signal.SIGINT)  # what Ctrl-C does: the whole foreground group gets it

    assert up.wait() == 0
    assert "Stopped." in up.text
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


def test_the_next_start_finds_what_was_there(up, home):
    key = up.key
    before = _requests(home, ["--from", "2020-01-01", "--to", "2100-01-01"])
    up.start()

    assert up.key == key
    assert answered(up)["usage"]["completion_tokens"] > 0
    up.wait_until("shipped", lambda: _requests(home, ["--from", "2020-01-01", "--to", "2100-01-01"]) == before + 2, 30)


def test_nothing_outlives_a_killed_supervisor(up):
    started = up.descendants()
    up.kill()

    _, alive = psutil.wait_procs(started, timeout=STOP_S_MAX)
    assert not alive
