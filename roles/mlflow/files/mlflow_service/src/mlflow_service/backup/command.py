"""The command: by hand, by a timer, and the part that runs as the service."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_service.backup import bucket
from mlflow_service.backup.creating import create
from mlflow_service.backup.folder import names
from mlflow_service.backup.manifest import summary
from mlflow_service.backup.model import BackupError, log
from mlflow_service.backup.parts import VERBS, act


def create_from_settings(label: str) -> dict[str, Any]:
    """Make a backup as the settings in the environment ask for it, and send it on."""
    started = time.monotonic()
    folder, keep = Path(os.environ["MLFLOW_BACKUP_FOLDER"]), int(os.environ["MLFLOW_BACKUP_KEEP"])
    location = os.environ.get("MLFLOW_BACKUP_LOCATION", "")
    artifacts = os.environ.get("MLFLOW_BACKUP_ARTIFACTS") == "true"
    path = create(os.environ, folder, label=label, artifacts=artifacts, keep=keep)
    address = ""
    if location:
        try:
            address = bucket.upload(path, location, os.environ, keep)
        except BackupError as error:
            raise BackupError(f"The backup {path} was made, and could not be sent to {location}: {error}") from None
    return {**summary(path), "location": address, "seconds": round(time.monotonic() - started, 1)}


def leave_result(result: Mapping[str, Any]) -> None:
    """Leave the outcome where playbooks/backup.yml looks for it; in memory, so that a full disk does not hide it."""
    if folder := os.environ.get("RUNTIME_DIRECTORY"):
        Path(folder, "last.json").write_text(json.dumps(result), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="mlflow_service.backup", description="Back up what the service holds.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="make a backup").add_argument("--label", default="", help="end of its name")
    commands.add_parser("list", help="print those that there are, oldest first")
    acting = commands.add_parser("act")  # by `Service.act`
    acting.add_argument("verb", choices=VERBS)
    acting.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    if given.command == "act":
        print(json.dumps(act(given.verb, given.arguments)))
        return 0
    from mlflow_service.system import logs

    os.chdir("/")
    # A stop from outside ends it as an error does: what was begun is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The backup was stopped."))
    logs.configure_for_journal()
    try:
        if given.command == "list":
            folder = Path(os.environ["MLFLOW_BACKUP_FOLDER"])
            for name in names(folder):
                print(json.dumps(summary(folder / name)), file=sys.__stdout__)
            return 0
        result = create_from_settings(given.label)
    except BackupError as error:
        leave_result({"error": str(error)})
        log.error("%s", error)
        return 1
    except Exception as error:
        leave_result({"error": f"The backup failed ({type(error).__name__}: {error})."})
        log.exception("the backup failed")
        return 1
    leave_result(result)
    log.info("backed up to %s: %d bytes in %.1f s", result["path"], result["bytes"], result["seconds"])
    print(json.dumps(result), file=sys.__stdout__)
    return 0
