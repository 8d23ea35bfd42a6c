"""A backup comes back: on the machine that made it, on a fresh one, after a damage, and after a restore that was killed."""

import json
import subprocess
from dataclasses import dataclass

import pytest
from fixtures import Machine

testinfra_hosts = ["ansible://mlflow-restore"]
FOLDER = "/var/backups/mlflow"
# No server runs there, and so site.yml comes first; its image has the release, which would only be built once more.
BARE = """
systemctl stop mlflow.socket mlflow.service 'mlflow-*.timer'
find /etc/systemd/system -name 'mlflow*' -prune -exec rm -r {} +
rm -r /etc/mlflow /usr/local/sbin/mlflow-* /opt/mlflow/current /var/lib/mlflow
systemctl daemon-reload && userdel mlflow
"""


def back_up(machine):
    """Make a backup with artifacts; returns its name."""
    done = machine.playbook(playbook="playbooks/backup.yml")
    assert done.status == 0, done.output
    return backups(machine)[-1]


def backups(machine):
    return machine.run(f"ls {FOLDER}").split()


def restore(machine, **settings):
    return machine.playbook("--extra-vars", json.dumps(settings), playbook="playbooks/restore.yml")


def store(machine):
    return machine.client("read_store.py")


def artifacts(machine):
    """Checksums of all local artifacts but those of mlflow-check."""
    found = "find . -path ./.mlflow-check -prune -o -type f -exec sha256sum {} +"
    return machine.run(f"cd /var/lib/mlflow/artifacts && {found} | sort")


@dataclass
class Filled:
    """A store with something of every kind, and a backup of it.

    Attributes:
        name: of the backup.
        store, artifacts: what is in it.
    """

    name: str
    store: dict
    artifacts: str


@pytest.fixture(scope="module")
def filled(host):
    """Made once, before all tests; each of them leaves the machine as that backup has it."""
    machine = Machine(host.backend.host)
    machine.client("fill_store.py")
    return Filled(store=store(machine), artifacts=artifacts(machine), name=back_up(machine))


def test_restore_gives_up_what_came_since_and_keeps_it_in_a_backup(machine, filled):
    later = machine.client("log_everything.py")
    with machine.traffic() as seen:
        done = restore(machine, mlflow_backup=filled.name)
    assert done.status == 0, done.output[-3000:]
    assert f"Since the backup {filled.name} the store was given" in done.said
    assert " runs" in done.said
    assert seen.failures == []
    assert store(machine) == filled.store

    kept = backups(machine)[-1]
    assert kept.endswith("-before-restore")
    assert restore(machine, mlflow_backup="latest").status == 0  # which is that one
    assert machine.client("read_run.py", later["run_id"], later["experiment"])["status"] == "FINISHED"


def test_damaged_database_is_given_up_only_when_that_is_asked_for(machine, filled):
    machine.run(
        "systemctl stop mlflow.service && dd if=/dev/urandom of=/var/lib/mlflow/mlflow.db bs=4k count=4 conv=notrunc"
    )
    refused = restore(machine, mlflow_backup=filled.name)
    assert refused.status != 0
    assert "set mlflow_restore_discards to true" in refused.said
    done = restore(machine, mlflow_backup=filled.name, mlflow_restore_discards=True)
    assert done.status == 0, done.output[-3000:]
    assert store(machine) == filled.store


def test_restore_that_is_killed_can_be_run_again(machine, filled):
    machine.client("log_everything.py")
    machine.run(
        "cd /var/lib/mlflow/artifacts && echo newer | tee $(find . -path ./.mlflow-check -prune -o -type f -print)"
    )
    before, files = store(machine), artifacts(machine)
    run = machine.start_playbook(
        "--extra-vars", json.dumps({"mlflow_backup": filled.name}), playbook="playbooks/restore.yml"
    )
    machine.catch_change("migrating the schema")  # after artifacts, too, have been restored
    machine.lose_power()
    run.communicate()
    assert run.returncode != 0
    assert (store(machine), artifacts(machine)) == (before, files)
    assert restore(machine, mlflow_backup=filled.name).status == 0
    assert store(machine) == filled.store
    assert machine.is_healthy()


GONE = "20190101T000000Z-3.17.2"


def test_backup_that_is_damaged_or_not_there_is_refused_before_anything_is_touched(machine, filled):
    """What else can be wrong with a backup is told to the unit tests."""
    before = machine.state()
    damaged = f"{FOLDER}/20200101T000000Z-3.17.2"
    damage = "printf x | dd of=database.sqlite bs=1 seek=5000 conv=notrunc"
    machine.run(f"cp -a {FOLDER}/{filled.name} {damaged} && cd {damaged} && {damage}")
    cases = [
        ({"mlflow_backup": ""}, "Which backup?"),
        ({"mlflow_backup": GONE}, f"There is no backup {GONE}"),
        ({"mlflow_backup": damaged}, "is damaged: database.sqlite"),
    ]
    try:
        machine.refuses_each(cases, playbook="playbooks/restore.yml")
    finally:
        machine.run(f"rm -r {damaged}")
    assert machine.state() == before
    assert machine.is_healthy()


def test_fresh_machine_takes_everything_over(machine, filled):
    """How one moves to another machine: copy the backup's folder there, and restore it."""
    new = Machine("mlflow-restore-new")
    new.run(BARE)
    copied = f"docker exec {machine.name} tar cPf - {FOLDER}/{filled.name} | docker exec -i {new.name} tar xPf -"
    subprocess.run(["sh", "-c", copied], check=True)
    done = restore(new, target="bare", mlflow_backup=filled.name)
    assert done.status == 0, done.output[-3000:]
    assert store(new) == filled.store
    assert artifacts(new) == filled.artifacts != ""
