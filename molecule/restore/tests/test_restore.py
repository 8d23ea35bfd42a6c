"""A backup comes back: on the machine that made it, on a fresh one, after a damage, and after a restore that was killed."""

import json
import subprocess

import pytest
from fixtures import Machine

testinfra_hosts = ["ansible://mlflow-restore"]
FOLDER = "/var/backups/mlflow"


def back_up(machine):
    """Make a backup with artifacts; returns its name."""
    machine.converge(mlflow_backup_artifacts=True)
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


@pytest.fixture
def backup(machine):
    """The name of a backup, made once for all tests, of a store with something of every kind."""
    if not machine.host.file("/srv/name").exists:
        machine.client("fill_store.py")
        machine.host.check_output("printf %s > /srv/artifacts", artifacts(machine))
        machine.host.check_output("printf %s > /srv/name", back_up(machine))
    return machine.run("cat /srv/name")


def test_restore_gives_up_what_came_since_and_keeps_it_in_a_backup(machine, backup):
    before = store(machine)
    later = machine.client("log_everything.py")
    with machine.traffic() as seen:
        done = restore(machine, mlflow_backup=backup)
    assert done.status == 0, done.output[-3000:]
    assert f"Since the backup {backup} the store was given" in done.said
    assert " runs" in done.said
    assert seen.failures == []
    assert store(machine) == before

    kept = backups(machine)[-1]
    assert kept.endswith("-before-restore")
    assert restore(machine, mlflow_backup="latest").status == 0  # which is that one
    assert machine.client("read_run.py", later["run_id"], later["experiment"])["status"] == "FINISHED"


def test_damaged_database_is_given_up_only_when_that_is_asked_for(machine, backup):
    restore(machine, mlflow_backup=backup)
    before = store(machine)
    machine.run(
        "systemctl stop mlflow.service && dd if=/dev/urandom of=/var/lib/mlflow/mlflow.db bs=4k count=4 conv=notrunc"
    )
    refused = restore(machine, mlflow_backup=backup)
    assert refused.status != 0
    assert "set mlflow_restore_discards to true" in refused.said
    done = restore(machine, mlflow_backup=backup, mlflow_restore_discards=True)
    assert done.status == 0, done.output[-3000:]
    assert store(machine) == before


def test_restore_that_is_killed_can_be_run_again(machine, backup):
    restore(machine, mlflow_backup=backup)
    machine.client("log_everything.py")
    before = store(machine)
    run = machine.start_playbook(
        "--extra-vars", json.dumps({"mlflow_backup": backup}), playbook="playbooks/restore.yml"
    )
    machine.catch_change("restoring the backup")
    machine.lose_power()
    run.communicate()
    assert run.returncode != 0
    assert store(machine) == before
    assert restore(machine, mlflow_backup=backup).status == 0
    assert store(machine) != before
    assert machine.is_healthy()


def damage(machine, backup, what):
    """A copy of the backup that is wrong; returns its path."""
    path = f"{FOLDER}/20200101T000000Z-3.17.2"
    machine.run(f"rm -rf {path} && cp -a {FOLDER}/{backup} {path}")
    machine.run(f"cd {path} && {what}")
    return path


WRONG = {
    "damaged file": ("printf x | dd of=database.sqlite bs=1 seek=5000 conv=notrunc", "is damaged: database.sqlite"),
    "short file": ("truncate --size=-1 database.sqlite", "is damaged: database.sqlite has"),
    "no file": ("rm database.sqlite", "database.sqlite"),
    "manifest that was changed": ("sed -i s/3.17.2/3.17.0/ manifest.json", "its manifest.json was changed"),
    "manifest that is none": ("echo nonsense > manifest.json", "its manifest.json can't be read"),
    "no manifest": ("rm manifest.json", "There is no backup /var/backups/mlflow/20200101T000000Z-3.17.2; there are "),
}


@pytest.mark.parametrize("what, sentence", WRONG.values(), ids=WRONG)
def test_damaged_backup_is_refused_before_anything_is_touched(machine, backup, what, sentence):
    before = machine.state()
    refused = restore(machine, mlflow_backup=damage(machine, backup, what))
    machine.run(f"rm -r {FOLDER}/20200101T000000Z-3.17.2")
    assert refused.status != 0
    assert sentence in refused.said
    assert machine.state() == before
    assert machine.is_healthy()


@pytest.mark.parametrize(
    "name, sentence", [("", "Which backup?"), ("20190101T000000Z-3.17.2", "20190101T000000Z-3.17.2")]
)
def test_backup_that_is_not_there_is_said(machine, backup, name, sentence):
    refused = restore(machine, mlflow_backup=name)
    assert refused.status != 0
    assert sentence in refused.said
    assert machine.is_healthy()


def test_fresh_machine_takes_everything_over(machine, backup):
    """How one moves to another machine: copy the backup's folder there, and restore it."""
    restore(machine, mlflow_backup=backup)
    new = Machine("mlflow-restore-new")
    new.run(f"mkdir -p {FOLDER}")
    copied = f"docker exec {machine.name} tar cC {FOLDER} {backup} | docker exec -i {new.name} tar xC {FOLDER}"
    subprocess.run(["sh", "-c", copied], check=True)
    done = restore(new, target="bare", mlflow_backup=backup)
    assert done.status == 0, done.output[-3000:]
    assert store(new) == store(machine)
    assert artifacts(new) == machine.run("cat /srv/artifacts") != ""
