"""Each thing that stands in the way of a start is one sentence that names it and says what to do."""

import os
import socket
import stat

import pytest

from gateway.commands.local import preflight as checks
from gateway.commands.local.home import Place, held, load_or_make_credentials, load_place, make_home, save_place
from gateway.commands.local.listening import choose_port
from gateway.commands.local.preflight import Plan, preflight
from gateway.errors import InvalidInput


def plan(home, **changes):
    usual = {"home": home, "host": "127.0.0.1", "port": choose_port(None), "model": "tiny", "workers": 1}
    return Plan(**{**usual, **changes})


def refusal(plan):
    with pytest.raises(InvalidInput) as refused:
        preflight(plan)
    return str(refused.value)


def test_a_taken_port_names_its_process_and_the_next_port(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        message = refusal(plan(tmp_path, port=port))

    assert f"Port {port} on 127.0.0.1 is taken by process {os.getpid()}" in message
    assert f"--port {port + 1}" in message


def test_an_address_of_another_machine_is_refused(tmp_path):
    assert "Cannot listen on 192.0.2.1" in refusal(plan(tmp_path, host="192.0.2.1"))


@pytest.mark.vllm
def test_more_workers_than_memory_names_how_many_fit(tmp_path):
    message = refusal(plan(tmp_path, workers=10_000))

    assert "10000 worker(s) of 'tiny' need 30000.0 GiB of memory" in message
    assert "--workers " in message


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "has no config.json" in refusal(plan(tmp_path, model=str(tmp_path)))


@pytest.mark.parametrize("model", ["Qwen", "tinny", "a/b/c", "what is this"])
def test_a_name_that_cannot_be_a_model_is_refused(tmp_path, model):
    assert "nor a ModelScope id" in refusal(plan(tmp_path, model=model))


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = refusal(plan(tmp_path, port=server.getsockname()[1], model="tinny")).splitlines()

    assert len([line for line in lines if line.startswith(("Port", "The model"))]) == 2


def test_weights_count_towards_the_memory_needed(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    assert checks.weights_bytes(str(tmp_path)) == 1000


def test_a_home_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="--home"):
        make_home(tmp_path / "file" / "home")


def test_a_home_is_held_once_and_the_second_is_told_by_whom(tmp_path):
    make_home(tmp_path)
    with held(tmp_path), pytest.raises(InvalidInput, match=f"in use by process {os.getpid()}"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_secrets_are_made_once_and_private(tmp_path):
    first = load_or_make_credentials(tmp_path)

    assert load_or_make_credentials(tmp_path) == first
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert first.api_key not in repr(first)
    assert first.admin_token not in repr(first)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"surprise": 1}'])
def test_a_damaged_credentials_file_is_not_overwritten(tmp_path, text):
    (tmp_path / "credentials.json").write_text(text)
    with pytest.raises(InvalidInput, match="Move it away"):
        load_or_make_credentials(tmp_path)
    assert (tmp_path / "credentials.json").read_text() == text


def test_other_verbs_find_where_it_listens(tmp_path):
    assert load_place(tmp_path) is None
    place = Place(pid=1, host="0.0.0.0", port=8080, redis_port=None, model="tiny")
    save_place(tmp_path, place)

    assert load_place(tmp_path) == place
    assert place.url == "http://127.0.0.1:8080"
