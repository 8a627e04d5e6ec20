"""A lock that allows one studio at a time on a database; a killed studio leaves no lock behind."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from limner.contract.errors import LimnerError
from limner.runtime.folder_lock import locked_file
from limner.studio.background import log

_ADVISORY_KEY = 0x6C696D6E  # key of PostgreSQL's advisory lock: "limn"
_PATIENCE, _EVERY = 3.0, 0.3
"""Seconds until a server has noticed a killed studio's closed connection, and between two tries."""
_KEEP_ALIVE = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
"""Settings with which the server also notices that the other studio's host or network is gone."""
_DISCONNECT_SECONDS = 90.0  # after which the server has noticed, with these settings
_RETRY_SECONDS = 1.0

_IN_MEMORY = (None, "", ":memory:")


@contextlib.contextmanager
def locked_database(url: str) -> Iterator[None]:
    """Keep other studios off a database of SQLite or PostgreSQL.

    A database that cannot be reached is not locked; opening it reports the error. PostgreSQL loses
    its locks when it is restarted: the lock is then taken again, as soon as the database answers.
    If another studio takes it first, this one stops as with SIGTERM.

    Args:
        url: SQLAlchemy URL of the database.

    Raises:
        LimnerError: another studio uses the database.
    """
    with contextlib.ExitStack() as stack:
        try:
            parsed = make_url(url)
            name = parsed.render_as_string(hide_password=True)
            message = f"another studio uses the database {name}; use that one, or give another --db"
            if parsed.get_backend_name() == "sqlite" and parsed.database not in _IN_MEMORY:
                stack.enter_context(locked_file(Path(str(parsed.database)), message))
            elif parsed.get_backend_name() == "postgresql":
                stack.enter_context(_advisory_lock(url, message))
        except (SQLAlchemyError, ImportError, OSError, ValueError):
            pass
        yield


@contextlib.contextmanager
def _advisory_lock(url: str, message: str) -> Iterator[None]:
    """Hold a session lock of PostgreSQL, which ends with its connection."""
    lock = _Lock(create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT"))
    if not lock.take(_PATIENCE):
        raise LimnerError(message)
    thread = threading.Thread(target=lock.keep, name="limner-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lock.stop_event.set()
        thread.join(_PATIENCE)  # the thread may wait for a database that does not answer
    if lock.is_lost:
        raise LimnerError(message)


class _Lock:
    """The lock of a studio.

    Args:
        engine: engine of the database, without a pool of connections.

    Attributes:
        stop_event: event that is set when the lock is no longer needed.
        is_lost: whether another studio has the lock.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection_stack = contextlib.ExitStack()
        self._connection: Connection | None = None
        self.stop_event, self.is_lost = threading.Event(), False

    def take(self, patience: float) -> bool:
        """Try to take the lock for a time in seconds. Returns whether that succeeded.

        Raises:
            SQLAlchemyError: the database cannot be reached.
        """
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._engine.connect())
            for setting in _KEEP_ALIVE:
                connection.execute(text(setting))
            query, end = (
                text(f"SELECT pg_try_advisory_lock({_ADVISORY_KEY})"),
                time.monotonic() + patience,
            )
            while not connection.scalar(query):
                if time.monotonic() > end or self.stop_event.wait(_EVERY):
                    return False
            self._connection_stack, self._connection = stack.pop_all(), connection
        return True

    def keep(self) -> None:
        """Take the lock again if its connection is lost; stop this studio if another one has it."""
        while not self.stop_event.wait(_RETRY_SECONDS):
            if self._is_held():
                continue
            with contextlib.suppress(SQLAlchemyError):  # the database is away, and may come back
                if not self.take(_DISCONNECT_SECONDS) and not self.stop_event.is_set():
                    self.is_lost = True
                    log.warning("another studio uses the database now; this one stops")
                    signal.raise_signal(signal.SIGTERM)
                    return
        self._release()

    def _is_held(self) -> bool:
        """Whether the connection still works, and with it the lock."""
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                return True
        except SQLAlchemyError:
            self._release()
        return False

    def _release(self) -> None:
        self._connection = None
        with contextlib.suppress(SQLAlchemyError):
            self._connection_stack.close()
