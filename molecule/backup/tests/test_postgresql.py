"""The same for PostgreSQL on the machine, which serves from here on."""

import json

import pytest
from fixtures import wait_until
from secrecy import watched_command_lines
from steps import AUTH, FOLDER, RESTORE, SERVER, back_up, failed_backup, failure, left, manifest, program, restore, rows

POSTGRESQL = {"mlflow_backend_store": "postgresql", "postgresql_install": True, "mlflow_backend_switch": "keep"}
PASSWORD = "p@ss:w/rd#%?&x"
BY_PASSWORD = {
    "mlflow_postgres_host": "127.0.0.1",
    "mlflow_postgres_password": PASSWORD,
    "mlflow_postgres_connection_string": "postgresql://mlflow:p%40ss%3Aw%2Frd%23%25%3F%26x@127.0.0.1:5432/mlflow?application_name=x",
}
ACCOUNTS = {
    "mlflow_auth_enabled": True,
    "mlflow_users": [
        {"name": "ann", "password": "correct-horse-1", "permissions": {"experiments": {"Default": "MANAGE"}}},
        {"name": "bob", "password": "correct-horse-2"},
    ],
}
LARGE = "CREATE TABLE large AS SELECT md5(n::text) || md5((n + 1)::text) || md5((n + 2)::text) AS t FROM generate_series(1, 600000) n"


def ask(machine, query):
    return machine.host.check_output("psql --username=postgres --dbname=mlflow -Atc %s", query)


def ask_as_service(machine, query, database="mlflow"):
    command = "cd / && setpriv --reuid=mlflow --regid=mlflow --clear-groups psql --dbname=%s -Atc %s"
    return machine.host.check_output(command, database, query)


@pytest.fixture(scope="module")
def switched():
    return set()


@pytest.fixture
def postgresql(machine, switched):
    """The machine, with its own PostgreSQL and all kinds of things in it."""
    if not switched:
        machine.converge(**POSTGRESQL)
        machine.client("fill_store.py")
        switched.add(machine.name)
    return machine


def state(machine):
    return machine.run("systemctl show --property ActiveState --value mlflow-backup.service")


def test_timer_is_on_where_the_data_are_this_machines(postgresql):
    assert postgresql.run("systemctl is-active mlflow-backup.timer") == "active"


def test_manifest_names_the_store(postgresql):
    found = manifest(postgresql, back_up(postgresql)["path"])
    assert (found["store"]["kind"], found["store"]["schema"]) == ("postgresql", "public")
    assert found["store"]["name"].startswith("postgresql:///mlflow?host=")
    assert found["schema_revision"] == "dc11669786a5"
    assert "database.dump" in found["files"]
    assert "databases/mlflow.db" not in found["files"]  # the store that was left


def test_backup_under_load_brings_everything_back(postgresql):
    before = postgresql.client("read_store.py")
    with postgresql.traffic() as seen:
        acknowledged = int(ask(postgresql, "SELECT count(*) FROM runs"))
        path = back_up(postgresql)["path"]
    assert seen.failures == []
    assert seen.answered > 0
    restore(postgresql, path)
    assert postgresql.is_healthy()
    assert postgresql.client("read_store.py") == before
    assert int(ask(postgresql, "SELECT count(*) FROM runs")) >= acknowledged


def test_destroyed_database_comes_back_row_by_row(postgresql):
    """What a newer schema has added goes, and MLflow can go on writing."""
    before, path = rows(postgresql), back_up(postgresql)["path"]
    postgresql.run(f"systemctl stop {SERVER}")
    ask_as_service(postgresql, "DROP TABLE metrics, tags CASCADE")
    ask_as_service(postgresql, "UPDATE alembic_version SET version_num = 'newer'")
    ask_as_service(
        postgresql,
        "CREATE TYPE mood AS ENUM ('good'); CREATE TABLE newer (id serial, m mood); CREATE VIEW v AS SELECT * FROM newer",
    )
    ask(postgresql, "CREATE EXTENSION pg_trgm")
    restore(postgresql, path)
    assert rows(postgresql) == before
    assert ask(postgresql, "SELECT count(*) FROM pg_type WHERE typname IN ('mood', 'newer', 'v')") == "0"
    assert ask(postgresql, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == "1"
    assert postgresql.client("log_everything.py")["run_id"]


def test_pg_dump_that_is_killed_half_way_leaves_nothing(postgresql):
    older = left(postgresql)
    ask_as_service(postgresql, LARGE)
    try:
        postgresql.run("systemctl start --no-block mlflow-backup.service")
        wait_until(
            lambda: postgresql.host.run(f"test -s {FOLDER}/.*.unfinished/database.dump").rc == 0, 30, "it is half-way"
        )
        postgresql.run("kill -KILL $(grep -lx pg_dump /proc/[0-9]*/comm | cut -d/ -f3)")
        wait_until(lambda: state(postgresql) == "failed", 30, "it has failed")
    finally:
        ask_as_service(postgresql, "DROP TABLE large")
    assert failure(postgresql).startswith("pg_dump was stopped by signal 9")
    assert left(postgresql) == older


def test_restore_that_is_killed_half_way_leaves_what_was_there(postgresql):
    ask_as_service(postgresql, LARGE)
    path = back_up(postgresql)["path"]
    ask_as_service(postgresql, "DROP TABLE large")
    before = rows(postgresql)
    postgresql.run(f"systemctl stop {SERVER}")
    copying = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mlflow-backup' AND query ILIKE 'COPY public.large%'"
    code = RESTORE.replace("backup.restore", "import os; print(os.getpid(), flush=True)\nbackup.restore")
    postgresql.run(f"cat > /srv/restore.py <<'END'\n{code}\nEND")
    postgresql.run(f"systemd-run --quiet --unit=restore /opt/mlflow/current/bin/python /srv/restore.py {path}")
    wait_until(lambda: ask(postgresql, copying) == "1", 60, "it is half-way")
    postgresql.run("systemctl kill --kill-who=main --signal=KILL restore.service")
    wait_until(lambda: postgresql.host.run("systemctl is-active restore.service").rc != 0, 30, "it is gone")
    wait_until(lambda: ask(postgresql, copying) == "0", 30, "its transaction has ended")
    assert rows(postgresql) == before
    program(postgresql, RESTORE, path)  # and it can be run again
    assert ask(postgresql, "SELECT count(*) FROM large") == "600000"
    ask_as_service(postgresql, "DROP TABLE large")
    assert rows(postgresql) == before
    postgresql.run(f"systemctl reset-failed; systemctl start {SERVER}")


def test_database_that_is_away_fails_the_backup_with_a_sentence(postgresql):
    older = left(postgresql)
    postgresql.run("systemctl stop postgresql@15-main")  # which waits until it has
    try:
        assert "PostgreSQL can't be used: no PostgreSQL listens on this machine's socket" in failed_backup(postgresql)
    finally:
        postgresql.run("systemctl start postgresql@15-main")
    assert left(postgresql) == older


def test_password_shows_in_no_command_line(postgresql):
    postgresql.converge(**{**POSTGRESQL, **BY_PASSWORD})
    # Reached by loopback, the data are this machine's as well.
    assert postgresql.run("systemctl is-active mlflow-backup.timer") == "active"
    before = rows(postgresql)
    with watched_command_lines(postgresql.name, [PASSWORD, "p%40ss"]) as seen:
        made = back_up(postgresql)
        restore(postgresql, made["path"])
    assert seen == []
    assert rows(postgresql) == before
    assert PASSWORD not in postgresql.run(f"journalctl --identifier=mlflow-backup; cat {made['path']}/manifest.json")


def test_accounts_come_back_with_the_runs_or_stay_where_the_backup_has_none(postgresql):
    """Users, their passwords and their permissions."""
    without = back_up(postgresql)["path"]
    postgresql.converge(**POSTGRESQL, **ACCOUNTS)
    before, accounts = rows(postgresql), rows(postgresql, AUTH)
    assert accounts["users"][0] == 3
    made = back_up(postgresql)
    assert manifest(postgresql, made["path"])["auth"]["schema_revision"] == "f1a2b3c4d5e6"
    postgresql.run(f"systemctl stop {SERVER}")
    ask_as_service(postgresql, "DROP TABLE metrics, tags CASCADE")
    ask_as_service(postgresql, "DROP TABLE users, roles CASCADE", "mlflow_auth")
    restore(postgresql, made["path"])
    assert (rows(postgresql), rows(postgresql, AUTH)) == (before, accounts)
    assert postgresql.is_healthy()
    again = postgresql.playbook("--extra-vars", json.dumps({**POSTGRESQL, **ACCOUNTS}))
    assert again.changed == 0, again.output[-3000:]  # every password and permission is right

    settings = json.dumps({**POSTGRESQL, **ACCOUNTS, "mlflow_backup": without})
    done = postgresql.playbook("--extra-vars", settings, playbook="playbooks/restore.yml")
    assert done.status == 0, done.output[-3000:]
    assert "has no accounts; those of the server stay as they are." in done.said
    assert rows(postgresql, AUTH) == accounts
