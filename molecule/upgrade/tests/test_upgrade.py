"""Older versions brought up to date and back again: nothing that a client was told is stored gets lost, and none is refused.

The tests build on each other: each backend store goes 3.16.1 → 3.17.2 (which migrates the schema) → back, then
3.17.0 → 3.17.2 (which does not) → back.
"""

import json
import os

import pytest

OLD, NEIGHBOUR, NEW = "3.16.1", "3.17.0", "3.17.2"
OLD_REVISION, REVISION = "b7e2c1a4d9f3", "dc11669786a5"
STORES = {
    "sqlite": {"mlflow_backend_store": "sqlite"},
    "postgresql": {"mlflow_backend_store": "postgresql", "postgresql_install": True, "mlflow_backend_switch": "keep"},
}


@pytest.fixture(params=STORES)
def to(request, machine):
    """Runs site.yml for a version, on the backend store under test."""
    return lambda version, **settings: machine.converge(mlflow_version=version, **STORES[request.param], **settings)


def version(machine):
    """What the release that runs is."""
    machine.run("mlflow-check")  # which compares the version that answers with the release's
    return machine.run("readlink /opt/mlflow/current").rpartition("/")[2].rpartition("-")[0]


def store(machine):
    return machine.client("read_store.py")


def traffic_runs(machine):
    """Runs that clients have created while something changed, by the server's own answer."""
    code = """
import json, urllib.request
total, token = 0, ""
while token is not None:
    body = json.dumps({"experiment_ids": ["0"], "filter": "attributes.run_name = 'traffic'", "max_results": 1000, "page_token": token})
    request = urllib.request.Request("http://127.0.0.1:5001/api/2.0/mlflow/runs/search", body.encode(), {"Content-Type": "application/json"})
    page = json.load(urllib.request.urlopen(request))
    total, token = total + len(page.get("runs", [])), page.get("next_page_token")
print(total)
"""
    return int(machine.host.check_output("python3 -c %s", code))


def under_traffic(machine, change):
    """Do it while clients write and read; every write that was acknowledged must be there, and no request refused."""
    before = traffic_runs(machine)
    with machine.traffic() as seen:
        result = change()
    assert seen.failures == []
    assert seen.created > 50
    assert traffic_runs(machine) - before == seen.created
    print(f"longest wait {seen.longest_seconds} s, {seen.answered} requests answered")
    return result


def rollback(machine, **settings):
    return machine.playbook("--extra-vars", json.dumps(settings), playbook="playbooks/rollback.yml")


def restore(machine, backup):
    return machine.playbook("--extra-vars", json.dumps({"mlflow_backup": backup}), playbook="playbooks/restore.yml")


def test_upgrade_that_migrates_loses_nothing_and_goes_back_with_a_backup(machine, to):
    to(OLD)
    machine.client("fill_store.py")
    before = store(machine)

    would = machine.playbook("--check", "--extra-vars", json.dumps({"mlflow_version": NEW})).said
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


def test_upgrade_that_does_not_migrate_goes_back_without_one(machine, to):
    to(NEIGHBOUR)
    before = store(machine)
    backups = machine.run("ls /var/backups/mlflow")
    under_traffic(machine, lambda: to(NEW))
    assert version(machine) == NEW
    under_traffic(machine, lambda: rollback(machine))
    assert version(machine) == NEIGHBOUR
    assert store(machine) == before
    assert machine.run("ls /var/backups/mlflow") == backups


def test_older_version_is_refused_by_site(machine):
    settings = {**STORES["postgresql"], "mlflow_version": OLD}
    said = machine.refuses(**settings)
    assert f"The machine has MLflow {NEIGHBOUR} and mlflow_version is {OLD}, which is older" in said
    assert "playbooks/rollback.yml" in said
    assert version(machine) == NEIGHBOUR


def test_release_to_go_back_to_must_be_there(machine):
    refused = rollback(machine, mlflow_rollback_to="3.15.2")
    assert refused.status != 0
    assert "There is no other release 3.15.2 on this machine; mlflow_rollback_to can be 3." in refused.said
    assert os.path.basename(machine.run("readlink /opt/mlflow/current")).startswith(NEIGHBOUR)


def test_schema_of_a_newer_version_is_refused(machine):
    def set_revision(revision):
        statement = f"UPDATE alembic_version SET version_num = '{revision}'"
        machine.host.check_output("cd / && runuser -u postgres -- psql --quiet mlflow --command %s", statement)

    set_revision("f0f0f0f0f0f0")
    try:
        said = machine.refuses(mlflow_version=NEW, **STORES["postgresql"])
    finally:
        set_revision(REVISION)
    assert "has schema revision f0f0f0f0f0f0, which MLflow 3.17.2 does not know: a newer one has made it" in said
    assert version(machine) == NEIGHBOUR
