"""Waiting for what somebody else has locked in PostgreSQL: not for ever, and who it is gets named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy.exc import DBAPIError

SECONDS = 30  # of each statement, while clients wait at the socket
LOCK_NOT_AVAILABLE = "55P03"  # https://www.postgresql.org/docs/current/errcodes-appendix.html
# Those who have locked something of ours, longest first. Of another user's session PostgreSQL may not say since when.
HOLDERS = """
SELECT DISTINCT a.pid, a.usename AS user, a.application_name AS application,
       to_char(a.xact_start, 'YYYY-MM-DD HH24:MI:SS TZ') AS since
FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_class c ON c.oid = l.relation
WHERE l.granted AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
      AND c.relnamespace = current_schema()::regnamespace
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY since LIMIT 3
"""


class LockedError(Exception):
    """Somebody else has locked what is wanted; the text is one sentence for a person."""


@contextmanager
def limited(uri: str) -> Iterator[None]:
    """Have no statement in the block wait for a lock longer than `SECONDS`, on whatever connection somebody opens.

    Args:
        uri: of the database itself, as SQLAlchemy has it: a pooler would hand the limit on to other clients. Anything
            but a PostgreSQL is left alone.

    Raises:
        LockedError: a statement has waited for so long.
    """
    if not uri.startswith("postgresql"):
        yield
        return
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", limit)
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != LOCK_NOT_AVAILABLE:
            raise
        raise LockedError(sentence(uri)) from error
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", limit)


def limit(connection: Any, _record: object) -> None:
    """Limit how long a new connection waits for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{SECONDS}s'")
    connection.commit()


def sentence(uri: str) -> str:
    """Who has locked something for so long, and what to do."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        found = [holder._mapping for holder in connection.execute(sqlalchemy.text(HOLDERS))]
    said = f"Somebody else has held locks in the database for more than {SECONDS} s"
    if not found:
        return f"{said}, and holds none now; try again."
    who = " and ".join(
        f"process {holder['pid']} of user {holder['user']}"
        + (f" ({holder['application']})" if holder["application"] else "")
        + (f" since {holder['since']}" if holder["since"] else "")
        for holder in found
    )
    return (
        f"{said}: {who}; wait for the end of its transaction, or end it with pg_terminate_backend({found[0]['pid']})."
    )
