"""Copy the service's databases into others, from SQLite to PostgreSQL or back.

The source is only read, as it was at one moment. The target changes in one transaction, which ends
only after every row was read back and compared: whatever goes wrong before that, the target holds
what it held. The transactions of the tracking and the auth database end together, one after the other.
Memory does not grow with the number of rows.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, MetaData, Row, Table, func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from mlflow_service.stores import schema

Tables = dict[str, Table]
Progress = Callable[[str, int], None]
Environment = Mapping[str, str] | None

BATCH_ROWS = 5000
LOCK_TIMEOUT_SECONDS = 30.0
REVISION_TABLES = {store.version_table for store in schema.STORES}
KINDS = {"experiments": "experiments", "runs": "runs", "registered_models": "registered_models", "trace_info": "traces"}
# Rows that MLflow makes without being asked: they count as nothing, and a copy replaces them.
DEFAULT_ROWS = {"experiments": {"experiment_id": 0, "name": "Default"}, "workspaces": {"name": "default"}}
COPY_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
SERVER_TABLES = {*REVISION_TABLES, "scheduler_leases"}
USERS = "users"  # the auth database's table that all others depend on


class TransferError(Exception):
    """Why nothing was copied; the text is one sentence for a person and holds no stored content."""


class JsonText(sqlalchemy.TypeDecorator):
    """JSON as the text that is stored, because JSON's null and SQL's NULL are the same to Python.

    SQLite keeps a bare number in a JSON column as a number (https://sqlite.org/datatype3.html,
    NUMERIC), so such a text gets the one spelling that survives it.
    """

    impl = sqlalchemy.Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: object) -> str | None:
        if isinstance(value, str):
            try:
                value = float(value) if "." in value or "e" in value.lower() else int(value)
            except ValueError:
                return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if value is None else json.dumps(value)


@dataclass(frozen=True)
class Copy:
    """A database to copy.

    Attributes:
        store: which one it is.
        source: SQLAlchemy URL of what is copied, such as ``sqlite:////var/lib/mlflow/mlflow.db``.
        target: the same of where it goes; ``postgresql+psycopg2://`` takes the rest from ``PG*``.
    """

    store: schema.Store
    source: str
    target: str


def transfer(
    copies: Sequence[Copy],
    progress: Progress = lambda table, rows: None,
    source_environment: Environment = None,
) -> dict[str, int]:
    """Copy every row of databases into others, which must hold none of their own.

    Both must have the schema of this release's MLflow; a target without tables gets it first. A source
    without tables is not copied.

    Args:
        copies: the databases; the last one's transaction ends first.
        progress: called with a table's name and the rows done, once while it is copied and once
            more while it is compared, at least every BATCH_ROWS rows.
        source_environment: the ``PG*`` variables that hold for the sources, and no others; without
            it those of this process hold.

    Returns:
        The rows copied, by table; none of a database when the target held exactly what the source holds.

    Raises:
        TransferError: nothing was copied.
    """
    copied = {}
    with _sentences(), contextlib.ExitStack() as open_until_all_are_done:
        for copy in copies:
            copied |= open_until_all_are_done.enter_context(_copied(copy, progress, source_environment))
    return copied


@contextlib.contextmanager
def _copied(copy: Copy, progress: Progress, source_environment: Environment) -> Iterator[dict[str, int]]:
    """Copy a database; what was written is there to stay once the block is left without an error."""
    path, store = _sqlite_path(copy.source), copy.store
    if path is not None and not path.exists():
        yield {}
        return
    with _open(copy.source, "source", environment=source_environment) as reading:
        tables = _tables(reading)
        if not tables and store is schema.AUTH:
            yield {}
            return
        revision, head = schema.revision(reading, store), schema.head(store)
        if revision != head:
            raise TransferError(
                f"The source has schema revision {revision or 'none'}, this release of MLflow wants {head}:"
                " bring it up to date first."
            )
        _give_schema(store, copy.target, tables)
        with _open(copy.target, "target", writes=True) as writing:
            found = _tables(writing)
            _compare_schemas(tables, found, revision, schema.revision(writing, store))
            _keep_others_out(writing, found)
            held = {name: rows for name, rows in _counts(writing, found).items() if rows}
            if not held:
                yield _copy(reading, writing, tables, found, progress)
            elif _same_rows(reading, writing, tables, found, progress):
                yield {}
            else:
                listed = ", ".join(f"{rows} in {name}" for name, rows in sorted(held.items(), key=_kinds_first)[:5])
                raise TransferError(f"The target already holds rows of its own ({listed}) and is left as it is.")


def holdings(url: str, environment: Environment = None) -> dict[str, int]:
    """How much a store holds: its experiments but the default one, runs, registered_models, traces, others.

    ``others`` counts the rows of every table that stands on its own, such as evaluation datasets,
    gateway secrets or webhooks; what belongs to a run or a trace, such as metrics, is not counted.

    Args:
        url: SQLAlchemy URL; a SQLite file that does not exist holds nothing.
        environment: the ``PG*`` variables that hold for it instead of those of this process.

    Raises:
        TransferError: it can't be read.
    """
    totals = dict.fromkeys([*KINDS.values(), "others"], 0)
    path = _sqlite_path(url)
    if path is not None and not path.exists():
        return totals
    with _sentences(), _open(url, "store", environment=environment) as reading:
        tables = _tables(reading)
        alone = {
            name: table
            for name, table in tables.items()
            if name in KINDS or {key.column.table.name for key in table.foreign_keys} <= {"experiments"}
        }
        for name, rows in _counts(reading, alone).items():
            totals[KINDS.get(name, "others")] += rows
    return totals


def accounts(url: str, environment: Environment = None) -> int:
    """How many accounts an auth database holds besides the one that is made without being asked.

    Raises:
        TransferError: it can't be read.
    """
    path = _sqlite_path(url)
    if path is not None and not path.exists():
        return 0
    with _sentences(), _open(url, "auth", environment=environment) as reading:
        return _counts(reading, _tables(reading)).get(USERS, 0)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Turn what a database says into TransferError, without the rows that it may quote."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        cause = getattr(error, "orig", None)
        reason = type(cause).__name__ if cause else f"{type(error).__name__}: {error}"
        raise TransferError(f"The database gave up ({reason}).") from None


def _sqlite_path(url: str) -> Path | None:
    try:
        parsed = sqlalchemy.make_url(url)
    except SQLAlchemyError:
        raise TransferError("The address of a database is no SQLAlchemy URL.") from None
    return Path(parsed.database or "").absolute() if parsed.get_backend_name() == "sqlite" else None


@contextlib.contextmanager
def _variables(environment: Environment) -> Iterator[None]:
    """Let these ``PG*`` variables hold, and no others: libpq reads them when it connects."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    try:
        if environment is not None:
            for name in before:
                del os.environ[name]
            os.environ.update({name: value for name, value in environment.items() if name.startswith("PG")})
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _open(url: str, role: str, writes: bool = False, environment: Environment = None) -> Iterator[Connection]:
    """A connection in one transaction, which is committed at the end unless something was raised."""
    path = _sqlite_path(url)

    def open_file() -> sqlite3.Connection:
        mode = "rwc" if writes else "ro"
        file = sqlite3.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=LOCK_TIMEOUT_SECONDS
        )
        # Text that is not UTF-8 must not end the reading before the row that holds it is known.
        file.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        return file

    try:
        if path is not None:
            options: dict[str, Any] = {"creator": open_file}
        else:
            options = {"isolation_level": "READ COMMITTED" if writes else "REPEATABLE READ"}
        engine = sqlalchemy.create_engine(
            "sqlite://" if path is not None else url, poolclass=sqlalchemy.NullPool, hide_parameters=True, **options
        )
        with _variables(environment):
            connection = engine.connect()
        if path is None:
            connection = connection.execution_options(postgresql_readonly=not writes)
        transaction = connection.begin()
        if path is not None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except (SQLAlchemyError, ImportError) as error:
        said = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
        raise TransferError(f"The {role} database can't be opened: {said}") from None
    with connection, transaction:
        yield connection


def _tables(connection: Connection) -> Tables:
    """The tables that a database has, parents before children, in types that every database knows."""

    def in_common_types(inspector: object, table: object, column: dict[str, Any]) -> None:
        with contextlib.suppress(NotImplementedError):  # a type that only somebody else's table has
            common = column["type"].as_generic()
            column["type"] = JsonText() if isinstance(common, sqlalchemy.JSON) else common

    metadata = MetaData()
    sqlalchemy.event.listen(metadata, "column_reflect", in_common_types, propagate=True)
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables}


def _columns(table: Table) -> list[Column]:
    """The columns that are stored, in an order that is the same in every database."""
    return [column for column in sorted(table.columns, key=lambda c: c.name) if column.computed is None]


def _give_schema(store: schema.Store, target: str, tables: Tables) -> None:
    """Let MLflow make its tables in a target that has none."""
    with _open(target, "target", writes=True) as connection:
        if schema.revision(connection, store) or set(_tables(connection)) - set(tables):
            return
    schema.upgrade(store, target)


def _compare_schemas(tables: Tables, found: Tables, revision: str, target_revision: str) -> None:
    """Raise TransferError unless both databases have the same tables with the same columns."""
    if strange := set(found) - set(tables):
        raise TransferError(f"Only the target has the tables {_some(strange)}: it is not MLflow's alone.")
    if target_revision != revision:
        raise TransferError(f"The source has schema revision {revision}, the target {target_revision or 'none'}.")
    if strange := set(tables) - set(found):
        raise TransferError(f"Only the source has the tables {_some(strange)}, which would be lost.")
    for name, table in tables.items():
        if names := {column.name for column in _columns(table)} ^ {column.name for column in _columns(found[name])}:
            raise TransferError(f"Only one side's table {name} has the columns {_some(names)}.")


def _some(names: Iterable[str]) -> str:
    """The first few names, for a sentence."""
    first = sorted(names)
    return ", ".join(first[:5]) + (f" and {len(first) - 5} more" if len(first) > 5 else "")


def _keep_others_out(connection: Connection, tables: Tables) -> None:
    """Let nobody else write to the database until the transaction ends; reading goes on."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(table) for table in tables.values())
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS:.0f}s'")
        try:
            connection.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
        except OperationalError:
            raise TransferError("Somebody else writes to the target, so it can't be locked.") from None


def _counts(connection: Connection, tables: Tables) -> dict[str, int]:
    """How many rows each table holds, without those that MLflow makes by itself."""
    counts = {}
    for name, table in tables.items():
        if name not in SERVER_TABLES:
            query = select(func.count()).select_from(table)
            if name in DEFAULT_ROWS:
                query = query.where(~sqlalchemy.and_(*(table.c[c] == value for c, value in DEFAULT_ROWS[name].items())))
            counts[name] = connection.execute(query).scalar_one()
    if counts.get(USERS) == 1 and connection.execute(select(tables[USERS].c.is_admin)).scalar():
        counts[USERS] = 0  # the administrator that the server's first start makes
    return counts


def _kinds_first(held: tuple[str, int]) -> tuple[bool, int]:
    name, rows = held
    return name not in KINDS, -rows


def _read(connection: Connection, table: Table) -> Iterator[Sequence[Row]]:
    """The rows of a table in batches."""
    wanted: list[Any] = _columns(table)
    if connection.dialect.name == "postgresql":  # whose driver would parse JSON; SQLite's cast would round numbers
        wanted = [sqlalchemy.cast(c, c.type).label(c.name) if isinstance(c.type, JsonText) else c for c in wanted]
    query = select(*wanted).execution_options(yield_per=BATCH_ROWS)
    try:
        yield from connection.execute(query).partitions()
    except (TypeError, ValueError):
        raise TransferError(f"Table {table.name} holds a value that is not of its column's type.") from None


def _checksum(rows: Sequence[Row]) -> int:
    """A number that tells other rows from these, in whatever order they come; those of batches add up.

    The text that Python shows a value by is exact for each of the types, floats included. Minus
    zero counts as zero: SQLite does not keep the sign.
    """
    total = 0
    for row in rows:
        values = [value or 0.0 if isinstance(value, float) else value for value in row]
        total += int.from_bytes(hashlib.sha256(repr(values).encode()).digest(), "big")
    return total % 2**256


def _fingerprint(connection: Connection, table: Table, progress: Progress) -> tuple[int, int]:
    """How many rows a table holds, and their checksum."""
    count = total = 0
    for rows in _read(connection, table):
        count += len(rows)
        total += _checksum(rows)
        progress(table.name, count)
    return count, total % 2**256


def _same_rows(reading: Connection, writing: Connection, tables: Tables, found: Tables, progress: Progress) -> bool:
    """Whether both databases hold the same; asks for the rows themselves only where their numbers agree."""
    if _counts(reading, tables) != _counts(writing, found):
        return False
    return all(
        _fingerprint(reading, tables[name], progress) == _fingerprint(writing, found[name], progress)
        for name in tables
        if name not in SERVER_TABLES
    )


def _copy(
    reading: Connection, writing: Connection, tables: Tables, found: Tables, progress: Progress
) -> dict[str, int]:
    """Replace what the target's tables hold with the source's rows, and compare them; returns the rows by table."""
    copied = {}
    parents_first = [table for name, table in found.items() if name not in REVISION_TABLES]
    for table in reversed(parents_first):
        writing.execute(table.delete())
    for table in parents_first:
        count = total = 0
        for rows in _read(reading, tables[table.name]):
            _write(writing, table, rows)
            count += len(rows)
            total += _checksum(rows)
            progress(table.name, count)
        if _fingerprint(writing, table, progress) != (count, total % 2**256):
            for rows in _read(reading, tables[table.name]):
                _refuse_faults(table, rows)
            raise TransferError(f"Table {table.name} came out of the target other than it went in.")
        copied[table.name] = count
    _move_sequences(writing, found)
    return copied


def _write(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows; raises TransferError that names the first one that the database does not take."""
    refused = (SQLAlchemyError, connection.dialect.dbapi.Error, ValueError, OverflowError)
    if connection.dialect.name == "sqlite":  # it would store NaN as NULL without a word
        _refuse_nan(table, rows)
    try:
        with connection.begin_nested():
            if connection.dialect.driver == "psycopg2":
                _copy_in(connection, table, rows)
            else:
                connection.execute(table.insert(), [row._asdict() for row in rows])
        return
    except refused:
        pass  # which row it was is found out one by one
    for row in rows:
        try:
            with connection.begin_nested():
                connection.execute(table.insert(), row._asdict())
        except refused as error:
            if connection.invalidated:
                raise TransferError(f"The target's connection was lost in the middle of table {table.name}.") from None
            _refuse_faults(table, [row])
            raise TransferError(f"Table {table.name}, row {_key(table, row)} is refused ({_told(error)}).") from None


def _copy_in(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows by COPY, in which PostgreSQL takes several times as many in a second.

    Source: https://www.postgresql.org/docs/current/sql-copy.html, Text Format.
    """
    quote = connection.dialect.identifier_preparer
    columns = ", ".join(quote.format_column(column) for column in _columns(table))
    text = "".join("\t".join(map(_copy_field, row)) + "\n" for row in rows)
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"COPY {quote.format_table(table)} ({columns}) FROM STDIN", io.StringIO(text))


def _copy_field(value: Any) -> str:
    if value is None:
        return r"\N"
    if isinstance(value, bytes):
        return rf"\\x{value.hex()}"
    return str(value).translate(COPY_ESCAPES)


def _refuse_nan(table: Table, rows: Sequence[Row]) -> None:
    numbers = [
        (i, column.name) for i, column in enumerate(_columns(table)) if isinstance(column.type, sqlalchemy.Float)
    ]
    for i, name in numbers:
        for row in rows:
            if isinstance(row[i], float) and math.isnan(row[i]):
                raise TransferError(
                    f"Table {table.name}, row {_key(table, row)}: column {name} is NaN, which SQLite can't store."
                )


def _key(table: Table, row: Row) -> str:
    """The row's primary key, short enough for a sentence."""
    return ", ".join(f"{column.name}={ascii(row._mapping[column.name])[:60]}" for column in table.primary_key)


def _refuse_faults(table: Table, rows: Sequence[Row]) -> None:
    """Raise TransferError for the first value that we see is not what its column takes."""
    for row in rows:
        for column, value in zip(_columns(table), row, strict=True):
            if fault := _fault(column, value):
                raise TransferError(
                    f"Table {table.name}, row {_key(table, row)}: column {column.name} {fault}."
                ) from None


def _told(error: Exception) -> str:
    """What the database says about a refused row, without the row."""
    cause = getattr(error, "orig", None) or error
    diagnosis = getattr(cause, "diag", None)
    places = [(kind, getattr(diagnosis, f"{kind}_name", None)) for kind in ("column", "constraint")]
    return ", ".join([type(cause).__name__, *(f"{kind} {name}" for kind, name in places if name)])


def _fault(column: Column, value: Any) -> str:
    """Why PostgreSQL can't take a value that SQLite has taken, or nothing."""
    kind = column.type.python_type if not isinstance(column.type, JsonText) else str
    fault = ""
    if value is None:
        fault = "" if column.nullable else "is NULL, where a value must be"
    elif not isinstance(value, (int, float) if kind is float else kind):
        fault = f"holds {type(value).__name__}, where {kind.__name__} belongs"
    elif isinstance(value, str):
        fault = _text_fault(column, value)
    elif isinstance(value, int) and type(column.type) is sqlalchemy.Integer and not -(2**31) <= value < 2**31:
        fault = "holds a number of more than 32 bits"
    return fault


def _text_fault(column: Column, value: str) -> str:
    length = getattr(column.type, "length", None)
    if "\0" in value:
        return "holds a NUL character, which PostgreSQL can't store"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "holds text that is not UTF-8"
    if length and len(value) > length:
        return f"holds {len(value)} characters, where {length} fit"
    if isinstance(column.type, JsonText):
        try:
            json.loads(value, parse_constant=int)  # int("NaN") fails
        except ValueError:
            return "holds JSON with NaN or Infinity, or no JSON, which PostgreSQL can't store"
    return ""


def _move_sequences(connection: Connection, tables: Tables) -> None:
    """Let PostgreSQL count on after the largest number that was copied, where it counts.

    A sequence moves at once and not with the transaction, which does no harm: it only counts.
    """
    if connection.dialect.name != "postgresql":
        return
    for table in tables.values():
        for column in table.primary_key:
            if isinstance(column.type, sqlalchemy.Integer):
                name = connection.dialect.identifier_preparer.format_table(table)
                largest = func.max(column)
                sequence = func.pg_get_serial_sequence(name, column.name)
                connection.execute(select(func.setval(sequence, func.greatest(largest, 1), largest >= 1)))
