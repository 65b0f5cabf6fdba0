"""What `sluice worker --pool` and `sluice up --pool` take from sluice.yaml, and what goes before it."""

from functools import wraps
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gateway.commands.local.declare import declare
from gateway.commands.local.home import Place
from gateway.commands.local.programs import Served, worker_program
from gateway.commands.worker_control import _or_run_an_engine
from gateway.commands.worker_pool import declared_pool, pool_file
from gateway.core.ids import new_secret
from gateway.errors import InvalidInput
from gateway.settings import load_settings
from gateway.stores.database import Database
from gateway.stores.sql_pools import SqlPools
from workers.commands import worker

FILE = """
pools:
  chat:
    model: Qwen/Qwen3-0.6B
    revision: v7
    serves: [chat-small, chat]
    engine_args: [--max-model-len=512, --enforce-eager]
    gpus_per_worker: {tensor: 2, pipeline: 4}
    adapters: {bot: acme/bot}
    drain_s: 7
models:
  plus: {chat: 1}
"""
OF_FILE = {
    "model": "Qwen/Qwen3-0.6B",
    "revision": "v7",
    "served_name": ["chat-small", "chat"],
    "engine_arg": ["--max-model-len=512", "--enforce-eager"],
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 4,
    "adapter": ["bot=acme/bot"],
    "drain_s": 7.0,
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Parse the options of `sluice worker` in a folder with FILE; gives what would be run, and what was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sluice.yaml").write_text(FILE)
    options = {}

    @wraps(worker)
    def run(**given):
        options.update(given)

    app = typer.Typer(invoke_without_command=True)
    app.callback()(_or_run_an_engine(run))

    def started(*arguments, **environ):
        done = CliRunner(env=environ).invoke(app, arguments)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return dict(options), done.stderr

    return started


def test_what_is_not_given_comes_from_the_file(started):
    options, said = started("--pool", "chat")
    assert {name: options[name] for name in OF_FILE} == OF_FILE
    assert "sluice.yaml, pool chat: model Qwen/Qwen3-0.6B" in said


def test_what_is_given_goes_before_the_file(started):
    options, _ = started("--pool", "chat", "--model", "tiny", "--engine-arg=--x", "--drain-s", "120")
    given = {"model": "tiny", "engine_arg": ["--x"], "drain_s": 120.0}
    assert {name: options[name] for name in OF_FILE} == OF_FILE | given


def test_a_worker_of_another_pool_and_one_without_a_pool_take_nothing(started):
    for arguments in (("--pool", "other"), ()):
        options, said = started(*arguments)
        assert (options["model"], options["served_name"], options["drain_s"], said) == ("tiny", None, 120.0, "")


def test_a_worker_needs_no_file(started):
    Path("sluice.yaml").unlink()
    assert started("--pool", "chat")[0]["model"] == "tiny"


def test_the_file_may_lie_elsewhere(started, tmp_path):
    elsewhere = tmp_path / "etc.yaml"
    Path("sluice.yaml").rename(elsewhere)
    assert started("--pool", "chat", SLUICE_CONFIG=str(elsewhere))[0]["model"] == "Qwen/Qwen3-0.6B"


def test_a_file_with_an_error_stops_the_start_and_names_the_line(started):
    Path("sluice.yaml").write_text(FILE.replace("drain_s: 7", "drain_s: soon"))
    with pytest.raises(InvalidInput, match=r"sluice.yaml:10: pools.chat.drain_s: 'soon', must be"):
        started("--pool", "chat")


def test_an_unknown_pool_names_those_there_are(started):
    del started
    with pytest.raises(InvalidInput, match=r"declares no pool 'chatt'. Did you mean chat\? It declares chat."):
        declared_pool(pool_file(), "chatt")


def test_the_workers_of_sluice_up_join_the_declared_pool(started, tmp_path):
    del started
    pool = declared_pool(pool_file(), "chat")
    served = Served(source="/m", name="chat-small", pool=pool, engine_args=pool.engine_args)
    place = Place(pid=1, host="127.0.0.1", port=8080, redis_port=None, model="chat-small")
    argv = worker_program("worker-1", served, place, tmp_path, "t", None).argv
    assert argv[argv.index("--pool") + 1] == "chat"
    assert {"--served-name=chat-small", "--served-name=chat", "--engine-arg=--enforce-eager"} <= set(argv)


def test_sluice_up_applies_the_file(started, tmp_path):
    del started
    settings = load_settings({}, home=tmp_path / "home")
    for _ in range(2):  # a second start changes nothing
        declare(settings, new_secret(), "chat-small", pool_file())
        database = Database(settings.sql_url)
        declared = SqlPools(database).declared()
        database.close()
        assert {model.name for model in declared.models} == {"chat-small", "chat", "bot", "plus"}
        assert declared.number == 1
