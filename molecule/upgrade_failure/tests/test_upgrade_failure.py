"""An upgrade that migrates either happens wholly or never happened: whatever fails, dies or loses its power on the way.

Where everything is as it was, the next run has nothing to heal; it is run all the same after a failure and after a loss of power.
"""

import json
import os
import signal

import pytest
from fixtures import kill_run, wait_until

OLD, NEW = "3.16.1", "3.17.2"
REVISIONS = {OLD: "b7e2c1a4d9f3", NEW: "dc11669786a5"}
OURS = "etc/mlflow etc/systemd/system/mlflow* usr/local/sbin/mlflow-* var/lib/mlflow opt/mlflow/current"
UNFIT = {"mlflow_server_options": ["--no-such-option"]}  # with which no server starts
SNAPSHOT = "/srv/before.tar"
JOURNAL = "/etc/mlflow/rollback/change.json"
DATA = """
import hashlib, sqlite3
database = sqlite3.connect("file:/var/lib/mlflow/mlflow.db?mode=ro", uri=True, timeout=60)
names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
rows = {name: sorted(map(repr, database.execute(f'SELECT * FROM "{name}"'))) for name in names}
print(hashlib.sha256(repr(rows).encode()).hexdigest())
"""


def revision(machine):
    query = "SELECT version_num FROM alembic_version"
    code = f"import sqlite3; print(sqlite3.connect('/var/lib/mlflow/mlflow.db', 60).execute('{query}').fetchone()[0])"
    return machine.host.check_output("python3 -c %s", code)


def data(machine):
    """A checksum of every row of every table."""
    return machine.host.check_output("python3 -c %s", DATA)


def current(machine):
    return os.path.basename(machine.run("readlink /opt/mlflow/current")).rpartition("-")[0]


def serves(machine, version, *skip):
    """Whether that version serves on its own schema, and nothing is left half-way."""
    wait_until(lambda: machine.host.service("mlflow.service").is_running, 90, "the server runs")
    checked = machine.run(" ".join(["mlflow-check", *(f"--skip {step}" for step in skip)]))
    settled = not machine.host.file("/etc/mlflow/rollback").exists
    return (json.loads(checked)["version"], current(machine), revision(machine), settled) == (
        version,
        version,
        REVISIONS[version],
        True,
    )


@pytest.fixture(autouse=True)
def old(machine):
    """The old version with data, as it was before the first test; the image has the new release beside it."""
    if not machine.host.file(SNAPSHOT).exists:
        machine.client("fill_store.py")
        machine.run(f"systemctl stop mlflow.service && cd / && tar cf {SNAPSHOT} {OURS}")
    machine.run(
        "systemctl stop mlflow.socket mlflow.service; rm -rf /etc/mlflow /var/lib/mlflow /opt/mlflow/current /var/backups/mlflow"
        f" && tar xf {SNAPSHOT} -C / && systemctl daemon-reload && systemctl start mlflow.socket mlflow.service"
    )
    return data(machine)


def upgrade(machine, **settings):
    return machine.playbook("--extra-vars", json.dumps({"mlflow_version": NEW, **settings}))


def next_run_heals(machine):
    machine.converge(mlflow_version=NEW)
    return serves(machine, NEW)


def break_migration(machine):
    """A table that stands in the second migration's way, so that the first has been done when it fails."""
    query = "CREATE TABLE job_locks (lock_key TEXT)"
    machine.run(f"python3 -c \"import sqlite3; sqlite3.connect('/var/lib/mlflow/mlflow.db', 60).execute('{query}')\"")


def mend_migration(machine):
    query = "DROP TABLE job_locks"
    machine.run(f"python3 -c \"import sqlite3; sqlite3.connect('/var/lib/mlflow/mlflow.db', 60).execute('{query}')\"")


def test_migration_that_fails_half_way_is_undone(machine):
    break_migration(machine)
    before = data(machine)
    with machine.traffic() as seen:
        failed = upgrade(machine)
    assert failed.status != 0
    assert "MLflow 3.17.2 did not pass (mlflow_service.schema migrate failed" in failed.said
    assert "The release and the settings that ran before run again, with the data as it was." in failed.said
    assert seen.failures == []  # who waited was answered by the old version
    assert serves(machine, OLD)
    assert data(machine) != before  # the clients' runs
    mend_migration(machine)
    assert next_run_heals(machine)


def test_server_that_does_not_start_on_the_new_schema_is_given_up(machine, old):
    failed = upgrade(machine, **UNFIT)
    assert failed.status != 0
    assert "MLflow 3.17.2 did not pass (systemctl restart mlflow.service" in failed.said
    assert "No such option '--no-such-option'" in failed.said
    assert serves(machine, OLD)
    assert data(machine) == old


def test_server_that_starts_but_fails_its_check_is_given_up(machine, old):
    machine.run("install -d -o root /var/lib/mlflow/artifacts/.mlflow-check")  # where the check's artifact would go
    failed = upgrade(machine)
    assert failed.status != 0
    assert "MLflow 3.17.2 did not pass (PUT /api/2.0/mlflow-artifacts/artifacts/.mlflow-check" in failed.said
    assert serves(machine, OLD, "artifacts")
    assert data(machine) == old


def test_installation_that_fails_on_kept_data_leaves_them_as_they_were(machine):
    """As after a removal: there is no server to go back to, and what was installed stays for the next run."""
    machine.run(
        "systemctl stop mlflow.socket mlflow.service; rm -r /etc/mlflow /etc/systemd/system/mlflow* /opt/mlflow/current"
        " && systemctl daemon-reload"
    )
    for broken, settings in ((True, {}), (False, UNFIT), (False, UNFIT)):
        if broken:
            break_migration(machine)
        before = data(machine)
        assert upgrade(machine, **settings).status != 0
        assert (revision(machine), data(machine)) == (REVISIONS[OLD], before)
        assert machine.host.file("/etc/systemd/system/mlflow.service").exists
        if broken:
            mend_migration(machine)
    assert next_run_heals(machine)


def test_disk_without_room_for_the_backup_stops_the_upgrade(machine, old):
    machine.run("mkdir -p /srv/small && mount -t tmpfs -o size=100k tmpfs /srv/small")
    try:
        failed = upgrade(machine, mlflow_backup_dir="/srv/small/backups")
        left = machine.run("find /srv/small -name '*.sqlite'")
    finally:
        machine.run("umount /srv/small")
    assert failed.status != 0
    assert "/srv/small" in failed.output
    assert left == ""
    assert serves(machine, OLD)
    assert data(machine) == old


def start_upgrade(machine):
    """With another port, so that the way back leads to another socket, too."""
    return machine.start_playbook("--extra-vars", json.dumps({"mlflow_version": NEW, "mlflow_port": 5002}))


@pytest.mark.parametrize("task", ["configure | Write", "change | Change over"])
def test_control_node_may_die_in_each_phase(machine, old, task):
    run = start_upgrade(machine)
    while task not in run.stdout.readline():
        assert run.poll() is None
    if task.startswith("change"):
        wait_until(lambda: machine.host.file(JOURNAL).exists, 60, "the machine has begun")
    kill_run(run)
    run.communicate()
    if task.startswith("change"):  # it goes on by itself
        wait_until(lambda: not machine.host.file(JOURNAL).exists, 120, "the machine has come to an end")
        assert serves(machine, NEW)
    else:
        machine.wait_left_alone()
        machine.run("systemctl restart mlflow.service")  # a start that nobody asked for takes nothing up
        assert serves(machine, OLD)
        assert data(machine) == old


PHASES = ["backing up the database", "migrating the schema", "starting the server", "checking the server"]


@pytest.mark.parametrize("phase", PHASES)
def test_machine_may_lose_its_power_in_each_phase(machine, old, phase):
    run = start_upgrade(machine)
    machine.catch_change(phase)
    machine.lose_power()
    run.communicate()
    assert run.returncode != 0
    assert serves(machine, OLD)
    assert data(machine) == old
    if phase == "migrating the schema":
        assert next_run_heals(machine)


def test_killed_program_is_undone_at_once(machine, old):
    run = start_upgrade(machine)
    machine.catch_change("checking the server", signal.SIGKILL)
    run.communicate()
    assert run.returncode != 0
    assert serves(machine, OLD)
    assert data(machine) == old


def test_two_control_nodes_at_once_migrate_once(machine):
    runs = [start_upgrade(machine) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert serves(machine, NEW)
    assert len(machine.run("ls /var/backups/mlflow").split()) == 1
