"""`sluice models` as a shell runs it."""

import json
import os

import pytest
from typer.testing import CliRunner

from gateway.cli import app
from gateway.errors import SluiceError
from tests.hub.conftest import MODEL
from tests.servers.hub_server import small_model
from workers.hub.lock import held


@pytest.fixture
def sluice(tmp_path, hub, monkeypatch):
    """Run a verb with the hub and a store of the test's own; gives its output, raises an error of ours as it is."""
    monkeypatch.setenv("SLUICE_HUB__ENDPOINT", hub.url)
    monkeypatch.setenv("SLUICE_HUB__DIR", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["models", *arguments])
        if isinstance(done.exception, SluiceError):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.stdout

    return run


@pytest.fixture
def sluice_json(sluice):
    return lambda *arguments, code=0: json.loads(sluice(*arguments, "--format", "json", code=code))


def test_a_model_is_pulled_listed_verified_carried_elsewhere_and_removed(
    hub, sluice, sluice_json, store, tmp_path, monkeypatch
):
    commit = hub.put(MODEL, small_model(megabytes=0.2))
    pulled = sluice_json("pull", MODEL)
    assert (pulled["model"], pulled["commit"], pulled["revision"]) == (MODEL, commit, "master")
    assert sluice_json("list", "--on-disk") == [pulled]
    assert commit in sluice("list", "--on-disk")
    assert sluice_json("verify")[0]["is_right"]
    sluice("export", MODEL, "model.tar")
    assert not (tmp_path / ".model.tar.partial").exists()
    monkeypatch.setenv("SLUICE_HUB__DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("SLUICE_HUB__ENDPOINT", "http://127.0.0.1:9")
    imported = sluice_json("import", "model.tar")
    assert {**imported, "path": ""} == {**pulled, "path": ""}
    weights = tmp_path / "elsewhere" / MODEL / commit / "model-00001-of-00002.safetensors"
    weights.write_bytes(bytes(100_000))
    assert "has other bytes" in sluice_json("verify", MODEL, code=1)[0]["problem"]
    sluice("remove", MODEL)
    assert sluice_json("list", "--on-disk") == []
    with pytest.raises(SluiceError, match=r"Qwen/Qwen3-Test is not in .*; there is none of it.*sluice models pull"):
        sluice("verify", MODEL)


def test_a_folder_is_imported_under_the_name_it_is_given(sluice, sluice_json, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(SluiceError, match="Name one: --id owner/name"):
        sluice("import", "mine")
    imported = sluice_json("import", "mine", "--id", "acme/support-7b")
    assert imported["commit"].startswith("local-")
    assert sluice_json("show", "acme/support-7b")["on_disk"] == [imported]


def test_a_model_that_is_being_downloaded_is_not_removed(hub, sluice, store):
    commit = hub.put(MODEL, small_model(megabytes=0.2))
    sluice("pull", MODEL)
    with (
        held(store.locks(MODEL, commit), lambda _owner: None),
        pytest.raises(SluiceError, match=rf"in use by process {os.getpid()}"),
    ):
        sluice("remove", MODEL)


def test_what_a_broken_download_left_is_removed_too(hub, sluice, store, tmp_path):
    parts = store.partial(MODEL, "c" * 40)
    parts.mkdir(parents=True)
    (parts / "model.safetensors.incomplete").write_bytes(bytes(2_000_000))
    (store.root / ".partial" / ".removed-1").mkdir()
    assert "2.0 MB that downloads of Qwen/Qwen3-Test had left" in sluice("remove", MODEL)
    assert list((store.root / ".partial").iterdir()) == []


def test_errors_are_one_sentence_each(sluice, tmp_path):
    with pytest.raises(SluiceError, match=r"has no Qwen/Nothing at revision master \(404\)"):
        sluice("pull", "Qwen/Nothing")
    with pytest.raises(SluiceError, match="'nonsense' is not a ModelScope id"):
        sluice("pull", "nonsense")
    with pytest.raises(SluiceError, match=r"missing\.tar cannot be read"):
        sluice("import", "missing.tar")
    with pytest.raises(SluiceError, match="neither in the catalogue nor on this disk"):
        sluice("show", "Qwen/Nothing")
    with pytest.raises(SluiceError, match="Known are B200"):
        sluice("fit", "--gpu", "Abacus:8")


def test_the_catalogue_is_listed_and_fitted(sluice, sluice_json):
    listed = sluice_json("list", "--catalogue")
    assert {"Qwen/Qwen3-8B", "Qwen/Qwen-Image"} <= {row["model"] for row in listed}
    assert "Qwen/Qwen3-235B-A22B-FP8" in sluice("list", "--catalogue")
    [row] = sluice_json("fit", "--gpu", "H200:8", "--model", "Qwen/Qwen3-235B-A22B-FP8", "--context", "32768")
    assert (row["tensor"], row["stages"], row["copies"], row["is_fitting"]) == (2, 1, 4, True)
    shown = sluice("fit", "--gpu", "H200:8", "--model", "Qwen/Qwen3-235B-A22B-FP8")
    assert "sluice worker --model Qwen/Qwen3-235B-A22B-FP8 " in shown
    assert "--tensor-parallel-size=2" in shown
    assert len(sluice_json("fit", "--gpu", "L4:1")) > 100
    sluice("fit", "--gpu", "L4:1", "--model", "Qwen/Qwen3-235B-A22B", code=1)
    assert "TP1 × PP1" in sluice("show", "Qwen/Qwen3-8B")
