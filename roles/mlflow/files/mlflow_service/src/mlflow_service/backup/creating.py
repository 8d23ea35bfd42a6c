"""Making a backup: whole or not at all."""

import contextlib
import datetime
import grp
import json
import os
import pwd
import shutil
import socket
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mlflow_service.backup.artifacts import archive_artifacts
from mlflow_service.backup.folder import (
    described,
    locked,
    make_folder_for,
    members,
    names,
    new_file,
    open_folder,
    opened,
    refuse_too_little_space,
    remove_unfinished,
    sentences,
)
from mlflow_service.backup.manifest import write_manifest
from mlflow_service.backup.model import (
    ARTIFACTS_FILE,
    FORMAT,
    LABEL,
    MIB,
    SECRETS,
    UNFINISHED,
    BackupError,
    Database,
    Service,
)
from mlflow_service.backup.postgresql import dump_postgres
from mlflow_service.backup.sqlite import copy_sqlite
from mlflow_service.system import files, rollback
from mlflow_service.system.durable import sync_folder


def create(
    environment: Mapping[str, str],
    folder: Path,
    *,
    label: str = "",
    artifacts: bool = False,
    keep: int = 0,
    alone: bool = False,
) -> Path:
    """Make a backup; returns its folder.

    Args:
        environment: the variables of ``mlflow.env``.
        folder: where the backups are.
        label: the end of its name: small letters, digits and . + _ -
        artifacts: whether local artifacts are part of it.
        keep: how many finished backups stay, this one included; 0 removes none.
        alone: whether the caller keeps others out of the folder already; see `locked`.

    Raises:
        BackupError: there is none, and those from before are as they were.
    """
    folder = Path(folder)
    service = Service(environment)
    if not LABEL.fullmatch(label):
        raise BackupError(f"A backup's label has up to 40 small letters, digits and . + _ -; {label!r} is none.")
    if artifacts and service.artifacts is None:
        raise BackupError(
            "The artifacts are not on this machine, so a backup can't hold them (mlflow_backup_artifacts)."
        )
    with sentences():
        open_folder(folder, service)
        with nullcontext() if alone else locked(folder):
            remove_unfinished(folder)
            measured = service.measure(artifacts)
            wanted = measured["artifacts"] + sum(said["bytes"] for said in measured["databases"].values())
            wanted += sum(path.stat().st_size for path in secret_files(service)) + MIB
            refuse_too_little_space(
                folder,
                wanted,
                "A backup",
                "free some, or set mlflow_backup_dir to a folder on a larger disk",
            )
            path = make(service, folder, measured, label, artifacts)
            if keep:
                prune(folder, keep, service)
    return path


def make(service: Service, folder: Path, measured: dict[str, Any], label: str, artifacts: bool) -> Path:
    """Make the backup under another name, and rename it when it is whole."""
    created, release = free_moment(folder), running_release()
    version = release.rpartition("-")[0]
    name = "-".join(filter(None, [created.strftime("%Y%m%dT%H%M%SZ"), version, label]))
    staging = folder / f".{name}{UNFINISHED}"
    try:
        files.make_folder(staging, os.geteuid(), service.account.pw_gid, 0o710)
        kept = {
            member: keep_database(service, service.named(member), said, staging)
            for member, said in measured["databases"].items()
        }
        store = {"kind": service.kind, "name": service.store, **kept[service.database.member]}
        revision = store.pop("schema_revision")
        auth = {}
        if service.auth and service.auth.member in kept:
            auth = {"auth": {"file": service.auth.member, **kept[service.auth.member]}}
        owners = copy_secrets(service, staging)
        if artifacts:  # after the database, so that every artifact it names is there
            archive_artifacts(service, staging / ARTIFACTS_FILE)
        manifest = {
            "format": FORMAT,
            "name": name,
            "created": f"{created:%Y-%m-%dT%H:%M:%S+00:00}",
            "mlflow_version": version,
            "release": release,
            "store": store,
            "schema_revision": revision,
            **auth,
            "host": socket.gethostname(),
            "label": label,
            "files": {member: described(staging / member) | owners.get(member, {}) for member in members(staging)},
        }
        write_manifest(staging, manifest)
        for inner in (path for path in staging.iterdir() if path.is_dir()):
            sync_folder(inner)
        files.make_folder(staging, os.geteuid(), os.getegid(), 0o700)
        sync_folder(staging)
        staging.rename(folder / name)
    except BaseException:
        with contextlib.suppress(OSError):  # the error under way says more
            files.remove(staging)
        raise
    sync_folder(folder)
    return folder / name


def free_moment(folder: Path) -> datetime.datetime:
    """Now, in UTC and whole seconds, or, as names sort by time, the second after the newest backup's."""
    moment = datetime.datetime(*time.gmtime()[:6])
    for name in names(folder)[-1:]:
        newest = datetime.datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ")
        moment = max(moment, newest + datetime.timedelta(seconds=1))
    return moment


def running_release() -> str:
    """Name of the release that is in use; it may be another one than ours while a change is under way."""
    own = Path(os.path.realpath(sys.prefix))
    current = own.parent.parent / "current"
    return os.path.basename(os.readlink(current)) if current.is_symlink() else own.name


def keep_database(service: Service, database: Database, measured: Mapping[str, Any], staging: Path) -> dict[str, Any]:
    """Bring a database into a backup; returns what the manifest says of it."""
    if not database.uri.startswith("postgresql"):
        return {"schema_revision": copy_sqlite(service, database, staging)}
    make_folder_for(staging / database.member)
    dump_postgres(service, database, measured, staging / database.member)
    return {
        "schema": measured["schema"],
        "server_version": measured["version"],
        "schema_revision": measured["revision"],
    }


def copy_secrets(service: Service, staging: Path) -> dict[str, dict[str, str]]:
    """Copy the generated secrets; returns their owner, group and mode by their name in the backup."""
    owners = {}
    for source in secret_files(service):
        member = f"{SECRETS}/{source.name}"
        make_folder_for(staging / member)
        with opened(source) as reading, new_file(staging / member) as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
            found = os.fstat(reading.fileno())
        owners[member] = {
            "owner": pwd.getpwuid(found.st_uid).pw_name,
            "group": grp.getgrgid(found.st_gid).gr_name,
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
        }
    return owners


def secret_files(service: Service) -> list[Path]:
    folder = service.config / SECRETS
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def prune(folder: Path, keep: int, service: Service) -> None:
    """Remove the oldest backups, but none that a change under way may have to go back to."""
    needed = json.dumps(rollback.Folder(service.config / "rollback").noted())
    for name in names(folder)[:-keep]:
        if name not in needed:
            gone = folder / f".{name}{UNFINISHED}"
            (folder / name).rename(gone)
            files.remove(gone)
