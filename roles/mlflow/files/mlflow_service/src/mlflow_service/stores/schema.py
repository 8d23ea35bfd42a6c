"""The schema of the databases: what they have, what a release wants, and the way from one to the other.

They are the tracking database and, where accounts are on, the auth database; the release is the one that
runs this. Run as the service's user.
"""

import ast
import contextlib
import graphlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

from mlflow_service.stores import pooler, waiting
from mlflow_service.system import without_gc

LOCK = 0x6D6C666C6F77  # "mlflow": PostgreSQL's advisory lock that whoever migrates holds
AUTH_MARK = "+"  # before the auth database's revision


@dataclass(frozen=True)
class Store:
    """One of the databases of the service.

    Attributes:
        variable: of the service's environment, with its SQLAlchemy URI; empty or absent where there is none.
        version_table: where it keeps its schema's revision.
        scripts: folder of its migrations in the package ``mlflow``.
    """

    variable: str
    version_table: str
    scripts: str

    @property
    def uri(self) -> str:
        """Where the database itself is; MLflow may reach it through a pooler."""
        return pooler.uri(os.environ.get(self.variable, ""))


TRACKING = Store("MLFLOW_BACKEND_STORE_URI", "alembic_version", "store/db_migrations/versions")
AUTH = Store("MLFLOW_SERVICE_AUTH_STORE_URI", "alembic_version_auth", "server/auth/db/migrations/versions")
STORES = (TRACKING, AUTH)
# MLflow before 3.6 kept no revision of the auth database; MLflow takes its tables for those of this one.
UNMARKED_AUTH = "8606fa83a998"
# Table and the column with its milliseconds since 1970, by kind
KINDS = {
    "runs": ("runs", "start_time"),
    "experiments": ("experiments", "creation_time"),
    "registered models": ("registered_models", "creation_time"),
    "model versions": ("model_versions", "creation_time"),
    "traces": ("trace_info", "timestamp_ms"),
}


@dataclass
class Schema:
    """What a release wants and what a database has.

    Attributes:
        head: the newest revision that this release's MLflow has a migration for.
        revision: the database's own; empty where it has no tables of MLflow yet.
        known: whether this release can start from that revision. If not, a newer one has made it.
    """

    head: str
    revision: str
    known: bool


def revisions(store: Store = TRACKING) -> list[str]:
    """The revisions of a store that this release can start from, newest first.

    The migrations are read and not imported: they import MLflow, which takes seconds, while clients wait.
    """
    folder = Path(importlib.util.find_spec("mlflow").origin).parent / store.scripts
    parents = {}
    for path in folder.glob("*.py"):
        said = assignments(path)
        if "revision" in said:
            down = said["down_revision"] or ()
            parents[said["revision"]] = (down,) if isinstance(down, str) else down
    return list(graphlib.TopologicalSorter(parents).static_order())[::-1]


def assignments(script: Path) -> dict[str, str | tuple[str, ...] | None]:
    """What a migration says of its place among the others."""
    found = {}
    for line in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign | ast.AnnAssign):
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if isinstance(target, ast.Name) and target.id in {"revision", "down_revision"}:
                found[target.id] = ast.literal_eval(line.value)
    return found


def head(store: Store = TRACKING) -> str:
    """The newest revision of a store that MLflow ships a migration for."""
    return revisions(store)[0]


def revision(connection: sqlalchemy.Connection, store: Store = TRACKING) -> str:
    """The schema revision of MLflow's tables, or the empty string."""
    tables = sqlalchemy.inspect(connection)
    if not tables.has_table(store.version_table):
        return UNMARKED_AUTH if store is AUTH and tables.has_table("users") else ""
    return connection.scalar(sqlalchemy.text(f"SELECT version_num FROM {store.version_table}")) or ""


def compare(connection: sqlalchemy.Connection, store: Store = TRACKING) -> Schema:
    found, known = revision(connection, store), revisions(store)
    return Schema(known[0], found, not found or found in known)


def together(tracking: Schema, auth: Schema | None) -> Schema:
    """Both databases as one: ``dc11669786a5+f1a2b3c4d5e6``, or the tracking database's alone where accounts are off.

    An auth database without tables counts as up to date: its first use makes them, and that migrates nothing.
    """
    if auth is None:
        return tracking
    return Schema(
        head=f"{tracking.head}{AUTH_MARK}{auth.head}",
        revision=tracking.revision and f"{tracking.revision}{AUTH_MARK}{auth.revision or auth.head}",
        known=tracking.known and auth.known,
    )


@contextlib.contextmanager
def connect(store: Store = TRACKING) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def look(store: Store) -> Schema | None:
    """A store's schema; None where the service has no such store. Makes no file."""
    if not store.uri:
        return None
    if store.uri.startswith("sqlite:///") and not Path(store.uri.removeprefix("sqlite:///")).exists():
        return Schema(head(store), "", True)
    with connect(store) as connection:
        return compare(connection, store)


def show() -> Schema:
    """The schema of all databases; raises waiting.LockedError where somebody has locked what says it."""
    with waiting.limited(TRACKING.uri):
        return together(look(TRACKING), look(AUTH))


def upgrade(store: Store, uri: str) -> None:
    """Bring a database to the release's head; an empty one gets its tables."""
    if store is TRACKING:
        with without_gc.in_one_go():
            from mlflow.db import upgrade

        upgrade.callback(uri)  # what `mlflow db upgrade` does
    else:
        from mlflow.server.auth.db import utils

        utils.migrate(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool), "head")


def migrate() -> str:
    """Bring the databases to the release's heads, unless somebody else has done so meanwhile.

    One at a time: of two machines with one PostgreSQL, the second waits for the first. An auth database
    without tables stays without: the server's start makes them.

    Returns:
        The revision that they had.

    Raises:
        waiting.LockedError: somebody else holds a table; what was done of this database's migration is taken back.
    """
    with waiting.limited(TRACKING.uri), connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("SET lock_timeout = 0"))  # another machine's migration may take long
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        tracking, accounts = compare(connection), look(AUTH)
        if tracking.revision != tracking.head:
            upgrade(TRACKING, TRACKING.uri)
        if accounts and accounts.revision not in {"", accounts.head}:
            upgrade(AUTH, AUTH.uri)
    return together(tracking, accounts).revision


def known() -> list[str]:
    """The revisions that this release can start from; those of the auth database are marked."""
    return revisions() + [AUTH_MARK + each for each in revisions(AUTH)]


def since(milliseconds: int) -> dict[str, int]:
    """What the tracking database has been given since a moment: how many of each kind, where there are any.

    It is what going back to a backup of that moment loses.

    Args:
        milliseconds: the moment, since 1970.
    """
    with connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        counts = {
            kind: connection.scalar(
                sqlalchemy.text(f"SELECT count(*) FROM {table} WHERE {column} > :moment"), {"moment": milliseconds}
            )
            for kind, (table, column) in KINDS.items()
            if table in tables
        }
    return {kind: count for kind, count in counts.items() if count}
