"""What a database has and a release wants; bringing it up to date changes the schema and no row; what was made since."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from conftest import OLD_AUTH_REVISION, OLD_REVISION, SEPARATE, Postgres, make_older
from mlflow_service.stores import schema, waiting

TRACKING, AUTH = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_SERVICE_AUTH_STORE_URI"


@pytest.fixture(scope="session")
def heads() -> tuple[str, str]:
    return schema.head(schema.TRACKING), schema.head(schema.AUTH)


@pytest.fixture(params=["sqlite", "postgresql"])
def older(request: pytest.FixtureRequest, tmp_path: Path, postgres_server: Postgres) -> str:
    """A store of MLflow 3.16.1 with a run in it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db" if request.param == "sqlite" else postgres_server.make("older")
    make_older(uri)
    do(
        uri,
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (7, 'e', '', 'active')",
    )
    do(uri, "INSERT INTO runs (run_uuid, experiment_id, name, start_time) VALUES ('r', 7, 'n', 5)")
    return uri


def do(uri: str, statement: str) -> None:
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).begin() as connection:
        connection.execute(sqlalchemy.text(statement))


def ask(uri: str, query: str) -> list[tuple]:
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect() as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]


def test_migration_is_announced_and_done_and_keeps_every_row(program, older, heads):
    shown = program("schema", "show", **{TRACKING: older}).answer
    assert shown == {"head": heads[0], "revision": OLD_REVISION, "known": True}
    done = program("schema", "migrate", **{TRACKING: older}).answer
    assert done == {"head": heads[0], "revision": heads[0], "known": True, "before": OLD_REVISION}
    assert ask(older, "SELECT run_uuid, experiment_id, name, start_time FROM runs") == [("r", 7, "n", 5)]
    again = program("schema", "migrate", **{TRACKING: older}).answer
    assert again["before"] == heads[0]


def test_two_machines_that_migrate_at_once_wait_for_each_other(postgres_server, heads):
    uri = postgres_server.make("older")
    make_older(uri)
    command = [sys.executable, "-I", "-m", "mlflow_service.schema", "migrate"]
    environment = {**SEPARATE, TRACKING: uri, "PATH": "/usr/bin:/bin"}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(each["before"] for each in said) == sorted([OLD_REVISION, heads[0]])
    assert {each["revision"] for each in said} == {heads[0]}


def test_client_that_holds_a_table_is_named_and_hinders_a_migration_no_longer_than_it_may(
    postgres_server, environment, monkeypatch, heads
):
    uri = postgres_server.make("older")
    make_older(uri)
    environment(**{TRACKING: uri})
    monkeypatch.setattr(waiting, "SECONDS", 1)
    engine = sqlalchemy.create_engine(f"{uri}&application_name=notebook", poolclass=sqlalchemy.NullPool)
    with engine.connect() as client:
        client.execute(sqlalchemy.text("LOCK TABLE alembic_version IN SHARE MODE"))  # which lets others read it
        pid = client.scalar(sqlalchemy.text("SELECT pg_backend_pid()"))
        words = (
            rf"for more than 1 s: process {pid} of user owner \(notebook\) since 20.*pg_terminate_backend\({pid}\)\.$"
        )
        with pytest.raises(waiting.LockedError, match=words):
            schema.migrate()
        assert schema.show().revision == OLD_REVISION
    with engine.begin() as client:
        client.execute(sqlalchemy.text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(waiting.LockedError, match="process"):
            schema.show()
    assert schema.migrate() == OLD_REVISION
    assert schema.show().revision == heads[0]


def test_schema_of_a_newer_mlflow_is_known_for_what_it_is(program, older):
    do(older, "UPDATE alembic_version SET version_num = 'f0f0f0f0f0f0'")
    shown = program("schema", "show", **{TRACKING: older}).answer
    assert (shown["revision"], shown["known"]) == ("f0f0f0f0f0f0", False)


def test_place_without_a_database_is_new_and_stays_without(program, tmp_path, heads):
    shown = program("schema", "show", **{TRACKING: f"sqlite:///{tmp_path}/none.db"}).answer
    assert shown == {"head": heads[0], "revision": "", "known": True}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("older", ["sqlite"], indirect=True)
def test_accounts_are_part_of_the_schema_and_are_migrated_with_it(program, older, tmp_path, heads):
    auth = f"sqlite:///{tmp_path}/auth.db"
    stores = {TRACKING: older, AUTH: auth}
    assert (
        program("schema", "show", **stores).answer["revision"] == f"{OLD_REVISION}+{heads[1]}"
    )  # made at its first use
    make_older(auth, auth=True)
    do(auth, "INSERT INTO users (username, password_hash, is_admin) VALUES ('ann', 'x', 0)")
    do(auth, "DROP TABLE alembic_version_auth")  # as MLflow before 3.6 has it
    assert program("schema", "show", **stores).answer["revision"] == f"{OLD_REVISION}+{OLD_AUTH_REVISION}"
    done = program("schema", "migrate", **stores).answer
    assert (done["before"], done["revision"]) == (f"{OLD_REVISION}+{OLD_AUTH_REVISION}", "+".join(heads))
    assert ask(auth, "SELECT username FROM users") == [("ann",)]


def test_release_says_which_revisions_it_can_start_from(program, heads):
    known = program("schema", "revisions").answer
    assert {OLD_REVISION, heads[0], f"+{OLD_AUTH_REVISION}", f"+{heads[1]}"} <= set(known)


def test_unknown_word_is_no_command(program, older):
    done = program("schema", "upgrade", **{TRACKING: older})
    assert done.status != 0
    assert ask(older, "SELECT version_num FROM alembic_version") == [(OLD_REVISION,)]


def test_what_was_made_since_a_moment_is_counted_by_kind(program, older, environment):
    environment(**{TRACKING: older})
    assert schema.since(4) == {"runs": 1}
    assert schema.since(5) == {}
    assert program("since", "4", **{TRACKING: older}).answer == {"runs": 1}
