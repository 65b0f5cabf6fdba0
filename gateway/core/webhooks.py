"""
Webhooks: how a message is signed, and which addresses one may be sent to.

The signature is that of Standard Webhooks 1.0 (symmetric): `v1,` and the base64 of HMAC-SHA256 over
`id.timestamp.body`, with the bytes behind `whsec_` as the key.
"""

import base64
import hashlib
import hmac
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

SECRET_PREFIX = "whsec_"  # noqa: S105  what a secret begins with is none
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address it leads to


def tenant_secret(master: str, tenant: str) -> str:
    """Derive the secret of *tenant* from *master*: nothing to store, and one says nothing of another."""
    derived = hmac.digest(master.encode(), b"webhook:" + tenant.encode(), hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(derived).decode()


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Give the value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.digest(key, f"{message_id}.{timestamp_s}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed).decode()


def is_public(address: str) -> bool:
    """
    Tell whether *address* is one of the public Internet, and so fit for a webhook that a stranger named.

    An IPv4 address inside an IPv6 one counts as itself: ::ffff:127.0.0.1 and 64:ff9b::7f00:1 lead home.
    """
    parsed = ip_address(address.partition("%")[0])
    inner = _inner(parsed) if isinstance(parsed, IPv6Address) else None
    if inner is not None:
        return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
