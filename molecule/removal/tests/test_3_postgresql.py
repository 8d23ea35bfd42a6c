"""Folders of one's own, artifacts elsewhere on the machine, and PostgreSQL beside it, which is data too."""

import pytest
from outputs import ASIDE, said

SETTINGS = {
    "mlflow_install_dir": "/srv/app/mlflow",
    "mlflow_config_dir": "/srv/app/mlflow-etc",
    "mlflow_data_dir": "/srv/mlflow-home",
    "mlflow_backup_dir": "/srv/mlflow-backups",
    "mlflow_artifacts_location": "/srv/mlflow-files",
    "mlflow_user": "tracker",
    "mlflow_group": "tracking",
    "mlflow_postgres_user": "tracker",
    "mlflow_backend_store": "postgresql",
    "postgresql_install": True,
}
PURGE = {**SETTINGS, "mlflow_purge": True, "mlflow_purge_confirm": "mlflow-removal"}


@pytest.fixture
def ask(machine):
    """A function that asks the server on the machine as its superuser."""
    return lambda query, database="postgres": machine.host.check_output(
        "psql --username=postgres --dbname=%s -Atc %s", database, query
    )


def test_database_and_folders_of_ones_own_stay(machine, uninstall, ask):
    ask("DROP DATABASE mlflow")  # of a server that the image had
    folder = SETTINGS["mlflow_install_dir"]
    machine.run(f"mkdir -p {folder} && cp -al {ASIDE}/releases {ASIDE}/uv-* {folder} && rm -r {ASIDE}")
    machine.converge(**SETTINGS)
    machine.client("log_everything.py")
    runs = ask("SELECT count(*) FROM runs", "mlflow")
    ask("CREATE DATABASE other")
    gone = uninstall(**SETTINGS)
    assert gone.status == 0, gone.output
    words = said(gone)
    assert "Kept: the database mlflow of this machine's PostgreSQL" in words
    assert "Kept: /srv/mlflow-files (artifacts)" in words
    assert machine.run("ls -A /srv/app") == ""
    assert machine.host.run("getent passwd tracker; getent group tracking").stdout == ""
    assert ask("SELECT count(*) FROM runs", "mlflow") == runs


def test_database_that_cannot_be_asked_is_no_reason_to_delete_the_rest(machine, uninstall):
    machine.run("systemctl stop postgresql")
    try:
        refused = uninstall(**PURGE)
    finally:
        machine.run("systemctl start postgresql")
    words = said(refused)
    assert "PostgreSQL on this machine can't be asked for the database mlflow" in words
    assert machine.host.file("/srv/mlflow-files").exists


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"mlflow_postgres_host": "db1.example.com"},
        {"mlflow_postgres_connection_string": "postgresql://tracker:p%40ss@db1.example.com/mlflow"},
    ],
)
def test_database_elsewhere_is_never_touched(uninstall, ask, elsewhere):
    words = said(uninstall("--check", **{**PURGE, **elsewhere}))
    assert "Never touched from here: the PostgreSQL database postgresql://db1.example.com:5432/mlflow" in words
    assert "this machine's PostgreSQL" not in words
    assert "p%40ss" not in words


def test_superuser_who_counts_runs_nothing_that_the_service_has_written(uninstall, ask):
    """A view in the place of a table runs as who asks it, and the superuser may start programs."""
    ask(
        "ALTER TABLE runs RENAME TO kept; CREATE TABLE seen (who text);"
        "CREATE FUNCTION spy() RETURNS int LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO public.seen VALUES (current_user); RETURN 1; END';"
        "CREATE VIEW runs AS SELECT public.spy() AS run_uuid",
        "mlflow",
    )
    try:
        words = said(uninstall("--check", **PURGE))
        assert ask("SELECT count(*) FROM seen", "mlflow") == "0"
    finally:
        ask("DROP VIEW runs; DROP FUNCTION spy; DROP TABLE seen; ALTER TABLE kept RENAME TO runs", "mlflow")
    assert "the database mlflow of this machine's PostgreSQL (" in words
    assert "runs in" not in words.partition("the database mlflow of")[2].partition(")")[0]


def test_purge_drops_the_database_and_no_other(machine, uninstall, ask):
    runs = ask("SELECT count(*) FROM runs", "mlflow")
    purged = uninstall(**PURGE)
    assert purged.status == 0, purged.output
    assert f", with {runs} runs in 2 experiments)" in said(purged)
    assert ask("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate") == (
        "other postgres"
    )
    assert ask("SELECT count(*) FROM pg_roles WHERE rolname = 'tracker'") == "0"
    assert machine.run("ls -A /srv") == "app"
    assert uninstall(**PURGE).changed == 0


def test_user_who_owns_something_else_stays(uninstall, ask):
    ask("CREATE ROLE tracker")
    ask("ALTER DATABASE other OWNER TO tracker")
    words = said(uninstall(**PURGE))
    assert "The user tracker of PostgreSQL stays: it has other rights or tables too." in words
    assert ask("SELECT count(*) FROM pg_roles WHERE rolname = 'tracker'") == "1"
