"""From one database to another: every row arrives, or the target is what it was and a sentence says why."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from conftest import CLIENTS, Postgres, client
from mlflow_service.stores import copying, schema

REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken''; END';"
BREAK = f"{REFUSE} CREATE TRIGGER refuse BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION refuse();"
A_RUN = "(SELECT run_uuid FROM runs LIMIT 1)"
# What SQLite takes, and PostgreSQL or MLflow's schema does not
FAULTS = {
    "NUL": (f"UPDATE tags SET value = 'a' || char(0) WHERE run_uuid = {A_RUN}", "value holds a NUL character, which"),
    "not UTF-8": ("UPDATE runs SET name = CAST(x'ff41' AS TEXT)", "column name holds text that is not UTF-8"),
    "too long": (f"UPDATE runs SET name = '{'x' * 251}'", "column name holds 251 characters, where 250 fit"),
    "number beyond 32 bits": (
        "UPDATE model_versions SET version = version + 3000000000",
        "column version holds a number of more than 32 bits",
    ),
    "text for a number": ("UPDATE runs SET start_time = 'soon'", "start_time holds str, where int belongs"),
}


@pytest.fixture
def target(postgres_server: Postgres, template: str) -> str:
    """A PostgreSQL database with MLflow's tables and nothing in them."""
    return postgres_server.make("target", template)


def sqlite(path: Path) -> str:
    return f"sqlite:///{path}"


def copy(source: str, target: str, store: schema.Store = schema.TRACKING, **options) -> dict[str, int]:
    return copying.transfer([copying.Copy(store, source, target)], **options)


def rows(uri: str) -> dict[str, int]:
    """How many rows each table has; those that MLflow makes by itself among them."""
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect() as connection:
        tables = sqlalchemy.inspect(connection).get_table_names()
        return {table: connection.scalar(sqlalchemy.text(f"SELECT count(*) FROM {table}")) for table in tables}


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def test_every_row_arrives_and_the_way_back_is_the_same(postgres_server, store, tmp_path):
    """A client reads the same from all three; into a database without tables, which gets them."""
    target = postgres_server.make("target")
    before, held = client(CLIENTS / "read_store.py", sqlite(store), tmp_path), rows(sqlite(store))
    copied = copy(sqlite(store), target)
    assert copied == {name: count for name, count in held.items() if name not in copying.REVISION_TABLES}
    assert sum(copied.values()) > 400
    assert client(CLIENTS / "read_store.py", target, tmp_path) == before
    assert copy(target, sqlite(tmp_path / "back.db")) == copied
    assert client(CLIENTS / "read_store.py", sqlite(tmp_path / "back.db"), tmp_path) == before


def test_store_goes_on_where_the_copied_numbers_end(postgres_server, store, target):
    copy(sqlite(store), target)
    largest = int(postgres_server.ask("SELECT max(experiment_id) FROM experiments", "target"))
    made = postgres_server.ask("INSERT INTO experiments (name) VALUES ('new') RETURNING experiment_id", "target")
    assert int(made) == largest + 1


def test_copy_that_was_done_is_not_done_again(store, target):
    assert copy(sqlite(store), target)
    assert copy(sqlite(store), target) == {}


def test_copy_that_fails_half_way_leaves_the_target_as_it_was(postgres_server, store, target):
    before = rows(target)
    postgres_server.ask(BREAK, "target")
    with pytest.raises(copying.TransferError, match=r"^Table runs, row run_uuid='\w+' is refused \(RaiseException\)"):
        copy(sqlite(store), target)
    assert rows(target) == before


def test_connection_that_is_lost_half_way_leaves_the_target_as_it_was(postgres_server, store, target):
    before, seen = rows(target), []

    def cut(table: str, count: int) -> None:
        seen.append(table)
        if table == "experiments" and seen.count(table) == 1:
            postgres_server.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'target'")

    with pytest.raises(copying.TransferError):
        copy(sqlite(store), target, progress=cut)
    assert rows(target) == before


@pytest.mark.parametrize("statement, sentence", FAULTS.values(), ids=FAULTS)
def test_value_that_does_not_fit_is_named_by_its_row_and_column(store, target, statement, sentence):
    change(store, statement)
    before = rows(target)
    with pytest.raises(copying.TransferError) as refused:
        copy(sqlite(store), target)
    assert sentence in str(refused.value)
    assert str(refused.value).startswith("Table ")
    assert rows(target) == before


def test_number_that_sqlite_would_lose_is_refused(postgres_server, store, target, tmp_path):
    copy(sqlite(store), target)
    postgres_server.ask("UPDATE metrics SET value = 'NaN'", "target")
    with pytest.raises(copying.TransferError, match="column value is NaN, which SQLite can't store"):
        copy(target, sqlite(tmp_path / "back.db"))
    assert math.isnan(float(postgres_server.ask("SELECT max(value) FROM metrics", "target")))


def test_rows_of_the_target_are_never_replaced(postgres_server, store, target):
    postgres_server.ask("INSERT INTO experiments (name) VALUES ('theirs')", "target")
    before = rows(target)
    with pytest.raises(copying.TransferError, match=r"already holds rows of its own \(1 in experiments\) and is left"):
        copy(sqlite(store), target)
    assert rows(target) == before


def test_database_that_is_not_mlflows_alone_is_left_as_it_is(postgres_server, store):
    target = postgres_server.make("target")
    postgres_server.ask("CREATE TABLE theirs (n int); GRANT ALL ON theirs TO owner", "target")
    with pytest.raises(copying.TransferError, match="Only the target has the tables theirs: it is not MLflow's alone"):
        copy(sqlite(store), target)
    assert rows(target) == {"theirs": 0}


def test_source_of_another_schema_is_refused(store, target):
    change(store, "UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(copying.TransferError, match="The source has schema revision older, this release of MLflow"):
        copy(sqlite(store), target)


def test_target_of_another_schema_is_refused(postgres_server, store, target):
    postgres_server.ask("UPDATE alembic_version SET version_num = 'other'", "target")
    with pytest.raises(copying.TransferError, match=r"The source has schema revision \w+, the target other"):
        copy(sqlite(store), target)


def test_target_that_others_write_to_is_not_touched(postgres_server, store, target, monkeypatch):
    monkeypatch.setattr(copying, "LOCK_TIMEOUT_SECONDS", 1.0)
    engine = sqlalchemy.create_engine(target, poolclass=sqlalchemy.NullPool)
    with engine.connect() as other:
        other.execute(sqlalchemy.text("INSERT INTO experiments (name) VALUES ('theirs')"))
        with pytest.raises(copying.TransferError, match="Somebody else writes to the target, so it can't be locked"):
            copy(sqlite(store), target)


def test_database_that_can_not_be_opened_is_said(store, target, tmp_path):
    with pytest.raises(copying.TransferError, match=r"The target database can't be opened: .*password authentication"):
        copy(sqlite(store), target.replace("owner:", "owner:wrong"))
    (tmp_path / "none.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(copying.TransferError, match="The source database can't be opened: file is not a database"):
        copy(sqlite(tmp_path / "none.db"), target)


def test_source_is_only_read(store, target):
    before = store.read_bytes()
    copy(sqlite(store), target)
    assert store.read_bytes() == before


@pytest.fixture(scope="session")
def two_accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("accounts") / "auth.db"
    schema.upgrade(schema.AUTH, sqlite(path))
    change(path, "INSERT INTO users (username, password_hash, is_admin) VALUES ('admin', 'x', 1), ('ann', 'y', 0)")
    return path


@pytest.fixture
def accounts(two_accounts: Path, tmp_path: Path) -> Path:
    """An auth database with the administrator and one more account, which belongs to the test."""
    return Path(shutil.copy(two_accounts, tmp_path / "auth.db"))


def test_accounts_go_with_the_runs_or_stay_with_them(postgres_server, store, target, accounts):
    """Of two databases, none is left behind: neither is written where one of them fails."""
    auth = postgres_server.make("target_auth")
    copies = [
        copying.Copy(schema.AUTH, sqlite(accounts), auth),
        copying.Copy(schema.TRACKING, sqlite(store), target),
    ]
    before = rows(target)
    postgres_server.ask(BREAK, "target")
    with pytest.raises(copying.TransferError, match="Table runs, row run_uuid="):
        copying.transfer(copies)
    assert (rows(target), rows(auth)["users"]) == (before, 0)
    postgres_server.ask("DROP FUNCTION refuse CASCADE", "target")
    copying.transfer(copies)
    assert postgres_server.ask("SELECT string_agg(username, ',' ORDER BY id) FROM users", "target_auth") == "admin,ann"
    assert rows(target) == rows(sqlite(store))


def test_administrator_that_the_server_makes_counts_as_no_account(tmp_path, accounts):
    assert copying.accounts(sqlite(tmp_path / "none.db")) == 0
    assert copying.accounts(sqlite(accounts)) == 2
    change(accounts, "DELETE FROM users WHERE username = 'ann'")
    assert copying.accounts(sqlite(accounts)) == 0


def test_holdings_say_what_a_store_has(store, target, tmp_path):
    made = json.loads(json.dumps(rows(sqlite(store))))
    held = copying.holdings(sqlite(store))
    assert held["runs"] == made["runs"] and held["experiments"] == made["experiments"] - 1  # but the default one
    assert held["registered_models"] == made["registered_models"] and held["traces"] == made["trace_info"]
    assert set(copying.holdings(target).values()) == set(copying.holdings(sqlite(tmp_path / "none.db")).values()) == {0}
    copy(sqlite(shutil.copy(store, tmp_path / "other.db")), target)
    assert copying.holdings(target) == held
