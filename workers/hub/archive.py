"""
A model as one tar archive, for a place without a network: the manifest first, then every file in the manifest's order.

Written and read as a stream, so an archive may go through a pipe and needs no room beside the model itself. What is
read is held to the manifest member by member, byte by byte: an archive may be damaged, or made to do harm.
"""

import contextlib
import hashlib
import io
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Self

from workers.errors import WorkerError
from workers.hub.checking import hashed, walk
from workers.hub.ids import ModelRef, size_text
from workers.hub.lock import held
from workers.hub.manifest import (
    MANIFEST_BYTES_MAX,
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    checked_files,
    digest,
    parse_manifest,
)
from workers.hub.progress import Progress
from workers.hub.pull import check_space
from workers.hub.store import ModelStore, Stored

_BLOCK = 1 << 20
_HEADER_BYTES_MAX = 4096  # of a long name (512 bytes at most); tarfile would read a header of any size into memory
_HEADER_TYPES = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class _Member(tarfile.TarInfo):
    """A member whose header is looked at before tarfile reads what it announces."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0 or (member.type in _HEADER_TYPES and member.size > _HEADER_BYTES_MAX):
            raise WorkerError(f"The archive has a header of {member.size} bytes, which no model needs.")
        return member


class _Hashing(io.RawIOBase):
    """A file that is hashed while tarfile reads it."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], None]) -> None:
        self._file, self._progress = file, progress
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.sha256.update(block)
        self._progress(len(block))
        return block


class _Sum:
    """Adds up the bytes of a transfer for a Progress."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._done = progress, 0
        progress.start(what, total)

    def add(self, size: int) -> None:
        self._done += size
        self._progress.at(self._done)


def export(stored: Stored, out: BinaryIO, progress: Progress) -> None:
    """Write *stored* to *out* as an archive. Raises WorkerError, maybe in mid-work, if its bytes are not right."""
    done = _Sum(progress, f"exporting {stored.manifest.id}", stored.manifest.size)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        manifest = stored.manifest.to_json()
        tar.addfile(_header(MANIFEST_FILE, len(manifest)), io.BytesIO(manifest))
        for file in stored.manifest.files:
            _add(tar, stored.folder, file, done)


def _add(tar: tarfile.TarFile, folder: Path, file: FileEntry, done: _Sum) -> None:
    try:
        with (folder / file.path).open("rb") as source:
            reader = _Hashing(source, done.add)
            tar.addfile(_header(file.path, file.size), reader)
    except OSError as error:
        what = f"{file.path} of {folder} cannot be exported whole ({error}). Pull the model anew."
        raise WorkerError(what) from error
    if reader.sha256.hexdigest() != file.sha256:
        raise WorkerError(f"{folder / file.path} has other bytes than when it came. Remove the model, pull it anew.")


def _header(path: str, size: int) -> tarfile.TarInfo:
    """Make a member that is the same whoever exports it, and when."""
    header = tarfile.TarInfo(path)
    header.size, header.mode = size, 0o644
    return header


def import_archive(source: BinaryIO, store: ModelStore, progress: Progress) -> Stored:
    """
    Read an archive from *source* into *store*; give the model, which appears only when every byte was right.

    Raises WorkerError that says what is wrong: nothing that an archive holds is written outside of a draft's folder.
    """
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_Member) as tar:
            manifest = _manifest(tar)
            if (stored := store.find(ModelRef(manifest.id, manifest.pin))) and not stored.problem:
                progress.note(f"{manifest.id} at {manifest.pin} is on this disk already; nothing was imported")
                return stored
            with _draft(store, manifest) as draft:
                _unpack(tar, draft, manifest, _Sum(progress, f"importing {manifest.id}", manifest.size))
                return _published(store, draft, manifest)
    except (tarfile.TarError, EOFError) as error:
        raise WorkerError(f"The archive cannot be read on ({error}). It may have been cut: copy it again.") from error
    except OSError as error:
        raise WorkerError(
            f"The archive could not be imported into {store.root} ({error.strerror or error})."
        ) from error


def import_folder(folder: Path, model_id: str, store: ModelStore, progress: Progress) -> Stored:
    """Copy a local *folder* into *store* as *model_id*; its pin is made of its files. Raises WorkerError."""
    paths = [path for path in walk(folder) if path.is_file() and path.name != MANIFEST_FILE]
    plain = [FileEntry(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    done = _Sum(progress, f"reading {folder}", sum(file.size for file in plain))
    files = tuple(hashed(folder, checked_files(plain), done.add))
    manifest = Manifest(ModelRef(model_id).id, "local", f"local-{digest(files)}", str(folder), files, is_pinned=False)
    with _draft(store, manifest) as draft:
        for file in files:
            (draft / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file.path, draft / file.path)
        return _published(store, draft, manifest)


def _manifest(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST_FILE or not _is_plain(member):
        raise WorkerError(f"This is no archive of `sluice models export`: it does not begin with {MANIFEST_FILE}.")
    if member.size > MANIFEST_BYTES_MAX:
        raise WorkerError(f"The archive's manifest has {size_text(member.size)}, which no model needs.")
    content = tar.extractfile(member)
    assert content is not None, "a plain member has content"
    return parse_manifest(content.read())


@contextlib.contextmanager
def _draft(store: ModelStore, manifest: Manifest) -> Iterator[Path]:
    """Give an empty folder on the store's disk, with room for the model; it is gone afterwards."""
    store.sweep()
    draft = store.root / ".partial" / f".import-{secrets.token_hex(4)}"
    draft.mkdir(parents=True)
    try:
        check_space(store, manifest.id, manifest.files, draft)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unpack(tar: tarfile.TarFile, draft: Path, manifest: Manifest, done: _Sum) -> None:
    """Write what the manifest lists, in its order: anything else, more or less of it is an error."""
    for file in manifest.files:
        member = tar.next()
        if member is None:
            raise WorkerError(f"The archive ends before {file.path!r}. It was cut: copy it again.")
        if member.name != file.path or not _is_plain(member) or member.size != file.size:
            raise WorkerError(
                f"The archive has {member.name[:100]!r} of {member.size} bytes where its manifest has {file.path!r} of "
                f"{file.size}: it was tampered with or damaged. Export it again."
            )
        _write(tar, member, draft / file.path, file, done)
    if (stray := tar.next()) is not None:
        raise WorkerError(f"The archive holds {stray.name[:100]!r}, which its manifest does not list. Export it again.")


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is a regular file: no link, no device, no sparse file that grows when it is read."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, file: FileEntry, done: _Sum) -> None:
    content = tar.extractfile(member)
    assert content is not None, "a plain member has content"
    path.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with path.open("xb") as out:
        while block := content.read(_BLOCK):
            out.write(block)
            sha256.update(block)
            done.add(len(block))
    if sha256.hexdigest() != file.sha256:
        raise WorkerError(f"{file.path!r} in the archive has wrong bytes. Copy the archive again, or export it again.")


def _published(store: ModelStore, draft: Path, manifest: Manifest) -> Stored:
    with held(store.locks(manifest.id, manifest.pin), lambda _owner: None) as lock:
        lock.check()
        stored = store.publish(draft, manifest)
    store.note(ModelRef(manifest.id, manifest.revision), manifest.pin)
    if store.find(ModelRef(manifest.id)) is None:
        store.note(ModelRef(manifest.id), manifest.pin)  # so that `--model ID` finds it, whatever branch it came from
    return stored
