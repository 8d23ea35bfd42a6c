"""Backups that go to a gs:// folder as well, with the credentials of the virtual machine."""

import json

import pytest
from google_cloud import OBJECT_USER
from steps import FOLDER, back_up, failed_backup, left, manifest, program, rows

BUCKET = "mlflow-backups"
PLACE = "machines/one"
LOCATION = f"gs://{BUCKET}/{PLACE}"
VM = "vm@stand-in.iam.gserviceaccount.com"
FETCH = """
import sys
from pathlib import Path
from mlflow_service import backup, settings
print(backup.resolve(sys.argv[1], Path(sys.argv[2]), settings.read("/etc/mlflow/mlflow.env")))
"""
# A backup, older than all, as another machine's.
OTHERS = """
import json, shutil, sys
from pathlib import Path
from mlflow_service import backup, settings
from mlflow_service.backup import bucket
from mlflow_service.backup.manifest import manifest_checksum
path = Path("/srv/20200101T000000Z-3.17.2")
shutil.copytree(sys.argv[1], path)
manifest = json.loads((path / "manifest.json").read_text()) | {"name": path.name, "host": "other"}
(path / "manifest.json").write_text(json.dumps(manifest | {"sha256": manifest_checksum(manifest)}))
bucket.upload(path, sys.argv[2], settings.read("/etc/mlflow/mlflow.env"))
shutil.rmtree(path)
"""


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


def test_place_that_can_not_be_written_to_is_refused_before_anything_is_touched(machine, google):
    before = machine.state()
    google.permissions(VM, "get", "list")
    locked = (f"{VM} may not write objects in gs://{BUCKET}", "or set mlflow_backup_location to another one")
    missing = "There is no bucket gs://no-such-bucket: create it, or set mlflow_backup_location"
    cases = [
        ({"mlflow_backup_location": LOCATION}, *locked),
        ({"mlflow_backup_location": "gs://no-such-bucket/backups"}, missing),
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


def test_newest_stay_there_and_other_machines_backups_are_left_alone(sender, google):
    program(sender, OTHERS, back_up(sender)["path"], LOCATION)
    made = [back_up(sender)["name"] for _ in range(2)]
    assert list(stored(google)) == ["20200101T000000Z-3.17.2", *made]


def test_backup_comes_back_from_google_as_it_was(sender):
    made = back_up(sender)
    for asked in ("latest", made["name"]):
        path = program(sender, FETCH, f"{LOCATION}/{asked}", "/srv/fetched").strip()
        assert path == f"/srv/fetched/{made['name']}"
        sender.run(f"diff --recursive {made['path']} {path}")
        assert sender.run(f"find {path} -printf '%m %u\\n' | sort -u").splitlines() == ["600 root", "700 root"]
        sender.run("rm -r /srv/fetched")


def test_playbook_restores_from_google(sender):
    before, made = rows(sender), back_up(sender)
    sender.run(f"rm -r {made['path']}")
    sender.client("log_everything.py")
    wanted = json.dumps({"mlflow_backup": f"{LOCATION}/latest"})
    done = sender.playbook("--extra-vars", wanted, playbook="playbooks/restore.yml")
    assert done.status == 0, done.output[-3000:]
    assert rows(sender) == before


@pytest.mark.parametrize("name", ["20210101T000000Z-3.17.2", "nonsense"])
def test_backup_that_is_not_at_google_is_said(sender, name):
    code = f"{FETCH.replace('print(', 'try: print(')}\nexcept backup.BackupError as error: print(error)"
    said = program(sender, code, f"{LOCATION}/{name}", "/srv/fetched")
    assert said.startswith(
        (f"There is no backup {name} in {LOCATION}; there are ", f"{LOCATION}/{name} names no backup")
    )
    assert sender.host.run("ls -A /srv/fetched").stdout.strip() in ("", ".lock")


def test_backup_that_can_not_be_sent_is_seen_and_stays_here(sender, google):
    before = stored(google)
    google.permissions(VM, "get", "list")
    try:
        said = failed_backup(sender)
    finally:
        google.permissions(VM, *OBJECT_USER)
    newest = left(sender)[-1]
    assert said.startswith(
        f"The backup {FOLDER}/{newest} was made, and could not be sent to {LOCATION}: {VM} may not write"
    )
    assert stored(google) == before
    assert back_up(sender)["location"]


def test_upload_that_breaks_off_counts_as_no_backup(sender, google):
    """Without its manifest nothing is one, and the next backup removes what was left."""
    code = """
import json, sys
from pathlib import Path
from mlflow_service import backup, settings
from mlflow_service.backup import bucket as place
marks = backup.read_manifest_alone(Path(sys.argv[1]))["host"]
with place.google(sys.argv[2], settings.read("/etc/mlflow/mlflow.env")) as (client, bucket, folder):
    blob = client.bucket(bucket).blob(f"{folder}/20220101T000000Z-3.17.2/database.sqlite")
    blob.metadata = {"host": marks}
    blob.upload_from_string(b"half")
"""
    made = back_up(sender)
    program(sender, code, made["path"], LOCATION)
    assert "20220101T000000Z-3.17.2" in stored(google)
    path = program(sender, FETCH, f"{LOCATION}/latest", "/srv/fetched").strip()
    assert path.endswith(made["name"])
    back_up(sender)
    assert "20220101T000000Z-3.17.2" not in stored(google)
    sender.run("rm -r /srv/fetched")
