"""
Prefix affinity: which workers may have the beginning of a prompt in their caches, known without any shared state.

Two things tell. A conversation has *homes*: the workers that consistent hashing gives for it, the same at every
gateway, so that its turns meet again whatever gateway they come through. And a gateway remembers what it sent where.
What a home holds of a prompt that this gateway has not sent there is not known; it is trusted to hold a part of it, the
more the earlier its choice. That trust is fixed, and not learnt from what engines report: the less homes are trusted,
the more requests are scattered, and the less homes hold (tried on Mooncake's conversation trace: learnt trust falls to
0.2, and the mean TTFT is 12 % longer).

The homes are found on a ring of one point a worker by several probes (Appleton and O'Reilly, "Multi-probe consistent
hashing", 2015), in O(log workers). No clock and no I/O: times are seconds of any clock that only goes forward.
"""

import hashlib
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

PROBES = 8  # for each home: of 100 workers the busiest is first choice for 1.2 times the mean; with one probe, 8 times
HOLDERS_MAX = 4  # workers remembered for one beginning: more would all be as good
TTL_S = 900.0  # an engine's cache has moved on by then
ENTRIES_PER_WORKER = 60  # beginnings remembered, some 500 bytes each: 3 MB for 100 workers
ENTRIES_MIN = 2000
TRUST = (0.5, 0.2, 0.1)  # the part of a prompt that its homes are trusted to hold, first choice first
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Chain:
    """
    The beginnings of a prompt that a cache may hold, shortest first: of each a hash, and its length in *tokens*.

    The hash of a beginning covers all of it. *key* is the same for all turns of one conversation.
    """

    key: int
    hashes: tuple[int, ...]
    tokens: tuple[int, ...]


class Ring:
    """Workers around a circle; a key's homes are the first workers behind the places that it hashes to."""

    __slots__ = ("_points", "_workers")

    def __init__(self) -> None:
        self._points: list[int] = []
        self._workers: dict[int, str] = {}

    def put(self, worker: str) -> None:
        """Take a worker in; one that is there already is fine."""
        point = _point(worker)
        if point not in self._workers:
            insort(self._points, point)
            self._workers[point] = worker

    def drop(self, worker: str) -> None:
        """Take a worker out; unknown ones are fine. Keys of other homes keep theirs."""
        point = _point(worker)
        if self._workers.pop(point, None):
            del self._points[bisect_left(self._points, point)]

    def homes(self, key: int, count: int = len(TRUST)) -> list[str]:
        """Give up to *count* workers for *key*, the first its first choice; two choices may fall on one worker."""
        homes: dict[str, None] = {}
        for choice in range(count if self._points else 0):
            homes[self._nearest(key, range(choice * PROBES, (choice + 1) * PROBES))] = None
        return list(homes)

    def _nearest(self, key: int, probes: range) -> str:
        """Give the worker that is the nearest behind any of a key's places."""
        points = self._points
        places = [mix(key, probe) for probe in probes]
        behind = [points[bisect_left(points, place) % len(points)] for place in places]
        _, point = min(((point - place) & _MASK, point) for place, point in zip(places, behind, strict=True))
        return self._workers[point]

    def __len__(self) -> int:
        return len(self._points)


class SentPrefixes:
    """What this gateway sent where: beginnings of prompts and their workers, the most recently used ones."""

    __slots__ = ("_entries", "_entries_max", "_ttl_s")

    def __init__(self, entries_max: int = ENTRIES_MIN, ttl_s: float = TTL_S) -> None:
        self._entries: OrderedDict[int, dict[str, float]] = OrderedDict()
        self._entries_max = entries_max
        self._ttl_s = ttl_s

    def resize(self, workers: int) -> None:
        """Bound the memory by the number of workers."""
        self._entries_max = max(ENTRIES_MIN, ENTRIES_PER_WORKER * workers)

    def note(self, chain: Chain, worker: str, now_s: float) -> None:
        """Remember that *worker* was sent a prompt that begins so."""
        for beginning in chain.hashes:
            holders = self._entries.setdefault(beginning, {})
            holders.pop(worker, None)
            holders[worker] = now_s
            if len(holders) > HOLDERS_MAX:
                del holders[next(iter(holders))]
            self._entries.move_to_end(beginning)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def held(self, chain: Chain, now_s: float) -> dict[str, int]:
        """Give the workers that were sent a prompt with a beginning in common, and its length in tokens."""
        held: dict[str, int] = {}
        for beginning, length in zip(reversed(chain.hashes), reversed(chain.tokens), strict=True):
            for worker, sent_s in self._entries.get(beginning, _NOBODY).items():
                if worker not in held and now_s - sent_s <= self._ttl_s:
                    held[worker] = length
            if len(held) >= HOLDERS_MAX:
                break
        return held

    def __len__(self) -> int:
        return len(self._entries)


_NOBODY: Mapping[str, float] = {}


@dataclass(slots=True)
class Affinity:
    """One gateway's knowledge of one pool's prefix caches."""

    ring: Ring = field(default_factory=Ring)
    sent: SentPrefixes = field(default_factory=SentPrefixes)

    def put(self, worker: str) -> None:
        """Take a worker in."""
        self.ring.put(worker)
        self.sent.resize(len(self.ring))

    def candidates(self, chain: Chain, prompt_tokens: int, now_s: float) -> dict[str, float]:
        """Give the workers that may have a beginning of the prompt, and how many tokens of it each is expected to."""
        expected: dict[str, float] = dict(self.sent.held(chain, now_s))
        for home, trust in zip(self.ring.homes(chain.key), TRUST, strict=False):
            expected[home] = max(expected.get(home, 0.0), trust * prompt_tokens)
        return expected

    def note(self, chain: Chain, worker: str, now_s: float) -> None:
        """Remember that *worker* is sent this prompt."""
        self.sent.note(chain, worker, now_s)


def expected_work(outstanding_tokens: float, uncached_tokens: float) -> float:
    """
    Give what a request's first token waits for, in prompt tokens to prefill: those before it, and its own twice.

    Its own count twice because they make the next ones wait as well.
    """
    return outstanding_tokens + 2 * uncached_tokens


def extend(before: int, part: bytes) -> int:
    """Give the hash of a beginning that is longer by *part* than one of hash *before*."""
    digest = hashlib.blake2b(part, digest_size=8, key=before.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def mix(key: int, number: int) -> int:
    """Mix two numbers into 64 evenly spread bits (the finaliser of splitmix64: Steele, Lea and Flood, 2014)."""
    mixed = (key + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def _point(worker: str) -> int:
    return extend(0, worker.encode())
