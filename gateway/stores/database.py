"""
One door to the SQL database: SQLite or PostgreSQL, transactions with a time limit, errors translated once.

No call outlasts its limit by much, whatever the server does. PostgreSQL's own statement timeout cannot promise that,
since a frozen server times nothing out, nor can TCP, since a frozen server's kernel still acknowledges.
"""

import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from gateway.errors import InvalidInput, StoreUnavailable

STORE = "database"
_CONNECT_TIMEOUT_S_MIN = 2  # libpq's own minimum
_IS_WRITING = "sluice_is_writing"
_PRIMARY_CODE = 0xFF  # of an error of SQLite; the bits above it say more of the same error
_WAL_POLL_S = 0.01

_deadline: ContextVar[float] = ContextVar("database_deadline")
_Result = TypeVar("_Result")


class Database:
    """
    A pool of connections to *url*, a SQLAlchemy URL for SQLite (a file) or PostgreSQL. Blocking; safe for threads.

    Every transaction ends within about *timeout_s*, one way or the other, or raises StoreUnavailable. Raises
    InvalidInput for a URL that is neither, and for a SQLite file that does not exist: only `migrate` makes one.
    """

    def __init__(self, url: str, *, timeout_s: float = 3.0) -> None:
        if (file := sqlite_file(url)) and not file.exists():
            raise InvalidInput(f"There is no database at {file}. Run `sluice migrate` to create it.")
        self._timeout_s = timeout_s
        self._engine = _sqlite(url, timeout_s) if parse_url(url).drivername == "sqlite" else _postgresql(url, timeout_s)

    def __repr__(self) -> str:
        return f"<Database {self._engine.url.render_as_string(hide_password=True)}>"

    @property
    def timeout_s(self) -> float:
        """How long a transaction may take."""
        return self._timeout_s

    @property
    def dialect(self) -> str:
        """Either sqlite or postgresql."""
        return self._engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run the block in one transaction that only reads."""
        with self._transaction(is_writing=False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Run the block in one transaction; leaving it normally commits, an exception rolls back."""
        with self._transaction(is_writing=True) as connection:
            yield connection

    def insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """Begin an INSERT that knows ON CONFLICT: both dialects spell it alike, but SQLAlchemy has it twice."""
        return postgresql.insert(table) if self.dialect == "postgresql" else sqlite.insert(table)

    def close(self) -> None:
        """Close the pool's connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, is_writing: bool) -> Iterator[Connection]:
        token = _deadline.set(time.monotonic() + self._timeout_s)
        try:
            with (
                self._engine.connect().execution_options(**{_IS_WRITING: is_writing}) as connection,
                connection.begin(),
            ):
                yield connection
        except SQLAlchemyError as error:
            raise StoreUnavailable(STORE, _reason(error)) from error
        finally:
            _deadline.reset(token)


def parse_url(url: str) -> URL:
    """Read a database URL; raises InvalidInput if it is not one of SQLite with a file, or of PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput("database_url is not a URL. Write postgresql://user:password@host/name.") from error
    family = parsed.drivername.split("+")[0]
    if family in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if family != "sqlite":
        raise InvalidInput(f"database_url names {family!r}; only sqlite and postgresql are supported.")
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidInput("database_url needs a file for SQLite: sqlite:////var/lib/sluice/sluice.db")
    return parsed.set(drivername="sqlite")


def _sqlite(url: str, timeout_s: float) -> Engine:
    parsed = parse_url(url)
    engine = create_engine(
        parsed,
        connect_args={"timeout": timeout_s},
        hide_parameters=True,
        paramstyle="named",  # as PostgreSQL's: rows are mappings
        pool_timeout=timeout_s,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, below
    _use_wal(connection)
    connection.execute(
        "PRAGMA synchronous = FULL"
    )  # a commit lets the spool delete its file: it must outlive the power
    connection.execute("PRAGMA foreign_keys = ON")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Wait for others to let a file become WAL: SQLite does not, since it turns a reader into a writer for that."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= _deadline.get():
                raise
        else:
            return
        time.sleep(_WAL_POLL_S)


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at the beginning: a reader that turns writer would fail at once instead of waiting."""
    is_writing = connection.get_execution_options().get(_IS_WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _postgresql(url: str, timeout_s: float) -> Engine:
    timeout_ms = int(timeout_s * 1000)
    arguments = {
        "connect_timeout": max(_CONNECT_TIMEOUT_S_MIN, round(timeout_s)),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": timeout_ms,
        "application_name": "sluice",
        "options": f"-c statement_timeout={timeout_ms}",
    }
    engine = create_engine(
        parse_url(url),
        connect_args=arguments,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=timeout_s,
    )
    event.listen(engine, "do_connect", _connect_postgresql)
    return engine


def _connect_postgresql(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> object:
    if time.monotonic() >= _deadline.get():
        raise psycopg.OperationalError("no time left to connect")
    return _LimitedConnection.connect(*arguments, **options)


class _LimitedConnection(psycopg.Connection[Any]):
    """A connection that closes itself once the time of the transaction it serves is over."""

    def wait(self, gen: Generator[Any, Any, _Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        del timeout  # the transaction's own is never longer
        return super().wait(self._until_deadline(gen), interval)

    def _until_deadline(self, gen: Generator[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
        """Pass on what *gen* waits for; psycopg resumes us at least every *interval*, ready or not."""
        deadline = _deadline.get(float("inf"))
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() >= deadline:
                    self.close()
                    raise psycopg.OperationalError("no answer within the time limit")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: _Result = end.value
            return result


def sqlite_file(url: str) -> Path | None:
    """Give the file of a SQLite URL, None for PostgreSQL."""
    parsed = parse_url(url)
    return Path(str(parsed.database)) if parsed.drivername == "sqlite" else None


def _reason(error: SQLAlchemyError) -> str:
    """Say what went wrong in a line, with neither the statement nor its values nor the URL in it."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.OperationalError | sqlite3.OperationalError):
        return (str(error.orig).splitlines() or ["no answer"])[0]
    return type(getattr(error, "orig", None) or error).__name__
