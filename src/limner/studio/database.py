"""Opening the studio's database: its engine, its tables, and columns added by later versions."""

import logging
from typing import Any

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, OperationalError

from limner.contract.errors import LimnerError, install_command
from limner.studio.problems import cause
from limner.studio.tables import Table

BUSY_SECONDS = 5.0
"""How long SQLite waits for another program to unlock the database, in seconds."""
_SCHEMA_KEY = 0x7363686D  # key of PostgreSQL's advisory lock: "schm"


def open_database(url: str) -> Engine:
    """Return the engine of a database, after creating missing tables and columns.

    Args:
        url: URL of the database.

    Raises:
        LimnerError: the database cannot be opened.
    """
    try:
        engine = _engine(url)
        _check(engine)
        with engine.begin() as connection:
            _lock_schema(connection)
            Table.metadata.create_all(connection)
            _add_columns(connection)
    except Exception as error:  # drivers raise many types of errors
        kind = url.split("://")[0].partition("+")[0]
        message = f"the database {kind} cannot be opened: {cause(error)}"
        raise LimnerError(message + _remedy(url, error)) from None
    return engine


def _remedy(url: str, error: Exception) -> str:
    """Return what to do to open the database."""
    if isinstance(error, ImportError) and url.startswith("postgresql+pg8000"):
        return f"; type: {install_command('postgres')}"
    form = "; give --db postgresql://USER:PASSWORD@HOST/NAME"
    if isinstance(error, ImportError | ArgumentError | ValueError):
        return f"{form}, or leave --db out"
    if url.startswith("sqlite"):
        is_file = isinstance(error, OperationalError)
        return "; check that its folder can be written, or give another --data" * is_file
    return f"{form} of a server that runs and a database that USER owns"


def _check(engine: Engine) -> None:
    """Check that SQLite's file is not damaged.

    Raises:
        LimnerError: the file is damaged.
    """
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        result = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    if result != "ok":
        raise LimnerError(
            f"the file {engine.url.database} is damaged; move it away to start with an empty one"
        )


def _lock_schema(connection: Connection) -> None:
    """Let other hosts that open the database wait until this transaction has changed its tables.

    A file of SQLite is opened by one studio only.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_KEY})"))


def _add_columns(connection: Connection) -> None:
    """Add the columns of later versions, which may be empty, to tables of an earlier version."""
    for table in Table.metadata.sorted_tables:
        names = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in names:
                kind = column.type.compile(connection.dialect)
                connection.execute(
                    text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
                )


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        # Hide the pool's tracebacks of broken connections: the queue reports them in one line.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        return create_engine(url, pool_size=5, max_overflow=20, pool_pre_ping=True)
    arguments = {"timeout": BUSY_SECONDS}
    engine = create_engine(url, connect_args=arguments, pool_size=5, max_overflow=60)

    @event.listens_for(engine, "connect")
    def _set_up_connection(connection: Any, record: Any) -> None:
        del record
        # SQLite's own function changes only the letters of ASCII.
        connection.create_function("lower", 1, _lower, deterministic=True)
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        cursor.execute("PRAGMA synchronous=NORMAL")  # safe with WAL, without an fsync for each job
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine


def _lower(text: str | None) -> str | None:
    """Return a text in lower case; None for NULL."""
    return None if text is None else text.lower()
