"""One studio at a time on a database, whatever folder each has; a killed one leaves no lock."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from limner.contract.errors import LimnerError
from limner.runtime.folder_lock import locked_file

_KEY = 0x6C696D6E  # of PostgreSQL's advisory lock: "limn"
_PATIENCE, _EVERY = 3.0, 0.3
"""Seconds until a server has noticed that a killed studio's connection is closed."""
_KEEP_ALIVE = "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10"
"""So that the server also notices when the other studio's machine is gone."""

_IN_MEMORY = (None, "", ":memory:")


@contextlib.contextmanager
def locked_database(url: str) -> Iterator[None]:
    """Keep other studios off a database that is SQLite's or PostgreSQL's.

    One that cannot be reached is not locked; opening it says what is wrong.

    Args:
        url: SQLAlchemy's.

    Raises:
        LimnerError: another studio uses it.
    """
    with contextlib.ExitStack() as held:
        try:
            place = make_url(url)
            shown = place.render_as_string(hide_password=True)
            in_use = f"another studio uses the database {shown}; use that one, or give another --db"
            if place.get_backend_name() == "sqlite" and place.database not in _IN_MEMORY:
                held.enter_context(locked_file(Path(str(place.database)), in_use))
            elif place.get_backend_name() == "postgresql":
                held.enter_context(_advisory(url, in_use))
        except (SQLAlchemyError, ImportError, OSError):
            pass
        yield


@contextlib.contextmanager
def _advisory(url: str, in_use: str) -> Iterator[None]:
    """PostgreSQL's lock of a session, which ends with its connection."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in _KEEP_ALIVE.split("; "):
            connection.execute(text(setting))
        ask, end = text(f"SELECT pg_try_advisory_lock({_KEY})"), time.monotonic() + _PATIENCE
        while not connection.scalar(ask):
            if time.monotonic() > end:
                raise LimnerError(in_use)
            time.sleep(_EVERY)
        yield
