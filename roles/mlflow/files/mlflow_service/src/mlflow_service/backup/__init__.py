"""Back up and restore what the service holds: ``python -m mlflow_service.backup create [--label L] | list``.

A backup is a folder: the database, the auth database where accounts are on, the other SQLite databases of the
service, its generated secrets, its local artifacts where that is asked for, and ``manifest.json``, without which
it counts as none. It is made under another name and renamed when it is whole.

Root starts it. What belongs to the service is read and written by children that run as the service's user, as
PostgreSQL's peer authentication wants it, and so that no file of root's appears beside a SQLite database. What
they read goes to files that only root can open, and they never hold a descriptor of these to write by. Whoever has
taken the service's account can have such a child say anything, so what it says is checked (acting.py).

Other programs go by the names below. Each file says one thing: model.py what a backup is of, manifest.py what belongs
to one, folder.py where they are, sqlite.py, postgresql.py and artifacts.py how each kind is copied and brought back,
parts.py what of that runs as the service, creating.py and restoring.py the whole, bucket.py those at Google, and
command.py the command.
"""

from mlflow_service.backup.artifacts import brings_artifacts, restore_artifacts
from mlflow_service.backup.creating import create
from mlflow_service.backup.folder import locked, names, open_folder, sentences
from mlflow_service.backup.manifest import read_manifest, read_manifest_alone, summary
from mlflow_service.backup.model import BackupError, Service
from mlflow_service.backup.restoring import about_accounts, resolve, restore_database

__all__ = [
    "BackupError",
    "Service",
    "about_accounts",
    "brings_artifacts",
    "create",
    "locked",
    "names",
    "open_folder",
    "read_manifest",
    "read_manifest_alone",
    "resolve",
    "restore_artifacts",
    "restore_database",
    "sentences",
    "summary",
]
