"""What the tests of this scenario do again and again: back up, destroy, restore, compare."""

import json
from pathlib import Path

import machine as machines
from fixtures import Machine, Run

CLIENTS = Path(__file__).parents[1] / "clients"
FOLDER = "/var/backups/mlflow"
PYTHON = "/opt/mlflow/current/bin/python"
SERVER = "mlflow.socket mlflow.service"
RESTORE = """
import sys
from pathlib import Path
from mlflow_service import backup
from mlflow_service.system import settings
backup.restore_database(Path(sys.argv[1]), settings.read("/etc/mlflow/mlflow.env"))
"""
# Number and checksum of the rows of each table; see mlflow_service/stores/copying.py. As the service's user.
ROWS = """
import json, os
from mlflow_service.stores import copying
from mlflow_service.system import settings
os.environ.update(settings.read("/etc/mlflow/mlflow.env"))
with copying._open(os.environ["MLFLOW_BACKEND_STORE_URI"], "store") as connection:
    tables = copying._tables(connection)
    print(json.dumps({name: copying._fingerprint(connection, table, lambda *_: None) for name, table in tables.items()}))
"""
AS_SERVICE = ["setpriv", "--reuid=mlflow", "--regid=mlflow", "--clear-groups", "env", "HOME=/var/lib/mlflow"]


def program(machine: Machine, code: str, *arguments: str, as_service: bool = False) -> str:
    """Run Python with the release's packages on the machine; returns what it prints, fails when it fails."""
    user = [*AS_SERVICE, "--chdir=/"] if as_service else []
    return machines.docker("exec", "--interactive", machine.name, *user, PYTHON, "-", *arguments, input=code)


def rows(machine: Machine) -> dict[str, list[int]]:
    """Number and checksum of the rows of each table of the store."""
    return json.loads(program(machine, ROWS, as_service=True).splitlines()[-1])


def playbook(machine: Machine) -> Run:
    """Run playbooks/backup.yml."""
    return machine.playbook(playbook="playbooks/backup.yml")


def back_up(machine: Machine) -> dict:
    """Make a backup by the unit; returns what it says of it."""
    machine.run("systemctl start mlflow-backup.service")
    return json.loads(machine.run("cat /run/mlflow-backup/last.json"))


def failed_backup(machine: Machine) -> str:
    """Start the unit, which must fail; returns the line that it has left at error level in the journal."""
    machine.run("journalctl --rotate && journalctl --vacuum-time=1s")
    assert machine.host.run("systemctl start mlflow-backup.service").rc != 0
    assert machine.run("systemctl show --property ActiveState --value mlflow-backup.service") == "failed"
    lines = machine.run(
        "journalctl --sync; journalctl --identifier=mlflow-backup --priority=err --output=cat"
    ).splitlines()
    machine.run("systemctl reset-failed mlflow-backup.service")
    return json.loads(lines[-1])["message"]


def left(machine: Machine) -> list[str]:
    """Everything in the folder of the backups but the lock."""
    return sorted(set(machine.run(f"ls -A {FOLDER}").split()) - {".lock"})


def manifest(machine: Machine, path: str) -> dict:
    return json.loads(machine.run(f"cat {path}/manifest.json"))


def restore(machine: Machine, path: str) -> None:
    """Restore while no server runs, as a change does."""
    machine.run(f"systemctl stop {SERVER}")
    program(machine, RESTORE, path)
    machine.run(f"systemctl start {SERVER}")
