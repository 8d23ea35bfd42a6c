"""Older versions brought up to date and back again: nothing that a client was told is stored gets lost, and none is refused.

SQLite goes 3.16.1 → 3.17.2 (which migrates the schema) → back, PostgreSQL 3.17.0 → 3.17.2 (which does not) → back. On PostgreSQL a schema
is migrated under load, and given up, in the scenario ha.
"""

import json

import pytest
from steps import (
    NEIGHBOUR,
    NEW,
    OLD,
    OLD_REVISION,
    REVISION,
    STORES,
    restore,
    rollback,
    store,
    traffic_runs,
    under_traffic,
    version,
)


@pytest.fixture
def backend(request):
    """Settings of the backend store under test."""
    return STORES[request.param]


@pytest.fixture
def to(machine, backend):
    """Runs site.yml for a version, on the backend store under test."""
    return lambda version: machine.converge(mlflow_version=version, **backend)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_upgrade_that_migrates_loses_nothing_and_goes_back_with_a_backup(machine, backend, to):
    assert not any(machine.differences_from_stock().values())
    machine.client("fill_store.py")
    before = store(machine)

    would = machine.playbook("--check", "--extra-vars", json.dumps({**backend, "mlflow_version": NEW})).said
    assert f"its schema would be migrated from {OLD_REVISION} to {REVISION}, after a backup" in would
    assert version(machine) == OLD

    under_traffic(machine, lambda: to(NEW))
    assert version(machine) == NEW
    assert store(machine) == before

    refused = rollback(machine)
    (backup,) = machine.run("ls /var/backups/mlflow | grep before-3.17.2").split()[-1:]
    assert refused.status != 0
    assert (
        f"does not know, so going back takes a backup of its time, -e mlflow_backup=NAME; here {backup}" in refused.said
    )
    assert version(machine) == NEW

    assert restore(machine, backup).status == 0  # an older backup is brought up to date
    assert version(machine) == NEW
    assert store(machine) == before
    newer = machine.run("ls /var/backups/mlflow | grep before-restore").split()[-1]

    kept = traffic_runs(machine)
    with machine.traffic() as seen:
        done = rollback(machine, mlflow_backup=backup)
    assert done.status == 0, done.output[-3000:]
    assert "Since the backup" in done.output
    assert " runs" in done.output
    assert seen.failures == []
    assert version(machine) == OLD
    assert store(machine) == before
    assert (
        traffic_runs(machine) < kept + seen.created
    )  # what came between the backup and now is in the backup taken now
    assert f"Set mlflow_version to {OLD} in the inventory" in done.said

    refused = restore(machine, newer)
    assert refused.status != 0
    assert (
        f"has schema revision {REVISION}, which MLflow {OLD} does not know: it was made by MLflow {NEW}" in refused.said
    )
    assert version(machine) == OLD


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_upgrade_that_does_not_migrate_goes_back_without_one(machine, to):
    to(NEIGHBOUR)
    assert not any(machine.differences_from_stock().values())
    machine.client("fill_store.py")
    before = store(machine)
    backups = machine.run("ls /var/backups/mlflow")
    under_traffic(machine, lambda: to(NEW))
    assert version(machine) == NEW
    under_traffic(machine, lambda: rollback(machine))
    assert version(machine) == NEIGHBOUR
    assert store(machine) == before
    assert machine.run("ls /var/backups/mlflow") == backups
