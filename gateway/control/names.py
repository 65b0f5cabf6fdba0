"""What a name may be that people give."""

from gateway.errors import InvalidInput

NAME_CHARS_MAX = 200


def check_name(what: str, name: str) -> None:
    """Raise InvalidInput unless *name* has 1 to 200 characters that can be seen; databases refuse some others."""
    if not name.strip() or not name.isprintable() or len(name) > NAME_CHARS_MAX:
        raise InvalidInput(f"{what} has 1 to {NAME_CHARS_MAX} printable characters; {name[:NAME_CHARS_MAX]!r} has not.")
