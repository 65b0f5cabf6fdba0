"""
Routing: what a decision costs, and what it makes of eight workers whose caches would each hold an eighth of the talk.

*Decisions*: CPU of choosing a worker for a conversation's next turn and of remembering it, with a full memory.

*Eight workers*: 64 people talk through one gateway to simulated engines that take half a second for 1,000 prompt tokens
and have a KV cache of 40,960 each; their conversations have some 150,000 together. They come as a Poisson stream. The
rate under `round_robin` is fixed; those under `sluice` are multiples of it, and what counts is the largest whose p99 of
the time to the first token is no longer than round robin's. Then once more at the first of these, each turn through any
of four gateways, which share a Redis.

`python -m tests.bench.routing` runs it alone, `python -m tests.bench.routing_real` talks to three vLLM workers.
"""

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.core.affinity import Chain
from gateway.core.chain import chat_chain
from gateway.core.policies import Ask
from gateway.core.roster import WorkerState
from gateway.core.router import Router
from gateway.core.routing import PoolViews, WorkerView
from gateway.core.sse import last_usage
from gateway.serve.wire import ConnectionPool
from tests.bench.load import TIMEOUT_S, request_bytes
from tests.servers.installation import GatewayServer, Installation
from tests.servers.redis_server import RedisServer

RUNS = 1
DECISIONS = 3000
WORKERS, GATEWAYS = 8, 4
RATE_RPS = 6.0  # of round robin: two thirds of what eight workers could do with the few hits that it has
FACTORS = (2.0, 2.5, 3.0)
WARM_S, MEASURED_S = 20.0, 40.0
PEOPLE = 64
TURNS = 8
ENGINE = (
    "--max-model-len=8192",
    "--max-num-seqs=32",
    "--max-num-batched-tokens=4096",
    "--engine-arg=--prefill-tokens-per-s=2000",
    "--engine-arg=--inter-token-ms=10",
    "--engine-arg=--cache-blocks=320",
)


def measure(folder: Path) -> dict[str, float]:
    """Run the benchmark; gives its figures."""
    figures = {f"decision_us_at_{size}": decision_us(size) for size in (100, 12_500)}
    figures["chain_us"] = chain_us()
    figures |= asyncio.run(_eight_workers(folder))
    return figures | {f"{name}_range": 0.0 for name in figures}


# Decisions.


def decision_us(size: int) -> float:
    """Give the CPU of one decision among *size* workers, the median in µs."""
    dice = random.Random(1)
    pool = PoolViews(_view(number, dice) for number in range(size))
    router = Router(dice=dice)
    talks = [_chain(number, 12) for number in range(2000)]
    spent = []
    for number in range(DECISIONS):
        ask = Ask(model="m", work=2000, prompt_tokens=1500, chain=dice.choice(talks))
        began = time.thread_time_ns()
        choice = router.choose(ask, pool, number * 0.01)
        assert choice.worker, "a free pool has a worker for everybody"
        router.note(ask, choice.worker.id, number * 0.01)
        spent.append((time.thread_time_ns() - began) / 1000)
    return statistics.median(spent)


def chain_us() -> float:
    """Give the CPU of the chain of a conversation of twelve messages and 4 kB, in µs."""
    body = {"model": "m", "messages": [{"role": "user", "content": "river " * 55} for _ in range(12)]}
    began = time.thread_time_ns()
    for _ in range(DECISIONS):
        chat_chain("acme", body)
    return (time.thread_time_ns() - began) / 1000 / DECISIONS


def _view(number: int, dice: random.Random) -> WorkerView:
    view = WorkerView(id=f"w{number}", pool="p", models=frozenset({"m"}), url="http://w", state=WorkerState.READY)
    used, prefill = dice.randrange(32), dice.randrange(8192)
    return replace(view, max_seqs=64, credit_seqs=64, in_flight=used, prefill_tokens=prefill, prefill_tokens_per_s=8e3)


def _chain(number: int, messages: int) -> Chain:
    talk = [{"role": "user", "content": f"{number} {place} " + "river " * 55} for place in range(messages)]
    return chat_chain("acme", {"model": "m", "messages": talk})


# Eight workers.


@dataclass
class Talk:
    """What one stretch of talk came to."""

    ttft_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.ttft_s, n=100)[-1]


async def _eight_workers(folder: Path) -> dict[str, float]:
    (folder / "redis").mkdir(parents=True)
    redis = RedisServer(folder / "redis")
    redis.start()
    installation = Installation(folder / "home", redis_url=redis.url, SLUICE_UPSTREAM__ROUTING="round_robin")
    try:
        for _ in range(GATEWAYS):
            installation.add_gateway()
        key = installation.declare()
        for _ in range(WORKERS):
            installation.add_worker("sim", *ENGINE)
        for worker in installation.workers:
            worker.wait_ready(120)
        return await _compare(installation.gateways, key)
    finally:
        installation.close()
        redis.kill()


async def _compare(gateways: list[GatewayServer], key: str) -> dict[str, float]:
    one, *_ = any_of_them = [gateway.url for gateway in gateways]
    robin = await talk([one], key, RATE_RPS, seed="robin")
    for gateway in gateways:
        _route(gateway, "sluice")
    figures = _figures("round_robin", RATE_RPS, robin) | {"times_as_many_at_equal_p99": 0.0}
    for factor in FACTORS:
        ours = await talk([one], key, factor * RATE_RPS, seed=f"sluice {factor}")
        figures |= _figures(f"sluice_{factor:g}x", factor * RATE_RPS, ours)
        if ours.p99_s > robin.p99_s:
            break
        figures["times_as_many_at_equal_p99"] = factor
    rate_rps = FACTORS[0] * RATE_RPS
    return figures | _figures("sluice_any_gateway", rate_rps, await talk(any_of_them, key, rate_rps, seed="any"))


def _route(gateway: GatewayServer, policy: str) -> None:
    gateway.kill()
    gateway.environ["SLUICE_UPSTREAM__ROUTING"] = policy
    gateway.start()
    gateway.wait_until("hearing its workers", lambda: len(gateway.ready_workers()) == WORKERS, 60)


def _figures(name: str, rate_rps: float, talk: Talk) -> dict[str, float]:
    return {
        f"{name}_rps": rate_rps,
        f"{name}_ttft_p50_s": statistics.median(talk.ttft_s),
        f"{name}_ttft_p99_s": talk.p99_s,
        f"{name}_cached_percent": 100 * talk.cached_tokens / talk.prompt_tokens,
    }


async def talk(urls: list[str], key: str, rate_rps: float, seed: str) -> Talk:
    """
    Let people talk at *rate_rps* for WARM_S and then MEASURED_S, each turn at any of *urls*.

    Whoever has had TURNS turns begins anew.

    At first nobody's prompt is cached, which is more work than eight workers do at that rate: until it is measured,
    people wait for somebody to be free to ask.
    """
    dice = random.Random(seed)
    people = [_Person(f"{seed} {number}", dice) for number in range(PEOPLE)]
    done, asking = Talk(), []
    began = time.perf_counter()
    while (at_s := time.perf_counter() - began) < WARM_S + MEASURED_S:
        idle = [person for person in people if not person.is_busy]
        if not idle and at_s < WARM_S:
            await asyncio.sleep(0.01)
            continue
        assert idle, "nobody is left to ask: the workers cannot keep up with this rate at all"
        ask = dice.choice(idle).ask(dice.choice(urls), key, done if at_s > WARM_S else Talk())
        asking.append(asyncio.create_task(ask))
        await asyncio.sleep(dice.expovariate(rate_rps))
    await asyncio.gather(*asking)
    return done


class _Person:
    """Somebody who talks: a common system prompt, a long first message, and some more with each turn."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self._name, self._dice = name, dice
        self.is_busy = False
        self._begin()

    def _begin(self) -> None:
        system = {"role": "system", "content": "You know rivers. " * 40}
        first = {"role": "user", "content": f"{self._name} {self._dice.random()} " + "water " * 1800}
        self._messages = [system, first]
        self._turns = self._dice.randint(0, TURNS - 1) if not hasattr(self, "_turns") else 0

    async def ask(self, url: str, key: str, into: Talk) -> None:
        """Ask the next question and take the answer into the talk."""
        self.is_busy = True
        if self._turns >= TURNS:
            self._begin()
        body = {"model": "tiny", "messages": self._messages, "max_tokens": 16, "ignore_eos": True, "stream": True}
        answer = await stream(url, key, body, into)
        self._messages += [
            {"role": "assistant", "content": "".join(contents(answer))},
            {"role": "user", "content": "and then " + "gate " * self._dice.randint(20, 120)},
        ]
        self._turns += 1
        self.is_busy = False


def contents(answer: bytes) -> list[str]:
    """Give the texts of a stream's chunks."""
    events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    return [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]


async def stream(url: str, key: str, body: dict, into: Talk) -> bytes:
    """Ask for a stream and give all of its bytes; the time to its first content and its usage go *into* a talk."""
    data = request_bytes(url, key, body | {"stream_options": {"include_usage": True}})
    pool = ConnectionPool(connect_timeout_s=10, keep_alive_s=60)
    began, first_s, answer = time.perf_counter(), None, b""
    connection = await pool.connect(url)
    try:
        connection.send(data)
        assert await connection.head(TIMEOUT_S) == 200, await connection.read(TIMEOUT_S)
        while part := await connection.read(TIMEOUT_S):
            answer += part
            if first_s is None and b'"content":"' in answer.replace(b'"content":""', b""):
                first_s = time.perf_counter() - began
    finally:
        connection.close()
    usage = last_usage(answer)
    assert first_s is not None, "a stream has content"
    assert usage is not None, "a stream has its usage"
    into.ttft_s.append(first_s)
    into.prompt_tokens += usage.prompt
    into.cached_tokens += usage.cached
    return answer


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        print(json.dumps(measure(Path(temporary)), indent=2))
