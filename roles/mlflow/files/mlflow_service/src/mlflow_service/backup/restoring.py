"""Bringing back what a backup has."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_service.backup import bucket
from mlflow_service.backup.folder import names, new_file, opened, refuse_too_little_space, sentences
from mlflow_service.backup.manifest import read_manifest
from mlflow_service.backup.model import (
    AUTH_DUMP,
    DATABASES,
    MANIFEST,
    NAME,
    POSTGRES_FILE,
    SECRETS,
    SQLITE_FILE,
    BackupError,
    Service,
    log,
)
from mlflow_service.backup.postgresql import refuse_other_schema, restore_postgres
from mlflow_service.system import acting, files
from mlflow_service.system.durable import sync_folder


def restore_database(path: Path, environment: Mapping[str, str]) -> None:
    """Bring back the databases and the secrets of a backup; nothing else may use them meanwhile.

    Can be run again when it was interrupted: each database is what it was or what the backup has. What the
    backup or the service has no database of stays as it is; see `about_accounts`.

    Raises:
        BackupError: it could not be.
    """
    path = Path(path)
    service = Service(environment)
    manifest = read_manifest(path)
    if manifest["store"]["kind"] != service.kind:
        raise BackupError(
            f"The backup {path.name} is of the {manifest['store']['kind']} store {manifest['store']['name']}, and the "
            f"settings name {service.store}; set mlflow_backend_store to {manifest['store']['kind']}."
        )
    if said := about_accounts(manifest, service):
        log.warning("%s", said)
    files = manifest["files"]
    with sentences():
        restore_databases(service, path, manifest)
        for member in files:
            if member.startswith(f"{SECRETS}/"):
                restore_secret(service, path / member, files[member])


def about_accounts(manifest: Mapping[str, Any], service: Service) -> str:
    """What a restore does to the accounts, where only one of the backup and the service has any; otherwise nothing."""
    kept = (AUTH_DUMP if service.kind == "postgresql" else f"{DATABASES}/auth.db") in manifest["files"]
    if service.accounts and not kept:
        return f"The backup {manifest['name']} has no accounts; those of the server stay as they are."
    if kept and not service.accounts:
        done = "not restored" if service.kind == "postgresql" else "restored, and not in use"
        return f"The accounts in the backup {manifest['name']} are {done}, because mlflow_auth_enabled is false."
    return ""


def restore_databases(service: Service, path: Path, manifest: Mapping[str, Any]) -> None:
    """Bring back each database that the backup and the service have, the tracking database first."""
    known = {
        member: service.named(member)
        for member in sorted(manifest["files"], key=lambda member: member.startswith(f"{DATABASES}/"))
        if member in {SQLITE_FILE, POSTGRES_FILE} or member.startswith(f"{DATABASES}/")
    }
    servers = {m: database for m, database in known.items() if database and m in {POSTGRES_FILE, AUTH_DUMP}}
    files = {m: database for m, database in known.items() if database and m not in servers}
    # What can be refused is refused before the first of them is touched.
    measured = service.measure()["databases"] if servers else {}
    for member in servers:
        theirs = manifest["store" if member == POSTGRES_FILE else "auth"]["schema"]
        refuse_other_schema(theirs, measured.get(member, {}).get("schema", "none"))
    wanted: dict[Path, int] = {}
    for member, database in files.items():
        folder = database.path.parent
        wanted[folder] = wanted.get(folder, 0) + manifest["files"][member]["bytes"]
    for folder, size in wanted.items():
        refuse_too_little_space(folder, size, "What is restored", "free some")
    for member, database in servers.items():
        restore_postgres(service, database, measured[member], path / member)
    for member, database in files.items():
        with opened(path / member) as content:
            service.act("receive", str(database.path), given=content, seconds=acting.DATA_SECONDS)


def restore_secret(service: Service, source: Path, wanted: Mapping[str, Any]) -> None:
    """Put a secret back with the group and mode that it had, as far as this machine has them. Root owns it."""
    target = service.config / SECRETS / source.name
    if not target.parent.is_dir():
        files.make_folder(target.parent, os.geteuid(), service.account.pw_gid, 0o750)
    beside = target.with_name(f".{target.name}.restoring")
    beside.unlink(missing_ok=True)
    try:
        with opened(source) as reading, new_file(beside) as writing:
            shutil.copyfileobj(reading, writing)
            if os.geteuid() == 0:
                os.fchown(writing.fileno(), 0, group_id(service, wanted))
            os.fchmod(writing.fileno(), int(wanted["mode"], 8) & 0o770)
            writing.flush()
            os.fsync(writing.fileno())
        beside.rename(target)
        sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def group_id(service: Service, wanted: Mapping[str, Any]) -> int:
    """Of the two groups that a secret may be for; a manifest from a bucket is one that the service could write."""
    return 0 if wanted.get("group") == "root" else service.account.pw_gid


def resolve(name: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """The folder of a backup.

    Args:
        name: its name, ``latest``, its absolute path, or ``gs://bucket/folder/name`` or ``…/latest``, which is
            fetched into the folder.
        folder: where this machine's backups are.
        environment: the variables of ``mlflow.env``.

    Raises:
        BackupError: there is no such backup.
    """
    folder = Path(folder)
    if name.startswith("gs://"):
        return bucket.fetch(name, folder, environment)
    known = names(folder)
    if name == "latest" and known:
        return folder / known[-1]
    path = Path(name) if name.startswith("/") else folder / name
    if (name.startswith("/") or NAME.fullmatch(name)) and (path / MANIFEST).is_file():
        return path
    there = f"there are {', '.join(known[-5:])}" if known else f"{folder} has none"
    raise BackupError(f"There is no backup {name}; {there}.")
