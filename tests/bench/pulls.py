"""
Pullers that are killed, on a hub that cuts, fails and lies: one copy, right bytes, no lock that stays.

Not part of `make bench`: `python -m tests.bench.pulls [ROUNDS]`. In each round several processes want one model at
once, as the ranks and workers of a host do; at random moments one of them is killed with SIGKILL and started again,
while the hub cuts connections at random bytes, answers 429 and 503, and sends wrong bytes. The round ends when every
process has the model; then every byte is compared, and the locks and the leftovers are looked at.
"""

import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.servers.hub_server import running_hub
from workers.hub.checking import problems, walk
from workers.hub.client import Hub
from workers.hub.lock import current_owner
from workers.hub.pull import ask
from workers.hub.store import ModelStore

PULLERS = 4
SHARDS, SHARD_BYTES = 6, 2_000_000
KILLS = 5  # in a round
ROUND_S_MAX = 300


def model_of(rng: random.Random) -> dict[str, bytes]:
    shards = {f"model-{number}.safetensors": rng.randbytes(SHARD_BYTES) for number in range(SHARDS)}
    return {"config.json": b"{}", "tokenizer.json": rng.randbytes(3000), **shards}


def puller(store: ModelStore, model: str, url: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.hub.pull"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdin.write(ask(model, None, store.root, Hub(url)) + "\n")
    process.stdin.close()
    process.stdin = None
    return process


def make_trouble(hub, rng: random.Random, files: dict[str, bytes]) -> None:
    hub.faults.cuts = [rng.randrange(1, SHARD_BYTES) for _ in range(rng.randrange(20))]
    hub.faults.file = [rng.choice([(503, {}), (429, {"Retry-After": "1"}), (500, {})]) for _ in range(rng.randrange(4))]
    hub.faults.wrong = rng.sample(sorted(name for name in files if name.startswith("model")), rng.randrange(2))
    hub.faults.chunk_s = 0.002


def play(number: int, rng: random.Random, folder: Path) -> dict[str, float]:
    """Play one round; raises AssertionError if anything is not as it must be."""
    store, model = ModelStore(folder / "store"), f"Qwen/Round-{number}"
    files = model_of(rng)
    with running_hub() as hub:
        commit = hub.put(model, files)
        make_trouble(hub, rng, files)
        begun = time.monotonic()
        running = [puller(store, model, hub.url) for _ in range(PULLERS)]
        kills = 0
        while any(process.poll() is None for process in running):
            assert time.monotonic() - begun < ROUND_S_MAX, "pullers are stuck"
            time.sleep(rng.uniform(0.2, 2.0))
            alive = [place for place, process in enumerate(running) if process.poll() is None]
            if kills < KILLS and alive:
                place = rng.choice(alive)
                running[place].kill()
                running[place].communicate()
                running[place] = puller(store, model, hub.url)
                kills += 1
        answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
        seconds = time.monotonic() - begun
        check(store, model, commit, files, answers)
        sent = sum(hub.sent.values()) / sum(map(len, files.values()))
        return {"seconds": seconds, "kills": kills, "cuts": len(hub.cut_lengths), "sent_per_byte": sent}


def check(store: ModelStore, model: str, commit: str, files: dict[str, bytes], answers: list[dict]) -> None:
    assert answers == [{"path": str(store.folder(model, commit))}] * PULLERS, answers
    [stored] = [stored for stored in store.models() if stored.manifest.id == model]
    assert problems(stored.folder, stored.manifest.files) == {}
    hashes = {file.path: file.sha256 for file in stored.manifest.files}
    assert hashes == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert current_owner(store.locks(model, commit)) is None
    assert not list(walk(store.root / ".partial")), "parts were left"


def measure(folder: Path, rounds: int = 10, seed: int = 20) -> dict[str, float]:
    """Play *rounds*; give their figures, medians where they are of a round."""
    rng = random.Random(seed)
    played = [play(number, rng, folder) for number in range(rounds)]
    return {
        "rounds": rounds,
        "kills": sum(one["kills"] for one in played),
        "cuts": sum(one["cuts"] for one in played),
        "seconds": statistics.median(one["seconds"] for one in played),
        "sent_per_byte": statistics.median(one["sent_per_byte"] for one in played),
        "sent_per_byte_max": max(one["sent_per_byte"] for one in played),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, value in measure(Path(scratch), int(sys.argv[1]) if len(sys.argv) > 1 else 10).items():
            print(f"{name:20} {value:10.2f}")
