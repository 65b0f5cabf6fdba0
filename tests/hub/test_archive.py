"""Models as archives: there and back, and archives that are damaged or mean harm."""

import hashlib
import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.servers.hub_server import small_model
from workers.errors import WorkerError
from workers.hub.archive import export, import_archive, import_folder
from workers.hub.checking import walk
from workers.hub.ids import ModelRef
from workers.hub.manifest import MANIFEST_FILE, FileEntry, Manifest, checked_files, is_safe_path, parse_manifest
from workers.hub.progress import Silence
from workers.hub.store import ModelStore

MODEL = "acme/small"


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "model"
    for path, data in small_model(megabytes=0.1).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return import_folder(folder, MODEL, ModelStore(tmp_path / "here"), Silence())


@pytest.fixture
def there(tmp_path):
    return ModelStore(tmp_path / "there")


def archive(stored):
    out = io.BytesIO()
    export(stored, out, Silence())
    return out.getvalue()


def take(data, store):
    return import_archive(io.BytesIO(data), store, Silence())


def manifest_of(files):
    entries = [FileEntry(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files]
    return json.dumps(
        {
            "format": 1,
            "id": MODEL,
            "revision": "master",
            "pin": "p1",
            "source": "x",
            "is_pinned": False,
            "files": [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in entries],
        }
    ).encode()


def tar(members):
    """Make an archive of (TarInfo or name, content) pairs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for header, content in members:
            info = header if isinstance(header, tarfile.TarInfo) else tarfile.TarInfo(header)
            if content is not None:
                info.size = len(content)
            made.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def of(files, **changed):
    """Make an archive of *files* with its manifest; *changed* stands in for members by path."""
    members = [(MANIFEST_FILE, manifest_of(files))]
    members += [changed.get(path, (path, data)) for path, data in files]
    return tar(members)


def nothing_was_left(store):
    return list(store.models()) == [] and not [path for path in walk(store.root) if ".locks" not in path.parts]


def test_there_and_back_is_the_same_model(stored, there):
    taken = take(archive(stored), there)
    assert taken.manifest == stored.manifest
    for file in stored.manifest.files:
        assert (taken.folder / file.path).read_bytes() == (stored.folder / file.path).read_bytes()
    assert archive(taken) == archive(stored)  # the same bytes whoever exports it
    assert there.find(ModelRef(MODEL)) == taken  # found by its id alone, though it came from no branch


def test_an_archive_goes_through_a_pipe(stored, there):
    """`sluice models export … - | ssh … sluice models import -`: neither end can go back."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, ThreadPoolExecutor(1) as pool:
        taking = pool.submit(import_archive, source, there, Silence())
        with os.fdopen(writer, "wb") as out:
            export(stored, out, Silence())
        assert taking.result().manifest == stored.manifest


def test_what_is_there_already_is_not_imported_again(stored, there):
    data = archive(stored)
    first = take(data, there)
    assert take(data, there) == first
    assert len(list(there.models())) == 1


def test_an_export_of_damaged_bytes_fails(stored):
    path = stored.folder / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WorkerError, match="other bytes than when it came"):
        archive(stored)


FILES = [("config.json", b"{}"), ("w.bin", b"weights" * 100)]


def member(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (of([("../evil", b"x")]), "not one below a model's folder"),
        (of([("/etc/evil", b"x")]), "not one below a model's folder"),
        (of([("a/../../evil", b"x")]), "not one below a model's folder"),
        (of([("a\\..\\evil", b"x")]), "not one below a model's folder"),
        (of([(MANIFEST_FILE, b"x")]), "not one below a model's folder"),
        (of([("a", b"x"), ("a/b", b"y")]), "lies below another file"),
        (of([("a", b"x"), ("A", b"y")]), "same path"),
        (of(FILES, **{"w.bin": ("../w.bin", b"weights" * 100)}), "tampered with"),
        (of(FILES, **{"w.bin": ("w.bin", b"weights" * 99 + b"weightz")}), "wrong bytes"),
        (of(FILES, **{"w.bin": ("w.bin", b"weights")}), "tampered with"),
        (of(FILES, **{"w.bin": (member("w.bin", tarfile.SYMTYPE, "/etc/passwd"), None)}), "tampered with"),
        (of(FILES, **{"w.bin": (member("w.bin", tarfile.LNKTYPE, "config.json"), None)}), "tampered with"),
        (of(FILES, **{"w.bin": (member("w.bin", tarfile.CHRTYPE), None)}), "tampered with"),
        (of(FILES, **{"w.bin": (member("w.bin", tarfile.FIFOTYPE), None)}), "tampered with"),
        (of(FILES, **{"w.bin": (member("w.bin", tarfile.GNUTYPE_SPARSE), b"")}), "archive"),
        (tar([(MANIFEST_FILE, manifest_of(FILES)), FILES[0]]), "ends before 'w.bin'"),
        (tar([(MANIFEST_FILE, manifest_of(FILES)), *FILES, ("more", b"x")]), "does not list"),
        (tar([(MANIFEST_FILE, manifest_of(FILES)), FILES[1], FILES[0]]), "tampered with"),
        (tar([*FILES]), "does not begin with"),
        (tar([(MANIFEST_FILE, b"not json")]), "cannot be read"),
        (tar([(MANIFEST_FILE, b'{"format": 2}')]), "format 2"),
        (tar([(MANIFEST_FILE, b"[" * 100_000)]), "cannot be read"),
        (b"no archive at all" * 100, "cannot be read on"),
        (b"", "cannot be read on"),
        (of(FILES)[:1500], "cannot be read|ends before|cut"),
    ],
)
def test_an_archive_that_is_wrong_leaves_nothing_and_says_what(there, tmp_path, data, says):
    with pytest.raises(WorkerError, match=says):
        take(data, there)
    assert nothing_was_left(there)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_header_that_announces_gigabytes_is_refused_before_they_are_read(there):
    header = member("x", tarfile.XHDTYPE)
    header.size = 1 << 40
    with pytest.raises(WorkerError, match="which no model needs"):
        take(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096, there)


paths = st.text(st.sampled_from("ab./\\~-A\0 é"), max_size=12)


@given(paths)
def test_a_safe_path_stays_below_its_folder(path):
    if is_safe_path(path):
        parts = path.split("/")
        assert not path.startswith("/")
        assert ".." not in parts
        assert all(parts)
        assert "\0" not in path


@given(st.lists(st.tuples(paths, st.integers(-1, 10)), max_size=5))
def test_checked_files_are_files_that_one_folder_can_hold(rows):
    try:
        files = checked_files(FileEntry(path, size) for path, size in rows)
    except WorkerError:
        return
    assert all(is_safe_path(file.path) and file.size >= 0 for file in files)
    assert len({file.path.casefold() for file in files}) == len(files) == len(rows)


entries = st.builds(
    FileEntry,
    path=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(is_safe_path),
    size=st.integers(0, 2**50),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
)


@settings(max_examples=40)
@given(st.lists(entries, min_size=1, max_size=5, unique_by=lambda entry: entry.path.casefold()))
def test_a_manifest_survives_being_written(files):
    try:
        files = checked_files(files)
    except WorkerError:
        return
    manifest = Manifest(MODEL, "master", "p1", "somewhere", files)
    assert parse_manifest(manifest.to_json()) == manifest


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_whatever_byte_is_wrong_nothing_wrong_is_published(there, offset, byte, is_cut):
    """Any one byte of an archive changed, or the rest cut off: the model as it was, or an error."""
    good = of(FILES)
    offset %= len(good)
    data = good[:offset] if is_cut else good[:offset] + bytes([byte]) + good[offset + 1 :]
    try:
        taken = take(data, there)
    except WorkerError:
        assert nothing_was_left(there)
        return
    assert {file.path: (taken.folder / file.path).read_bytes() for file in taken.manifest.files} == dict(FILES)
    there.remove(taken)
