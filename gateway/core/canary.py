"""
Which of several pools a request of one name goes to: shares by weight, and the same side for the same user.

Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): each pool draws
-weight / ln(h) from a hash h in (0, 1) of itself and the key, and the largest draw wins. Shares are proportional to the
weights, every gateway finds the same pool, and a weight that changes moves only those it must: who is with a pool whose
weight grows stays there.
"""

from collections.abc import Mapping
from hashlib import blake2b
from math import log

_HASH_BYTES = 6  # a float holds so much of a fraction exactly that it never becomes 1, whose logarithm is 0
_HASHES = 1 << 8 * _HASH_BYTES


def choose(weights: Mapping[str, int], *key: str) -> str:
    """Give the pool for *key*; one of weight 0 never is. Raises ValueError if all weights are 0."""
    drawn = {pool: _draw(pool, weight, key) for pool, weight in weights.items() if weight > 0}
    return max(drawn, key=lambda pool: (drawn[pool], pool))


def _draw(pool: str, weight: int, key: tuple[str, ...]) -> float:
    text = "\0".join((pool, *key)).encode(errors="surrogatepass")
    part = (int.from_bytes(blake2b(text, digest_size=_HASH_BYTES).digest()) + 0.5) / _HASHES
    return -weight / log(part)
