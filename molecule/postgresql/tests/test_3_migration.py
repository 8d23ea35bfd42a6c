"""From SQLite to PostgreSQL: clients wait while the rows are copied, or go on with the store that they had.

That every row arrives, there and on the way back, or nothing has happened, is proven in the program's tests.
"""

import json

import pytest

testinfra_hosts = ["ansible://mlflow-postgresql"]

SQLITE = {"mlflow_backend_store": "sqlite", "mlflow_backend_switch": "keep"}
MOVED = {"mlflow_postgres_database": "moved", "mlflow_backend_switch": "migrate"}
ACCOUNTS = {
    "mlflow_auth_enabled": True,
    "mlflow_users": [
        {"name": "ann", "password": "correct-horse-1", "permissions": {"experiments": {"Default": "MANAGE"}}}
    ],
}
MOVED_ACCOUNTS = {**ACCOUNTS, "mlflow_postgres_database": "moved_2", "mlflow_auth_database": "moved_2_auth"}
REFUSE = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''broken''; END';"
BREAK = "CREATE TRIGGER refuse BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION refuse();"
# The same as soon as there is such a table
BREAK_LATER = f"""
CREATE FUNCTION break_later() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
  IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.runs') THEN {BREAK} END IF;
END$$;
CREATE EVENT TRIGGER break_later ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION break_later();
"""
MEND_LATER = "DROP EVENT TRIGGER break_later; DROP FUNCTION break_later, refuse CASCADE"


@pytest.fixture(scope="module")
def filled():
    """What the SQLite store was filled with, once."""
    return {}


@pytest.fixture
def on_sqlite(machine, filled):
    """The machine on its SQLite store, with all kinds of things in it."""
    if not filled:
        machine.converge(**SQLITE)
        assert not machine.host.file("/etc/mlflow/postgres-key.pem").exists  # of the store before
        machine.client("fill_store.py")
        filled.update(machine.client("read_store.py"))
    assert "sqlite" in machine.run("grep MLFLOW_BACKEND_STORE_URI= /etc/mlflow/mlflow.env")
    return machine


def test_nothing_is_left_behind_unasked_whatever_the_tags(on_sqlite, local):
    local.make("moved")
    before = on_sqlite.state()
    asked = json.dumps({**MOVED, "mlflow_backend_switch": "refuse"})
    done = on_sqlite.playbook("--tags", "configure", "--extra-vars", asked)
    assert done.status != 0
    assert "This machine's backend store is sqlite:////var/lib/mlflow/mlflow.db, which holds" in done.said
    assert "Set mlflow_backend_switch to migrate" in done.said
    assert on_sqlite.state() == before


def test_failed_copy_leaves_the_old_store_serving(on_sqlite, local, filled):
    assert local.ask("SELECT count(*) FROM pg_tables WHERE tablename = 'runs'", "moved") == "0"
    local.ask(REFUSE + BREAK_LATER, "moved")
    try:
        said = on_sqlite.refuses(**MOVED)
    finally:
        local.ask(MEND_LATER, "moved")
    assert "Table runs, row run_uuid=" in said
    assert "is refused (RaiseException)" in said
    assert "The release and the settings that ran before run again." in said
    assert on_sqlite.client("read_store.py") == filled
    assert local.ask("SELECT count(*) FROM experiments", "moved") == "0"


def test_every_row_arrives_while_clients_wait(on_sqlite, local, filled):
    with on_sqlite.traffic(threads=2) as seen:
        on_sqlite.converge(**MOVED)
    assert seen.failures == []
    assert seen.answered > 0
    assert on_sqlite.client("read_store.py") == filled
    assert int(local.ask("SELECT count(*) FROM runs WHERE name = 'traffic'", "moved")) > 0
    # Sequences go on behind the copied rows, the previous settings are gone, and the next run finds nothing to do.
    assert on_sqlite.client("log_everything.py")["run_id"]
    assert not on_sqlite.host.file("/etc/mlflow/previous.env").exists
    assert on_sqlite.playbook("--extra-vars", json.dumps(MOVED)).changed == 0


def test_accounts_go_with_the_runs(machine, local):
    machine.converge(**SQLITE, **ACCOUNTS)
    for database in ("moved_2", "moved_2_auth"):
        local.make(database)
    moved = machine.converge(**MOVED_ACCOUNTS, mlflow_backend_switch="migrate")
    assert "2 accounts" in moved.said
    assert local.ask("SELECT string_agg(username, ',' ORDER BY id) FROM users", "moved_2_auth") == "admin,ann"
    assert int(local.ask("SELECT count(*) FROM runs", "moved_2")) > 0
