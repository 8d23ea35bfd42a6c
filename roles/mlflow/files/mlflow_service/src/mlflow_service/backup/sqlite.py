"""SQLite databases: copied as the service while it writes them, and put in their place."""

import contextlib
import os
import shutil
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

from mlflow_service.backup.folder import make_folder_for, take
from mlflow_service.backup.model import BLOCK, DATABASE_LOCK_SECONDS, REVISION, BackupError, Database, Service
from mlflow_service.system import acting, files
from mlflow_service.system.durable import sync_folder


def sqlite_bytes(path: Path) -> int:
    """The size of a SQLite database with what its write-ahead log may add to it."""
    log_file = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log_file.stat().st_size if log_file.exists() else 0)


def copy(service: Service, source: str, target: str, versions: str) -> dict[str, Any]:
    """Copy a SQLite database as it is at one moment, while others read and write it; returns its schema revision.

    Source: https://sqlite.org/backup.html. All pages in one step: in steps, each write of another
    process would make it begin again. In WAL mode a reader keeps no writer waiting.
    """
    existing = f"{Path(source).as_uri()}?mode=rw"
    with (
        contextlib.closing(sqlite3.connect(existing, uri=True, timeout=DATABASE_LOCK_SECONDS)) as reading,
        contextlib.closing(sqlite3.connect(target)) as writing,
    ):
        reading.execute("SELECT count(*) FROM sqlite_master").fetchone()  # waits where somebody has it locked
        writing.execute("PRAGMA synchronous = OFF")  # root flushes the file
        writing.execute("PRAGMA journal_mode = OFF")
        reading.backup(writing, pages=-1)
        # The mode in the file is a matter of whoever opens it; without a log beside it the copy is one file.
        writing.execute("PRAGMA journal_mode = DELETE")
        (fault,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if fault != "ok":
            raise BackupError(f"The SQLite database {source} is damaged ({' '.join(fault.split())[:200]}).")
        if not writing.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (versions,)).fetchone():
            return {"revision": ""}
        row = writing.execute(f"SELECT version_num FROM {versions}").fetchone()
        return {"revision": row[0] if row else ""}


def receive(service: Service, target: str) -> dict[str, Any]:
    """Put the SQLite database that standard input holds in a database's place, which nobody has open."""
    path = Path(target)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    beside = path.with_name(f".{path.name}.restoring")
    beside.unlink(missing_ok=True)
    try:
        descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            shutil.copyfileobj(sys.stdin.buffer, file, BLOCK)
            file.flush()
            os.fsync(descriptor)
        close_log(path)
        beside.rename(path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)
    return {}


def close_log(path: Path) -> None:
    """Bring what a database's log holds into the database and remove the log.

    A log that stayed would be played into the file that takes the database's place. One that was only
    removed would take changes with it, should we be killed before the new file is there.
    """
    if path.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=1)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("SELECT count(*) FROM sqlite_master")
    for ending in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def copy_sqlite(service: Service, database: Database, staging: Path) -> str:
    """Copy a SQLite database into a backup as the service's user; returns its schema revision."""
    work = staging / "copying"
    files.make_folder(work, service.account.pw_uid, service.account.pw_gid, 0o700)
    try:
        made = work / "copy"
        said = service.act("copy", str(database.path), str(made), database.versions, seconds=acting.DATA_SECONDS)
        revision = said.get("revision")
        if not (isinstance(revision, str) and REVISION.fullmatch(revision)):
            raise BackupError(f"The schema of {database.path} could not be read: what answered is none of ours.")
        make_folder_for(staging / database.member)
        take(made, staging / database.member)
    finally:
        files.remove(work)
    return revision
