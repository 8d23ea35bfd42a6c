"""A server that starts on another store takes its predecessor's rows over, once, whatever PostgreSQL's variables say now."""

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import DATABASE_HOST, OWNERS_PASSWORD, Postgres
from mlflow_service.stores import copy_at_start, copying, schema


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment) -> Callable[..., None]:
    """A function that does what a server does first, with what it has been told about the store before."""
    monkeypatch.chdir(tmp_path)

    def begin(before: dict[str, str], **served: str) -> None:
        lines = [f'{name}="{value}"' for name, value in (before | {"MLFLOW_SERVICE_STORE": "before"}).items()]
        previous = tmp_path / "previous.env"
        if not previous.exists():
            previous.write_text("\n".join(lines) + "\n")
        environment(MLFLOW_SERVICE_PREVIOUS_SETTINGS=str(previous), **served)
        copy_at_start.take_over()

    return begin


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_rows_and_accounts_of_postgresql_are_taken_over_into_sqlite_once(
    start, store, tmp_path, postgres_server: Postgres, template
):
    """The store before is reached by its own settings, and not by variables that hold for the new one."""
    runs = count(store, "runs")
    served = postgres_server.make("before", template)
    copying.transfer([copying.Copy(schema.TRACKING, f"sqlite:///{store}", served)])
    auth = postgres_server.make("before_auth")
    schema.upgrade(schema.AUTH, auth)
    postgres_server.ask(
        "INSERT INTO users (username, password_hash, is_admin) VALUES ('ann', 'x', false)", "before_auth"
    )
    before = {
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://",
        "MLFLOW_SERVICE_AUTH_STORE_URI": "postgresql+psycopg2:///before_auth",
        "PGHOST": DATABASE_HOST,
        "PGDATABASE": "before",
        "PGUSER": "owner",
        "PGPASSWORD": OWNERS_PASSWORD,
        "PGSSLMODE": "require",
    }
    new = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/new.db",
        "MLFLOW_SERVICE_AUTH_STORE_URI": f"sqlite:///{tmp_path}/auth.db",
        "PGHOST": "elsewhere.invalid",
    }
    start(before, **new)
    assert (count(tmp_path / "new.db", "runs"), count(tmp_path / "auth.db", "users")) == (runs, 1)
    with closing(sqlite3.connect(tmp_path / "new.db")) as database:
        database.execute("DELETE FROM experiments")
        database.commit()
    start(before, **new)  # as after a reboot: what is served since is not touched
    assert count(tmp_path / "new.db", "experiments") == 0


def test_server_does_not_start_where_not_every_row_can_be_taken_over(start, store, tmp_path, caplog):
    new = shutil.copy(store, tmp_path / "new.db")
    with closing(sqlite3.connect(new)) as database:
        database.execute("UPDATE runs SET name = 'theirs'")
        database.commit()
    before = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{store}"}
    with caplog.at_level(logging.ERROR, "mlflow_service"), pytest.raises(SystemExit) as ended:
        start(before, MLFLOW_BACKEND_STORE_URI=f"sqlite:///{new}")
    assert ended.value.code == 1
    assert "The target already holds rows of its own" in caplog.text
    assert not (tmp_path / copy_at_start.DONE).exists()


def test_server_with_no_store_before_has_nothing_to_do(tmp_path, environment):
    environment(MLFLOW_SERVICE_PREVIOUS_SETTINGS=str(tmp_path / "none.env"), MLFLOW_BACKEND_STORE_URI="none")
    copy_at_start.take_over()
