"""An upgrade that migrates either happens wholly or never happened: whatever fails, dies or loses its power on the way.

Where everything is as it was, the next run has nothing to heal; it is run all the same after a failure and after a loss of power.
Who takes the upgrade up is a program on the machine. Where it alone is what fails or dies, Ansible's part was done and kept once.
"""

import json
import os
import re
import signal

import pytest
from fixtures import kill_run, wait_until

OLD, NEW = "3.16.1", "3.17.2"
REVISIONS = {OLD: "b7e2c1a4d9f3", NEW: "dc11669786a5"}
PREPARES = "etc/mlflow etc/systemd/system/mlflow* usr/local/sbin/mlflow-*"
OURS = f"{PREPARES} var/lib/mlflow opt/mlflow/current"
UNFIT = "sed -i '/^ExecStart=/s/$/ --no-such-option/' /etc/systemd/system/mlflow.service"  # no server starts so
SNAPSHOT = "/srv/before.tar"
PREPARED = "/srv/prepared.tar"  # the files of the upgrade, and the way back from them
RECORDED = "/srv/recorded.json"
JOURNAL = "/etc/mlflow/rollback/change.json"
STATE = f"""
cd / && find {PREPARES} -type f -exec sha256sum {{}} + | sort | sha256sum
readlink /opt/mlflow/current; systemctl is-active mlflow.socket mlflow.service
"""
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


def put_back(machine):
    """The old version with its data as it was before the first test."""
    machine.run(
        "systemctl stop mlflow.socket mlflow.service; rm -rf /etc/mlflow /var/lib/mlflow /opt/mlflow/current /var/backups/mlflow"
        f" && tar xf {SNAPSHOT} -C / && systemctl daemon-reload && systemctl start mlflow.socket mlflow.service"
    )


def state(machine):
    """What a test may leave otherwise: files, release, what runs, and every row."""
    return machine.host.run(STATE).stdout, data(machine)


@pytest.fixture(scope="module")
def first():
    """The state before the first test, once there is one."""
    return []


@pytest.fixture(autouse=True)
def old(machine, first):
    """The old version with data, as it was before the first test; the image has the new release beside it."""
    if not first:
        machine.client("fill_store.py")
        machine.run(
            f"systemctl stop mlflow.service && cd / && tar cf {SNAPSHOT} {OURS} && systemctl start mlflow.service"
        )
        first.append(state(machine))
    elif state(machine) == first[0]:
        machine.run("rm -rf /var/backups/mlflow")
    else:
        put_back(machine)
    return first[0][1]


@pytest.fixture
def recorded(machine, old):
    """An upgrade that waits to be taken up: Ansible has done its part, and the machine has not begun with its own."""
    if not machine.host.file(RECORDED).exists:
        run = start_upgrade(machine)
        machine.catch_change("backing up the database")
        change = machine.record_change()
        machine.run(f"cd / && tar cf {PREPARED} --exclude={JOURNAL[1:]} {PREPARES}")
        kill_run(run)
        run.communicate()
        machine.lose_power()
        machine.host.check_output("echo %s > %s", json.dumps(change), RECORDED)
        put_back(machine)
    machine.run(f"tar xf {PREPARED} -C /")
    return json.loads(machine.run(f"cat {RECORDED}"))


def upgrade(machine):
    return machine.playbook("--extra-vars", json.dumps({"mlflow_version": NEW}))


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


def test_server_that_does_not_start_on_the_new_schema_is_given_up(machine, old, recorded):
    machine.run(UNFIT)
    report = machine.change(recorded)
    assert report["failed"].startswith("systemctl restart mlflow.service")
    assert "No such option '--no-such-option'" in report["said"]
    assert serves(machine, OLD)
    assert data(machine) == old


def test_server_that_starts_but_fails_its_check_is_given_up(machine, old, recorded):
    artifact = "/var/lib/mlflow/artifacts/.mlflow-check"  # where the check's artifact would go
    machine.run(f"install -d -o root {artifact}")
    report = machine.change(recorded)
    assert report["failed"].startswith("PUT /api/2.0/mlflow-artifacts/artifacts/.mlflow-check")
    assert serves(machine, OLD, "artifacts")
    assert data(machine) == old
    machine.run(f"rm -r {artifact}")


def is_left_to_be_mended(machine, before):
    """Whether the data are as they were, and what has been installed is there."""
    installed = machine.host.file("/etc/systemd/system/mlflow.service").exists
    return (revision(machine), data(machine), installed) == (REVISIONS[OLD], before, True)


def test_installation_that_fails_on_kept_data_leaves_them_as_they_were(machine, recorded):
    """As after a removal: there is no server to go back to, and what was installed stays for the next run."""
    machine.run(
        "systemctl stop mlflow.socket mlflow.service; rm -r /etc/mlflow /etc/systemd/system/mlflow* /opt/mlflow/current"
        " && systemctl daemon-reload"
    )
    break_migration(machine)
    before = data(machine)
    assert upgrade(machine).status != 0
    assert is_left_to_be_mended(machine, before)
    mend_migration(machine)
    machine.run(UNFIT)
    before = data(machine)
    for _ in range(2):  # the second time, too: a release that never passed is none to go back to
        assert machine.change(recorded)["failed"].startswith("systemctl restart mlflow.service")
        assert is_left_to_be_mended(machine, before)
    assert next_run_heals(machine)


def test_disk_without_room_for_the_backup_stops_the_upgrade(machine, old, recorded):
    machine.run("mkdir -p /srv/small && mount -t tmpfs -o size=100k tmpfs /srv/small")
    try:
        report = machine.change(recorded, backup_dir="/srv/small/backups")
        left = machine.run("find /srv/small -name '*.sqlite'")
    finally:
        machine.run("umount /srv/small")
    wanted = r"A backup wants up to \d+ MiB in /srv/small/backups, and 0 MiB are free there"
    assert re.search(wanted, report["failed"])
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
def test_machine_may_lose_its_power_in_each_phase(machine, old, recorded, phase):
    begun = machine.begin_change(recorded)
    machine.catch_change(phase)
    machine.lose_power()
    begun.communicate()
    assert serves(machine, OLD)
    assert data(machine) == old
    if phase == "migrating the schema":
        assert next_run_heals(machine)


def test_killed_program_is_undone_at_once(machine, old, recorded):
    begun = machine.begin_change(recorded)
    machine.catch_change("checking the server", signal.SIGKILL)
    begun.communicate()
    assert begun.returncode != 0
    assert serves(machine, OLD)
    assert data(machine) == old


def test_two_control_nodes_at_once_migrate_once(machine):
    runs = [start_upgrade(machine) for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert serves(machine, NEW)
    assert len(machine.run("ls /var/backups/mlflow").split()) == 1
