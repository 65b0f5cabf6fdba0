"""Checks the address of a webhook when it is declared; it is checked again each time something is sent there."""

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.core.webhooks import is_public
from gateway.errors import InvalidInput

URL_CHARS_MAX = 2048


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What addresses may be; without a secret nothing can be signed, so nothing is sent."""

    has_secret: bool
    allows_http: bool = False
    allows_private: bool = False


def check_address(url: str, rules: AddressRules) -> None:
    """Raise InvalidInput if nothing could be sent to *url*. Asks the resolver; may block for seconds."""
    if not rules.has_secret:
        raise InvalidInput(f"webhook {url!r} cannot be signed. Set SLUICE_JOBS__WEBHOOK_SECRET for all gateways first.")
    host, port = _place(url, rules)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"webhook {url!r}: its host {host!r} cannot be resolved. Check the name.") from error
    if not rules.allows_private and not all(is_public(str(place[0])) for *_, place in found):
        advice = "Name a public one, or set SLUICE_JOBS__ALLOWS_PRIVATE_WEBHOOKS."
        raise InvalidInput(f"webhook {url!r}: its host {host!r} has an address that is not public. {advice}")


def _place(url: str, rules: AddressRules) -> tuple[str, int]:
    schemes = ("https", "http") if rules.allows_http else ("https",)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput(f"webhook {url!r} is no URL. Write https://host/path.") from None
    if parts.scheme not in schemes or not host or len(url) > URL_CHARS_MAX:
        form = f"a URL of at most {URL_CHARS_MAX} characters with {' or '.join(schemes)}"
        raise InvalidInput(f"webhook {url!r} must be {form}. Write https://host/path.")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"webhook of host {host!r} holds a user name or a password. Leave them out: it is signed.")
    return host, port or {"https": 443, "http": 80}[parts.scheme]
