"""Pulling a model with the real SDK from a hub that has faults."""

import random

import pytest

from tests.hub.conftest import MODEL
from tests.servers.hub_server import small_model
from workers.errors import WorkerError
from workers.hub.checking import problems, walk
from workers.hub.manifest import MANIFEST_FILE


def contents(stored):
    return {file.path: (stored.folder / file.path).read_bytes() for file in stored.manifest.files}


def test_a_pull_brings_every_byte_and_records_the_commit(hub, puller):
    files = small_model()
    commit = hub.put(MODEL, files)
    stored = puller.fetch()
    assert contents(stored) == files
    assert stored.manifest.pin == stored.folder.name == commit
    assert stored.manifest.is_pinned
    assert stored.manifest.source == hub.url
    assert {path.name for path in walk(stored.folder)} >= {MANIFEST_FILE, "empty.txt"}
    assert not list((puller.store.root / ".partial").iterdir())


def test_what_is_on_disk_is_used_without_asking_the_hub(hub, puller):
    hub.put(MODEL, small_model())
    stored = puller.fetch()
    hub.put(MODEL, small_model(seed=2))
    asked = len(hub.asked)
    assert puller.ensure() == stored
    assert len(hub.asked) == asked


def test_a_second_pull_follows_the_branch_and_leaves_the_first_commit(hub, puller):
    first, second = hub.put(MODEL, small_model()), None
    puller.fetch()
    second = hub.put(MODEL, small_model(seed=2))
    assert puller.fetch().manifest.pin == second
    assert puller.ensure().manifest.pin == second
    assert puller.ensure(revision=first).manifest.pin == first
    assert [model.manifest.pin for model in puller.store.models()] == sorted([first, second])


def test_a_commit_and_a_tag_are_pulled_as_such(hub, puller):
    old = hub.put(MODEL, small_model(), branch="v1.0")
    hub.put(MODEL, small_model(seed=2))
    assert puller.fetch(revision="v1.0").manifest.pin == old
    assert puller.fetch(revision=old).manifest.revision == "v1.0"  # it was there already


def test_a_hub_that_names_no_commit_is_pinned_by_its_files(hub, puller):
    hub.faults.tells_commit = False
    hub.put(MODEL, small_model())
    stored = puller.fetch()
    assert stored.manifest.pin.startswith("master-")
    assert not stored.manifest.is_pinned
    assert puller.ensure() == stored


def test_hashes_are_computed_where_the_hub_does_not_tell_them(hub, puller):
    hub.faults.tells_hashes = False
    files = small_model()
    hub.put(MODEL, files)
    stored = puller.fetch()
    assert contents(stored) == files
    assert problems(stored.folder, stored.manifest.files) == {}


def test_connections_cut_at_random_bytes_are_taken_up_where_they_broke(hub, puller):
    files = small_model(megabytes=1)
    rng = random.Random(7)
    hub.faults.cuts = [rng.randrange(1, 200_000) for _ in range(12)]
    hub.put(MODEL, files)
    assert contents(puller.fetch()) == files
    assert len(hub.cut_lengths) == 12
    assert sum(hub.sent.values()) < 1.5 * sum(map(len, files.values()))  # resumed, not begun again


def test_wrong_bytes_are_thrown_away_and_fetched_again(hub, puller):
    files = small_model(megabytes=1)
    hub.faults.wrong = ["model-00002-of-00002.safetensors"]
    hub.put(MODEL, files)
    assert contents(puller.fetch()) == files
    assert hub.sent["model-00002-of-00002.safetensors"] == 2 * 500_000


def test_bytes_that_stay_wrong_are_an_error_and_nothing_is_published(hub, puller):
    hub.faults.wrong = ["model-00002-of-00002.safetensors"] * 20
    hub.put(MODEL, small_model(megabytes=1))
    with pytest.raises(WorkerError, match=r"delivers other bytes .* model-00002"):
        puller.fetch()
    assert list(puller.store.models()) == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((404, {}), r"has no Qwen/Qwen3-Test at revision master \(404\)\. Check the spelling"),
        ((403, {}), r"does not let whoever has no token at Qwen/Qwen3-Test \(403\)\. It is private or gated"),
        ((400, {}), r"refuses Qwen/Qwen3-Test \(400"),
    ],
)
def test_a_refusal_says_what_and_what_to_do(hub, puller, fault, says):
    hub.put(MODEL, small_model())
    hub.faults.listing = [fault]
    with pytest.raises(WorkerError, match=says):
        puller.fetch()


def test_too_many_requests_are_waited_out_for_as_long_as_the_hub_says(hub, puller):
    hub.put(MODEL, small_model(megabytes=1))
    hub.faults.listing = [(429, {"Retry-After": "1"})]
    hub.faults.file = [(429, {"Retry-After": "2"})]
    puller.fetch()
    assert [line for line in puller.said if "429" in line and "1.0 s" in line]
    assert [line for line in puller.said if "429" in line and "2.0 s" in line]
    first, second = hub.asked[0][0], hub.asked[1][0]
    assert second - first >= 1


def test_a_wait_beyond_an_hour_is_left_to_the_caller(hub, puller):
    hub.put(MODEL, small_model())
    hub.faults.listing = [(429, {"Retry-After": "7200"})]
    with pytest.raises(WorkerError, match=r"\(429\)\. Try again in 7200 s"):
        puller.fetch()


def test_a_hub_that_fails_for_a_while_is_tried_again(hub, puller):
    files = small_model(megabytes=1)
    hub.put(MODEL, files)
    hub.faults.listing = [(503, {})]
    hub.faults.file = [(500, {}), (502, {})]
    assert contents(puller.fetch()) == files


def test_a_hub_that_goes_on_failing_is_named(hub, puller):
    hub.put(MODEL, small_model())
    hub.faults.listing = [(503, {})] * 10
    with pytest.raises(WorkerError, match=r"ModelScope fails at Qwen/Qwen3-Test \(503\)"):
        puller.fetch()


def test_the_token_is_sent_and_shown_nowhere(hub, puller):
    hub.faults.token = "ms-very-secret"
    hub.put(MODEL, small_model(megabytes=1))
    with pytest.raises(WorkerError, match=r"it asks for a token \(401\)\. Set SLUICE_HUB__TOKEN") as without:
        puller.fetch()
    with pytest.raises(WorkerError, match="403") as wrong:
        puller.fetch(token="ms-not-this-one")
    stored = puller.fetch(token="ms-very-secret")
    shown = f"{without.value}{wrong.value}{puller.said}{stored}{puller.wish(token='ms-very-secret')}"
    assert "ms-" not in shown
    everything = b"".join(path.read_bytes() for path in walk(puller.store.root))
    assert b"ms-very-secret" not in everything


def test_a_listing_that_would_leave_the_folder_is_refused(hub, puller, tmp_path):
    hub.put(MODEL, {**small_model(), "../../../evil.txt": b"x" * 5000})
    with pytest.raises(WorkerError, match="not one below a model's folder"):
        puller.fetch()
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_damaged_model_is_not_served(hub, puller):
    hub.put(MODEL, small_model())
    stored = puller.fetch()
    (stored.folder / "tokenizer.json").write_bytes(b"short")
    with pytest.raises(WorkerError, match=r"tokenizer\.json has 5 bytes instead of 3000.*models remove"):
        puller.ensure()


def test_no_connection_says_what_to_check_and_what_is_still_served(puller, hub):
    commit = hub.put(MODEL, small_model(megabytes=0.1))
    puller.fetch()
    hub.url = "http://127.0.0.1:9"
    with pytest.raises(
        WorkerError, match=rf"No connection to ModelScope .*HTTPS_PROXY.* on this disk: commit {commit}"
    ):
        puller.fetch()
