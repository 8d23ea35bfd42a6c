"""What a change would mean for the data, before it is made."""

import contextlib
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow_service import backup
from mlflow_service.change import asking
from mlflow_service.change.machine import Machine, refuse_unfit_release
from mlflow_service.change.model import ChangeError, Plan, Request
from mlflow_service.system import settings


def plan(machine: Machine, request: Request) -> Plan:
    """What the change would mean for the data."""
    environment, folder, planned = settings.read(machine.env), Path(request.backup_dir), Plan()
    try:
        refuse_unfit_release(machine, request.release)
        planned.revisions = asking.known_revisions(request, environment)
        for name in reversed(backup.names(folder)):
            with contextlib.suppress(backup.BackupError):  # a damaged one is none to name
                if can_start(backup.read_manifest_alone(folder / name), planned.revisions):
                    planned.backups.append(name)
        if request.restore:
            path = backup.resolve(request.restore, folder, environment)
            service, manifest = backup.Service(environment), backup.read_manifest(path)
            planned.backup = {**manifest, "path": str(path)}
            planned.accounts = backup.about_accounts(manifest, service)
            kept, used = manifest["store"]["kind"], service.kind
            if kept != used:
                raise ChangeError(
                    f"The backup {path.name} is of a {kept} store, and the server's is {used}; restore it with "
                    f"mlflow_backend_store: {kept}, then go over to {used} (mlflow_backend_switch: migrate)."
                )
            # Of the tracking database plan_change.yml says it.
            if manifest["schema_revision"] in planned.revisions and not can_start(manifest, planned.revisions):
                raise ChangeError(
                    f"The accounts in the backup {path.name} have a schema that MLflow {request.version} does not "
                    f"know: MLflow {manifest['mlflow_version']} made it. Take that version, or one of the backups "
                    f"{', '.join(planned.backups) or '(none here is older)'}."
                )
    except (ChangeError, backup.BackupError) as error:
        planned.wrong = str(error)
        return planned
    try:
        planned.schema = asking.schema(request, environment)
        if request.restore:
            moment = datetime.fromisoformat(planned.backup["created"]).timestamp() * 1000
            planned.lost = asking.given_since(request, environment, int(moment))
    except ChangeError as error:
        planned.unreadable = str(error)
    return planned


def can_start(manifest: Mapping[str, Any], revisions: Collection[str]) -> bool:
    """Whether a release can start from a backup.

    Args:
        manifest: of the backup.
        revisions: that the release knows; those of the auth database are marked, see schema.py.
    """
    auth = manifest.get("auth", {}).get("schema_revision", "")
    return manifest["schema_revision"] in revisions and (not auth or f"+{auth}" in revisions)
