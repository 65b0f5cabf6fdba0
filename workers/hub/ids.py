"""What a model is called: its id on ModelScope and its revision, checked before they become paths or addresses."""

import re
from dataclasses import dataclass
from urllib.parse import quote

from workers.errors import WorkerError

DEFAULT_REVISION = "master"  # ModelScope's default branch
# An id is owner/name; anything that starts with a dot or a slash, or has more parts, can only be a path.
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[\w][\w./+-]{0,199}")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on ModelScope, `Qwen/Qwen3-8B`, at a *revision*: a branch, a tag or a commit of 40 hexadecimal digits."""

    id: str
    revision: str = DEFAULT_REVISION

    def __post_init__(self) -> None:
        """Raise WorkerError for what can be neither an id nor a revision."""
        if not is_model_id(self.id):
            raise WorkerError(f"{self.id!r} is not a ModelScope id. Write owner/name, such as Qwen/Qwen3-8B.")
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise WorkerError(
                f"{self.revision!r} is not a revision of {self.id}. Name a branch, a tag, or a commit of 40 digits."
            )

    def __str__(self) -> str:
        return self.id if self.revision == DEFAULT_REVISION else f"{self.id}@{self.revision}"

    @property
    def commit(self) -> str:
        """The revision, if it is a commit; else empty."""
        return self.revision if _COMMIT.fullmatch(self.revision) else ""


def is_model_id(text: str) -> bool:
    """Tell whether *text* has the form of an id on ModelScope."""
    return _MODEL_ID.fullmatch(text) is not None


def parse_ref(text: str, revision: str | None = None) -> ModelRef:
    """Read `owner/name` or `owner/name@revision`; *revision* goes before the one in *text*. Raises WorkerError."""
    name, _, written = text.partition("@")
    return ModelRef(name, revision or written or DEFAULT_REVISION)


def slug(text: str) -> str:
    """Give a name of one path component that is *text*'s alone."""
    return quote(text, safe="")


def size_text(size: int) -> str:
    """Write a number of bytes as people read them, in decimal units as ModelScope's pages do."""
    for unit, width in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(size) >= width:
            return f"{size / width:.1f} {unit}"
    return f"{size} B"
