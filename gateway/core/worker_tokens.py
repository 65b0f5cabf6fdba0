"""
What gateways know workers by: one token for all pools, and tokens that are good for one pool alone.

A pool's token is an HMAC-SHA256 of its name under the token for all, so gateways keep no list of them; they end when
that token is changed. A worker on a network that is not trusted gets its pool's.
"""

import hmac

_PREFIX = "wt-"


def pool_token(token: str, pool: str) -> str:
    """Give the token that lets workers into *pool* and nowhere else."""
    return f"{_PREFIX}{pool}-{_mac(token, pool)}"


def pools_of(token: str, shown: str) -> str | None:
    """Tell which pool *shown* opens, given the *token* for all: its name, "" for all, None for none."""
    if hmac.compare_digest(shown.encode(), token.encode()):
        return ""
    pool, _, mac = shown.removeprefix(_PREFIX).rpartition("-")
    is_pools = shown.startswith(_PREFIX) and hmac.compare_digest(mac.encode(), _mac(token, pool).encode())
    return pool if is_pools and pool else None


def _mac(token: str, pool: str) -> str:
    return hmac.new(token.encode(), b"sluice worker of pool " + pool.encode(), "sha256").hexdigest()
