"""Backups of a server on SQLite, on a schedule and by hand.

What is in one, what a full disk, a kill and a stop leave, and which are kept, is proven in the program's tests.
"""

import json

from fixtures import wait_until
from steps import CLIENTS, FOLDER, back_up, left, playbook, program, restore


def timer(machine, name="mlflow-backup.timer"):
    shown = machine.run(f"systemctl show --property ActiveState,UnitFileState,NextElapseUSecRealtime {name}")
    return dict(line.split("=", 1) for line in shown.splitlines())


def test_timer_is_on_by_default_and_gc_is_off(machine):
    assert (timer(machine)["ActiveState"], timer(machine)["UnitFileState"]) == ("active", "enabled")
    assert "02:30:00" in timer(machine)["NextElapseUSecRealtime"]
    gc = timer(machine, "mlflow-gc.timer")
    assert (gc["ActiveState"], gc["UnitFileState"]) == ("inactive", "disabled")


def test_schedules_follow_the_settings_and_the_server_goes_on(machine):
    """So does what a backup has in it, and how many are kept."""
    pid = machine.main_pid()
    machine.client("log_everything.py")
    machine.converge(
        mlflow_backup_schedule="*-*-* 04:17:00",
        mlflow_gc_enabled=True,
        mlflow_backup_artifacts=True,
        mlflow_backup_keep=1,
    )
    assert "04:17:00" in timer(machine)["NextElapseUSecRealtime"]
    assert timer(machine, "mlflow-gc.timer")["ActiveState"] == "active"
    made = [back_up(machine) for _ in range(2)]
    assert left(machine) == [made[-1]["name"]]
    there = machine.run("cd /var/lib/mlflow/artifacts && find . -type f | sort").splitlines()
    kept = machine.run(f"tar -tf {made[-1]['path']}/artifacts.tar | grep -v '/$' | sort").splitlines()
    assert kept
    assert kept == there
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


def unit_state(machine, unit="mlflow-backup.service"):
    return machine.run(f"systemctl show --property ActiveState --value {unit}")


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
