"""What is done as the service's user, by a child that root asks; see acting.py."""

import errno
import os
import sqlite3
from typing import Any

from mlflow_service.backup.artifacts import tar_bytes
from mlflow_service.backup.folder import why
from mlflow_service.backup.model import BackupError, Service
from mlflow_service.backup.postgresql import measure_postgres
from mlflow_service.backup.sqlite import copy, receive, sqlite_bytes


def measure(service: Service, artifacts: str = "") -> dict[str, Any]:
    """What there is to back up.

    Returns:
        ``{"databases": {member: {"bytes"}}, "artifacts": bytes}``, each at most so many bytes in a backup; of a
        database in PostgreSQL also ``{"version", "schema", "revision"}``.
    """
    found: dict[str, Any] = {"databases": {}, "artifacts": tar_bytes(service.artifacts) if artifacts else 0}
    for database in service.databases():
        if database.uri.startswith("postgresql"):
            said = measure_postgres(service, database)
        else:
            said = {"bytes": sqlite_bytes(database.path)}
        found["databases"][database.member] = said
    return found


VERBS = {"measure": measure, "copy": copy, "receive": receive}


def act(verb: str, arguments: list[str]) -> dict[str, Any]:
    """Do a part as the service's user; the environment is the service's."""
    service = Service(os.environ)
    try:
        return VERBS[verb](service, *arguments)
    except BackupError as error:
        return {"error": str(error)}
    except sqlite3.Error as error:
        if "disk is full" in str(error):
            return {"error": why(OSError(errno.ENOSPC, ""))}
        place = arguments[0] if arguments else service.store
        return {"error": f"The SQLite database {place} can't be read ({error})."}
    except OSError as error:
        return {"error": why(error)}
