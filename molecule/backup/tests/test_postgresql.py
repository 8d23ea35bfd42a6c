"""The same for PostgreSQL on the machine, which serves from here on.

Row by row, with accounts, and after a kill, it is proven in the program's tests.
"""

import pytest
from steps import back_up, restore

POSTGRESQL = {"mlflow_backend_store": "postgresql", "postgresql_install": True, "mlflow_backend_switch": "keep"}


def ask(machine, query):
    return machine.host.check_output("psql --username=postgres --dbname=mlflow -Atc %s", query)


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


def test_timer_is_on_where_the_data_are_this_machines(postgresql):
    assert postgresql.run("systemctl is-active mlflow-backup.timer") == "active"


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
    assert postgresql.client("log_everything.py")["run_id"]
