"""Opening the studio's database: its engine, its tables, and columns that came later."""

import logging
from typing import Any

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Engine

from limner.contract.errors import LimnerError
from limner.studio.problems import cause
from limner.studio.tables import Table

BUSY_SECONDS = 5.0
"""How long SQLite waits for another program to let the database go."""


def open_database(url: str) -> Engine:
    """The engine of a database that has all tables.

    Args:
        url: where it is.

    Raises:
        LimnerError: it cannot be opened.
    """
    try:
        engine = _engine(url)
        _check(engine)
        Table.metadata.create_all(engine)
        _add_columns(engine)
    except Exception as error:  # whatever a driver raises
        raise LimnerError(
            f"the database {url.split('://')[0]} cannot be opened: {cause(error)}"
        ) from None
    return engine


def _check(engine: Engine) -> None:
    """See that SQLite's file is sound.

    Raises:
        LimnerError: it is damaged.
    """
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
    if found != "ok":
        raise LimnerError(
            f"the file {engine.url.database} is damaged; move it away to begin with an empty one"
        )


def _add_columns(engine: Engine) -> None:
    """Give the tables of an earlier version the columns that came later, which may be empty."""
    for table in Table.metadata.sorted_tables:
        there = {column["name"] for column in inspect(engine).get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(engine.dialect)
                with engine.begin() as connection:
                    connection.execute(
                        text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")
                    )


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        # Its tracebacks of connections that broke: the queue says in a line what is wrong.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        return create_engine(url, pool_size=5, max_overflow=20, pool_pre_ping=True)
    told = {"timeout": BUSY_SECONDS}
    engine = create_engine(url, connect_args=told, pool_size=5, max_overflow=60)

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        del record
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
        cursor.execute("PRAGMA synchronous=NORMAL")  # safe in WAL, and no fsync for each job
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    return engine
