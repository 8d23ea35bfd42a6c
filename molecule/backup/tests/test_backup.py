"""Backups of a server on SQLite, on a schedule and by hand."""

import json
import subprocess
from contextlib import contextmanager

import pytest
from fixtures import wait_until
from steps import (
    AS_SERVICE,
    CLIENTS,
    FOLDER,
    PYTHON,
    SERVER,
    back_up,
    failed_backup,
    failure,
    left,
    manifest,
    playbook,
    program,
    restore,
    rows,
)

SMALL = "/srv/small"
LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def timer(machine, name="mlflow-backup.timer"):
    shown = machine.run(f"systemctl show --property ActiveState,UnitFileState,NextElapseUSecRealtime {name}")
    return dict(line.split("=", 1) for line in shown.splitlines())


def test_timer_is_on_by_default_and_gc_is_off(machine):
    assert (timer(machine)["ActiveState"], timer(machine)["UnitFileState"]) == ("active", "enabled")
    assert "02:30:00" in timer(machine)["NextElapseUSecRealtime"]
    gc = timer(machine, "mlflow-gc.timer")
    assert (gc["ActiveState"], gc["UnitFileState"]) == ("inactive", "disabled")


def test_schedules_follow_the_settings_and_the_server_goes_on(machine):
    pid = machine.main_pid()
    machine.converge(mlflow_backup_schedule="*-*-* 04:17:00", mlflow_gc_enabled=True)
    assert "04:17:00" in timer(machine)["NextElapseUSecRealtime"]
    assert timer(machine, "mlflow-gc.timer")["ActiveState"] == "active"
    machine.converge(mlflow_backup_enabled=False)
    assert (timer(machine)["ActiveState"], timer(machine)["UnitFileState"]) == ("inactive", "disabled")
    assert timer(machine, "mlflow-gc.timer")["ActiveState"] == "inactive"
    assert machine.main_pid() == pid


def test_playbook_says_what_it_made_even_without_a_schedule(machine):
    done = playbook(machine)
    assert done.status == 0, done.output[-3000:]
    (name,) = left(machine)[-1:]
    said = " ".join(done.output.split())
    assert f"Backup {name}: " in said
    assert f" s, in {FOLDER}/{name}." in said


def test_manifest_says_what_is_in_it(machine):
    machine.run("install -d -m 0750 -g mlflow /etc/mlflow/secrets")
    machine.run("(umask 027; echo secret > /etc/mlflow/secrets/flask; chgrp mlflow /etc/mlflow/secrets/flask)")
    make_auth(machine, 10)
    path = back_up(machine)["path"]
    found = manifest(machine, path)
    release = machine.run("basename $(readlink /opt/mlflow/current)")
    assert found["format"] == 1
    assert path == f"{FOLDER}/{found['name']}"
    assert (found["mlflow_version"], found["release"]) == ("3.17.2", release)
    assert found["store"] == {"kind": "sqlite", "name": "sqlite:////var/lib/mlflow/mlflow.db"}
    assert found["schema_revision"] == "dc11669786a5"
    assert (found["host"], found["label"]) == (machine.name, "")
    sums = machine.run(f"cd {path} && find . -type f ! -name manifest.json -exec sha256sum {{}} +").splitlines()
    assert {line.split()[1][2:]: line.split()[0] for line in sums} == {
        name: file["sha256"] for name, file in found["files"].items()
    }
    assert set(found["files"]) == {"database.sqlite", "databases/auth.db", "secrets/flask"}


def test_backups_are_for_root_alone(machine):
    back_up(machine)
    assert machine.run(f"stat -c '%a %U %G' {FOLDER}") == "710 root mlflow"
    modes = machine.run(f"find {FOLDER}/*-* -printf '%m %u %g\\n' | sort -u").splitlines()
    assert modes == ["600 root root", "700 root root"]
    seen = machine.host.run(f"setpriv --reuid=mlflow --regid=mlflow --clear-groups ls {FOLDER}")
    assert "Permission denied" in seen.stderr
    # Reading has left no file of root's beside the database, which the server could not write to.
    assert machine.run("stat -c %U /var/lib/mlflow/mlflow.db* | sort -u") == "mlflow"


def test_backup_under_load_brings_everything_back(machine):
    machine.client("fill_store.py")
    before = machine.client("read_store.py")
    counted = '/opt/mlflow/current/bin/python -c \'import sqlite3; print(sqlite3.connect("/var/lib/mlflow/mlflow.db").execute("SELECT count(*) FROM runs").fetchone()[0])\''
    with machine.traffic() as seen:
        acknowledged = int(machine.run(counted))
        path = back_up(machine)["path"]
    assert seen.failures == []
    assert seen.answered > 0
    restore(machine, path)
    assert machine.is_healthy()
    assert machine.client("read_store.py") == before
    assert int(machine.run(counted)) >= acknowledged


def test_destroyed_database_comes_back_row_by_row(machine):
    before, path = rows(machine), back_up(machine)["path"]
    machine.client("log_everything.py")
    assert rows(machine) != before
    machine.run(f"systemctl stop {SERVER}")
    machine.run("rm -r /etc/mlflow/secrets /var/lib/mlflow/auth.db")
    machine.run("dd if=/dev/urandom of=/var/lib/mlflow/mlflow.db bs=4096 count=20 conv=notrunc status=none")
    restore(machine, path)
    assert rows(machine) == before
    assert machine.is_healthy()
    assert machine.run("stat -c '%a %U %G' /var/lib/mlflow/mlflow.db") == "600 mlflow mlflow"
    assert machine.run("stat -c '%a %U %G' /var/lib/mlflow/auth.db") == "600 mlflow mlflow"
    assert machine.run("stat -c '%a %U %G' /etc/mlflow/secrets/flask") == "640 root mlflow"
    assert machine.run("cat /etc/mlflow/secrets/flask") == "secret"


def test_artifacts_are_in_a_backup_that_was_asked_for_them(machine):
    machine.converge(mlflow_backup_artifacts=True)
    assert "02:30:00" in timer(machine)["NextElapseUSecRealtime"]  # as it was at first
    path = back_up(machine)["path"]
    there = machine.run("cd /var/lib/mlflow/artifacts && find . -type f | sort").splitlines()
    kept = machine.run(f"tar -tf {path}/artifacts.tar | grep -v '/$' | sort").splitlines()
    assert len(kept) > 5
    assert kept == there


def test_newest_backups_stay_and_one_that_a_change_needs(machine):
    first = back_up(machine)["name"]
    machine.converge(mlflow_backup_keep=2)
    journal = json.dumps({"backup": f"{FOLDER}/{first}"})
    machine.run(f"mkdir -p /etc/mlflow/rollback && echo '{journal}' > /etc/mlflow/rollback/change.json")
    try:
        made = [back_up(machine)["name"] for _ in range(3)]
        assert left(machine) == [first, *made[-2:]]
    finally:
        machine.run("rm -r /etc/mlflow/rollback")
    made.append(back_up(machine)["name"])
    assert left(machine) == made[-2:]


@pytest.fixture
def small(machine):
    """A disk of its own for the backups; its size can be changed."""
    machine.run(f"mkdir -p {SMALL} && mount -t tmpfs -o size=512k tmpfs {SMALL}")
    machine.converge(mlflow_backup_dir=f"{SMALL}/backups")
    yield f"{SMALL}/backups"
    machine.converge()
    machine.run(f"umount {SMALL}")


def make_auth(machine, kib):
    """Make an auth database of that size."""
    code = f'import os, sqlite3; d = sqlite3.connect("/var/lib/mlflow/auth.db"); d.execute("CREATE TABLE users (secret BLOB)"); d.execute("INSERT INTO users VALUES (?)", [os.urandom({kib} * 1024)]); d.commit()'
    machine.run("rm -f /var/lib/mlflow/auth.db")
    program(machine, "import os; os.umask(0o077)\n" + code, as_service=True)


@contextmanager
def locked(machine, path):
    """Nobody else can read the SQLite database while the block lasts, or until `release` is called."""
    command = ["docker", "exec", "--interactive", machine.name, *AS_SERVICE, PYTHON, "-c", LOCK, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline().strip() == "locked"

        def release():
            holder.communicate()

        try:
            yield release
        finally:
            if holder.poll() is None:
                holder.communicate()


def test_full_disk_is_refused_up_front_and_leaves_nothing_when_it_comes_on_the_way(machine, small):
    said = failed_backup(machine)
    assert "A backup wants up to " in said
    assert f" in {small}, and 0 MiB are free there; free some, or set mlflow_backup_dir" in said
    assert left(machine, small) == []
    done = playbook(machine)
    assert done.status != 0
    assert "A backup wants up to " in done.output

    make_auth(machine, 2048)
    machine.run(f"mount -o remount,size=64m {SMALL}")
    older = back_up(machine)["name"]
    with locked(machine, "/var/lib/mlflow/auth.db") as release:
        machine.run("systemctl start --no-block mlflow-backup.service")
        wait_until(
            lambda: machine.host.run(f"test -s {small}/.*.unfinished/database.sqlite").rc == 0, 30, "it is half-way"
        )
        machine.host.run(f"dd if=/dev/zero of={SMALL}/fill bs=64k status=none")
        release()
    wait_until(lambda: unit_state(machine) == "failed", 90, "it has failed")
    assert failure(machine) == "The disk with the backups is full; free some space."
    assert left(machine, small) == [older]
    machine.run(f"rm {SMALL}/fill")
    make_auth(machine, 10)
    assert left(machine, small) == [older]
    assert back_up(machine)["name"] > older


def unit_state(machine, unit="mlflow-backup.service"):
    return machine.run(f"systemctl show --property ActiveState --value {unit}")


def test_killed_backup_leaves_the_older_ones_and_the_next_cleans_up(machine):
    older = left(machine)
    with locked(machine, "/var/lib/mlflow/auth.db"):
        machine.run("systemctl start --no-block mlflow-backup.service")
        wait_until(
            lambda: machine.host.run(f"test -s {FOLDER}/.*.unfinished/database.sqlite").rc == 0, 30, "it is half-way"
        )
        machine.run("systemctl kill --signal=KILL mlflow-backup.service")
        wait_until(lambda: unit_state(machine) == "failed", 30, "it has failed")
    assert [name for name in left(machine) if not name.endswith(".unfinished")] == older
    machine.run("systemctl reset-failed mlflow-backup.service")
    newest = back_up(machine)["name"]
    assert left(machine) == [*older, newest]


def test_stopped_backup_leaves_nothing(machine):
    older = left(machine)
    with locked(machine, "/var/lib/mlflow/auth.db"):
        machine.run("systemctl start --no-block mlflow-backup.service")
        wait_until(
            lambda: machine.host.run(f"test -s {FOLDER}/.*.unfinished/database.sqlite").rc == 0, 30, "it is half-way"
        )
        machine.run("systemctl stop mlflow-backup.service")
    assert left(machine) == older
    machine.host.run("systemctl reset-failed mlflow-backup.service")


def test_removal_of_deleted_runs_takes_their_artifacts_and_leaves_the_others(machine):
    made = machine.client(str(CLIENTS / "delete_run.py"))
    machine.converge(mlflow_gc_enabled=True, mlflow_gc_older_than="0s")
    machine.run("systemctl start mlflow-gc.service")
    code = "import json, sqlite3; print(json.dumps([row[0] for row in sqlite3.connect('/var/lib/mlflow/mlflow.db').execute('SELECT run_uuid FROM runs')]))"
    there = json.loads(program(machine, code))
    assert made["kept"] in there
    assert made["deleted"] not in there
    folders = machine.run("ls /var/lib/mlflow/artifacts/0").split()
    assert made["kept"] in folders
    assert machine.host.run(f"find /var/lib/mlflow/artifacts/0/{made['deleted']} -type f").stdout == ""


def test_removal_of_deleted_runs_ends_with_the_server_and_does_not_begin_without_one(machine):
    machine.run("systemctl start --no-block mlflow-gc.service")
    wait_until(lambda: unit_state(machine, "mlflow-gc.service") == "activating", 30, "it has begun")
    said = "journalctl --boot --unit=mlflow-gc.service --lines=5 --output=cat"
    machine.run("systemctl stop mlflow.service")
    try:
        assert unit_state(machine, "mlflow-gc.service") == "inactive"
        assert machine.host.run("systemctl start mlflow-gc.service").rc != 0
        assert "Dependency failed" in machine.run(said)
    finally:
        machine.run("systemctl start mlflow.service")
    machine.run("touch /run/mlflow/hold")  # as a change does while it checks the server
    try:
        machine.run("systemctl start mlflow-gc.service")
        assert "skipped because of an unmet condition" in machine.run(said)
    finally:
        machine.run("rm /run/mlflow/hold")


REFUSED = [
    ({"mlflow_backup_dir": "/var/lib/mlflow/backups"}, "in /var/lib/mlflow; backups must not go with what they are of"),
    ({"mlflow_backup_schedule": "every night"}, "systemd can't read the schedule every night"),
]


def test_setting_that_makes_no_sense_is_refused(machine):
    before = machine.state()
    machine.refuses_each(REFUSED)
    assert machine.state() == before
