"""Backups that go to a gs:// folder as well, with the credentials of the virtual machine.

Which stay there, what comes back, and what is said where none does, is proven in the program's tests; that a playbook
restores from there, and that a unit that fails is seen, here.
"""

import json

import pytest
from google_cloud import OBJECT_USER
from steps import FOLDER, back_up, failed_backup, left, manifest, playbook, rows

BUCKET = "mlflow-backups"
PLACE = "machines/one"
LOCATION = f"gs://{BUCKET}/{PLACE}"
VM = "vm@stand-in.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def sent():
    """Whether the machine sends its backups by now."""
    return set()


@pytest.fixture
def sender(machine, google, sent):
    """The machine, whose backups go to Google; two stay."""
    if not sent:
        machine.converge(mlflow_backup_location=LOCATION, mlflow_backup_keep=2)
        sent.add(machine.name)
    google.forget_requests()
    return machine


def stored(google):
    """Names of the objects below the location, by backup."""
    found = {}
    for thing in google.objects(BUCKET):
        if thing["name"].startswith(f"{PLACE}/"):
            name, _, member = thing["name"].removeprefix(f"{PLACE}/").partition("/")
            found.setdefault(name, set()).add(member)
    return found


def test_setting_that_can_not_work_is_refused_before_anything_is_touched(machine, google):
    """A place at Google that can't be written to, a folder that would go with the data, and a schedule."""
    before = machine.state()
    google.permissions(VM, "get", "list")
    locked = (f"{VM} may not write objects in gs://{BUCKET}", "or set mlflow_backup_location to another one")
    missing = "There is no bucket gs://no-such-bucket: create it, or set mlflow_backup_location"
    cases = [
        ({"mlflow_backup_location": LOCATION}, *locked),
        ({"mlflow_backup_location": "gs://no-such-bucket/backups"}, missing),
        (
            {"mlflow_backup_dir": "/var/lib/mlflow/backups"},
            "in /var/lib/mlflow; backups must not go with what they are of",
        ),
        ({"mlflow_backup_schedule": "every night"}, "systemd can't read the schedule every night"),
    ]
    try:
        machine.refuses_each(cases)
    finally:
        google.permissions(VM, *OBJECT_USER)
    assert [line for line in machine.state() if "/releases" not in line] == [
        line for line in before if "/releases" not in line
    ]


def test_backup_goes_to_google_with_its_manifest_last(sender, google):
    made = back_up(sender)
    assert made["location"] == f"{LOCATION}/{made['name']}"
    files = set(manifest(sender, made["path"])["files"]) | {"manifest.json"}
    assert stored(google)[made["name"]] == files
    writes = [request for request in google.requests() if request["method"] == "POST"]
    assert {request["identity"] for request in writes} == {VM}
    last = max(google.objects(BUCKET), key=lambda thing: thing["timeCreated"])
    assert last["name"] == f"{PLACE}/{made['name']}/manifest.json"


def test_playbook_restores_from_google(sender):
    before, made = rows(sender), back_up(sender)
    sender.run(f"rm -r {made['path']}")
    sender.client("log_everything.py")
    wanted = json.dumps({"mlflow_backup": f"{LOCATION}/latest"})
    done = sender.playbook("--extra-vars", wanted, playbook="playbooks/restore.yml")
    assert done.status == 0, done.output[-3000:]
    assert rows(sender) == before


def test_backup_that_can_not_be_sent_is_seen_and_stays_here(sender, google):
    before = stored(google)
    google.permissions(VM, "get", "list")
    try:
        said, newest = failed_backup(sender), left(sender)[-1]
        done = playbook(sender)
    finally:
        google.permissions(VM, *OBJECT_USER)
    assert said.startswith(
        f"The backup {FOLDER}/{newest} was made, and could not be sent to {LOCATION}: {VM} may not write"
    )
    assert done.status != 0
    assert f"could not be sent to {LOCATION}: {VM} may not write" in done.said
    assert stored(google) == before
    assert back_up(sender)["location"]
