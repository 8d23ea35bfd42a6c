"""What can't be is refused, and what runs goes on: the machine has MLflow 3.17.0 on PostgreSQL, as test_1 leaves it."""

import os

from steps import NEIGHBOUR, NEW, OLD, REVISION, STORES, rollback, version


def test_older_version_is_refused_by_site(machine):
    settings = {**STORES["postgresql"], "mlflow_version": OLD}
    said = machine.refuses(**settings)
    assert (
        f"The machine has MLflow {NEIGHBOUR} and mlflow_version is {OLD}, which is older; "
        f"set mlflow_version to {NEIGHBOUR}, or go back with playbooks/rollback.yml."
    ) in said
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
