"""
Three vLLM workers and talk that grows: how much of the prompts they find in their caches, and what that is worth.

The tiny Qwen3 on the CPU backend, whose KV block is 128 tokens. All conversations begin with one short system prompt,
each turn adds some two blocks, and the turns of many are mixed. The same talk, each time of other people, meets one
worker alone, which has all the cache there can be, and three workers under `sluice` and under `round_robin`.
"""

import asyncio
import json
import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.routing import Talk, contents, stream
from tests.servers.installation import Installation
from workers.hub.tiny import make_tiny

WORKERS = 3
CONVERSATIONS, TURNS, AT_ONCE = 60, 4, 6
SYSTEM = "You know rivers, their gates and their locks. Answer briefly, and say so when you do not know."
START_S_MAX = 400


def measure_real(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives its figures."""
    model = str(make_tiny(folder / "tiny"))
    options = ("--model", model, "--max-model-len", "2048", "--max-num-seqs", "16", "--threads", "1")
    installation = Installation(folder / "home")
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        stack.callback(installation.close)
        gateway = installation.add_gateway()
        key = installation.declare()
        installation.add_worker("vllm", *options).wait_ready(START_S_MAX)
        figures |= _figures("one_worker", *_talk(gateway.url, key, "one"))
        for _ in range(WORKERS - 1):
            installation.add_worker("vllm", *options)
        for worker in installation.workers:
            worker.wait_ready(START_S_MAX)
        for policy in ("sluice", "round_robin"):
            gateway.kill()
            gateway.environ["SLUICE_UPSTREAM__ROUTING"] = policy
            gateway.start()
            gateway.wait_until("hearing its workers", lambda: len(gateway.ready_workers()) == WORKERS, START_S_MAX)
            figures |= _figures(policy, *_talk(gateway.url, key, policy))
    share, alone, robin = (figures[f"{name}_cached_percent"] for name in ("sluice", "one_worker", "round_robin"))
    return figures | {"share_of_one_worker_percent": 100 * share / alone, "times_round_robin": share / robin}


def _figures(name: str, talk: Talk, took_s: float) -> dict[str, float]:
    return {
        f"{name}_cached_percent": 100 * talk.cached_tokens / talk.prompt_tokens,
        f"{name}_prompt_tokens": talk.prompt_tokens / len(talk.ttft_s),
        f"{name}_rps": len(talk.ttft_s) / took_s,
        f"{name}_ttft_p50_s": statistics.median(talk.ttft_s),
        f"{name}_ttft_p99_s": talk.p99_s,
    }


def _talk(url: str, key: str, seed: str) -> tuple[Talk, float]:
    began = time.perf_counter()
    talk = asyncio.run(_all_talk(url, key, seed))
    return talk, time.perf_counter() - began


async def _all_talk(url: str, key: str, seed: str) -> Talk:
    """Let AT_ONCE clients carry the conversations on, turn by turn, in an order that the dice give."""
    dice, talk = random.Random(seed), Talk()
    conversations = [_first(f"{seed} {number}", dice) for number in range(CONVERSATIONS)]
    for _ in range(TURNS):
        dice.shuffle(conversations)
        waiting = iter(conversations)

        async def client(those=waiting) -> None:
            for messages in those:
                await _turn(url, key, messages, talk, dice)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return talk


def _first(name: str, dice: random.Random) -> list[dict]:
    system = {"role": "system", "content": SYSTEM}
    return [system, {"role": "user", "content": f"{name} {dice.random()} {_words(dice, 130)}"}]


async def _turn(url: str, key: str, messages: list[dict], talk: Talk, dice: random.Random) -> None:
    body = {"model": "tiny", "messages": messages, "max_tokens": 16, "temperature": 0, "stream": True}
    answer = await stream(url, key, body, talk)
    messages.append({"role": "assistant", "content": "".join(contents(answer))})
    messages.append({"role": "user", "content": _words(dice, 130)})


def _words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choice(["river", "gate", "water", "lock", "weir", "boat"]) for _ in range(count))


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        print(json.dumps(measure_real(Path(temporary)), indent=2))
