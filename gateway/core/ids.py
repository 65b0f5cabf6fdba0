"""
Ids: what they look like, and nothing else.

A request id is permanent: the meter event, its replays and the bill carry the same one. It sorts by time (the layout of
RFC 9562's UUIDv7: 48 bits of Unix milliseconds, then 74 random bits), so that a database index on it grows at one end.
"""

import hashlib
import os
from typing import NewType

RequestId = NewType("RequestId", str)
TenantId = NewType("TenantId", str)
ProjectId = NewType("ProjectId", str)
KeyId = NewType("KeyId", str)
WorkerId = NewType("WorkerId", str)
PoolName = NewType("PoolName", str)

KEY_PREFIX = "sk-sluice-"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_LENGTH = 43  # 43 base62 digits carry 256 bits


def time_sorted_id(prefix: str, now_ms: int) -> str:
    """Make an id such as `req_0199f3…`: *prefix*, the time in hex, 80 random bits in hex."""
    return f"{prefix}_{now_ms:012x}{os.urandom(10).hex()}"


def request_id(now_ms: int) -> RequestId:
    """Make a new request id for a request that arrived at *now_ms* (Unix, milliseconds)."""
    return RequestId(time_sorted_id("req", now_ms))


def new_secret() -> str:
    """Make the secret text of an API key; shown once, never stored."""
    number = int.from_bytes(os.urandom(32), "big")
    digits = []
    for _ in range(_SECRET_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return KEY_PREFIX + "".join(digits)


def digest(secret: str) -> str:
    """
    Hash a key's secret for storage and look-up, as hex.

    Plain SHA-256 is right here, unlike for passwords: the secret has 256 random bits, so there is nothing to guess.
    """
    return hashlib.sha256(secret.encode()).hexdigest()
