"""
Prefix affinity: which workers may have the beginning of a prompt in their caches.

Two things tell. A conversation has *homes*: the workers that consistent hashing gives for it, the same at every
gateway, so that its turns meet again whatever gateway they come through. And a gateway remembers what it sent where;
of the others it hears only of turns that they sent elsewhere than home, where it would not look for them.
What a home holds of a prompt that this gateway has not sent there is not known; it is trusted to hold a part of it, the
more the earlier its choice. That trust is fixed, and not learnt from what engines report: the less homes are trusted,
the more requests are scattered, and the less homes hold (tried on Mooncake's conversation trace: learnt trust falls to
0.2, and the mean TTFT is 12 % longer). A chat tells where its last turn ended. Who did not send that itself trusts the
home with nearly all of it: with half, several gateways draw a conversation to and fro, each of them to a worker that
lacks what the others sent elsewhere. Who sent it knows where it is, and expects homes to hold nothing else.

The homes are found on a ring of a few points a worker by several probes (Appleton and O'Reilly, "Multi-probe consistent
hashing", 2015), in O(log workers). No clock and no I/O: times are seconds of any clock that only goes forward.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

# Of 8 workers the busiest is first choice for 1.1 times the mean and the idlest for 0.8 times. With one point each some
# have next to nothing, and with one probe the busiest of 100 has 8 times the mean.
POINTS, PROBES = 16, 4  # of each worker on the ring, and for each home
FEW_SHARE = 0.01  # of all points: so many are put in one by one in the time in which all are sorted anew
HOLDERS_MAX = 4  # workers remembered for one beginning: more would all be as good
TTL_S = 900.0  # an engine's cache has moved on by then
ENTRIES_PER_WORKER = 60  # beginnings remembered, some 500 bytes each: 3 MB for 100 workers …
ENTRIES_MIN = 6000  # … or fewer; a chat of twelve turns has some 25, and a small pool many of them
# What a conversation's homes are trusted to hold, first choice first:
TRUST_TURN = (0.95, 0.3, 0.2)  # of the prompt one turn ago, which another gateway had
TRUST = (0.5, 0.2, 0.1)  # of a prompt that may be anything: a document, a trace, somebody's own key
# What it is worth to go home where homes can hold nothing: parts of the prompt, as if those were there.
PULL_FIRST = (0.2, 0.04, 0.02)  # a first turn: other gateways will look for it at home
PULL_KNOWN = (0.02, 0.01, 0.0)  # this gateway had the last turn: what it knows is better
_MASK = (1 << 64) - 1
_PLACES = Struct(f"<{PROBES}Q")


@dataclass(frozen=True, slots=True)
class Chain:
    """
    The beginnings of a prompt that a cache may hold, shortest first: of each a hash, and its length in *tokens*.

    The hash of a beginning covers all of it. *key* is the same for all turns of one conversation; *last_turn* is the
    length of the prompt one turn ago, 0 where there can have been none, and None where that cannot be told.
    """

    key: int
    hashes: tuple[int, ...]
    tokens: tuple[int, ...]
    last_turn: int | None = None

    def at_homes(self, known_tokens: int) -> Iterator[tuple[int, int]]:
        """
        Give the tokens that each home is expected to hold, and those that it is worth as if it held them.

        *known_tokens* is how much of the prompt this gateway has sent somebody.
        """
        if self.last_turn is None:
            return ((int(share * self.length),) * 2 for share in TRUST)
        if known_tokens < self.last_turn:
            return ((int(share * self.last_turn),) * 2 for share in TRUST_TURN)
        pulls = PULL_KNOWN if self.last_turn else PULL_FIRST
        return ((0, int(share * self.length)) for share in pulls)

    @property
    def next_begins_with(self) -> int | None:
        """Give the hash that the next turn's prompt will have of all of this one; None where none is to be expected."""
        return self.hashes[-1] if self.hashes and self.last_turn is not None else None

    @property
    def length(self) -> int:
        """The tokens of the longest beginning, which is the whole prompt but for its last part if that is cut."""
        return self.tokens[-1] if self.tokens else 0


class Ring:
    """Workers around a circle; a key's homes are the first workers behind the places that it hashes to."""

    __slots__ = ("_names", "_points", "_unsettled", "_workers")

    def __init__(self) -> None:
        self._points: list[int] = []
        self._workers: dict[int, str] = {}
        self._names: set[str] = set()
        self._unsettled: set[int] = set()  # points that are to come into the list, or to leave it

    def put(self, worker: str) -> None:
        """Take a worker in; one that is there already is fine."""
        if worker not in self._names:
            self._names.add(worker)
            points = _points(worker)
            self._workers.update(dict.fromkeys(points, worker))
            self._unsettled.symmetric_difference_update(points)

    def drop(self, worker: str) -> None:
        """Take a worker out; unknown ones are fine. Keys of other homes keep theirs."""
        if worker in self._names:
            self._names.discard(worker)
            points = _points(worker)
            for point in points:
                self._workers.pop(point, None)
            self._unsettled.symmetric_difference_update(points)

    def homes(self, key: int, count: int = len(TRUST)) -> list[str]:
        """Give up to *count* workers for *key*, the first its first choice; two choices may fall on one worker."""
        return list(dict.fromkeys(self.choices(key, count)))

    def choices(self, key: int, count: int) -> Iterator[str]:
        """Give *count* choices for *key* one by one, found as they are asked for; some fall on the same worker."""
        if self._unsettled:
            self._settle()
        seed = key.to_bytes(8, "little")
        for choice in range(count if self._points else 0):
            yield self._nearest(_PLACES.unpack(blake2b(b"%d" % choice, digest_size=8 * PROBES, key=seed).digest()))

    def _nearest(self, places: Iterable[int]) -> str:
        """Give the worker that is the nearest behind any of a key's places."""
        points, nearest, found = self._points, 1 << 64, 0
        for place in places:
            behind = bisect_left(points, place)
            point = points[behind] if behind < len(points) else points[0]
            distance = (point - place) & _MASK
            if distance < nearest:
                nearest, found = distance, point
        return self._workers[found]

    def _settle(self) -> None:
        """Bring the list up to date with who is here: a few points one by one, many in one go."""
        if len(self._unsettled) > FEW_SHARE * len(self._points):
            came = [point for point in self._unsettled if point in self._workers]
            if len(came) < len(self._unsettled):
                self._points = [point for point in self._points if point in self._workers]
            self._points += came
            self._points.sort()
        else:
            for point in self._unsettled:
                if point in self._workers:
                    insort(self._points, point)
                else:
                    del self._points[bisect_left(self._points, point)]
        self._unsettled.clear()

    def __len__(self) -> int:
        return len(self._names)


class SentPrefixes:
    """What was sent where: beginnings of prompts and their workers, the most recently used ones."""

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
            self._put(beginning, worker, now_s)
        self._forget()

    def hear(self, beginning: int, worker: str, now_s: float) -> None:
        """Remember that another gateway sent *worker* a prompt with this beginning."""
        self._put(beginning, worker, now_s)
        self._forget()

    def _put(self, beginning: int, worker: str, now_s: float) -> None:
        holders = self._entries.setdefault(beginning, {})
        holders.pop(worker, None)
        holders[worker] = now_s
        if len(holders) > HOLDERS_MAX:
            del holders[next(iter(holders))]
        self._entries.move_to_end(beginning)

    def _forget(self) -> None:
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


def expected_work(outstanding_tokens: float, uncached_tokens: float) -> float:
    """
    Give what a request's first token waits for, in prompt tokens to prefill: those before it, and its own twice.

    Its own count twice because they make the next ones wait as well.
    """
    return outstanding_tokens + 2 * uncached_tokens


def extend(before: int, part: bytes) -> int:
    """Give the hash of a beginning that is longer by *part* than one of hash *before*."""
    digest = blake2b(part, digest_size=8, key=before.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


def mix(key: int, number: int) -> int:
    """Mix two numbers into 64 evenly spread bits (the finaliser of splitmix64: Steele, Lea and Flood, 2014)."""
    mixed = (key + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def _points(worker: str) -> list[int]:
    """Give the points of a worker; two that fall together are as good as impossible: 64 bits."""
    return [extend(number, worker.encode()) for number in range(POINTS)]
