"""The folder of the backups, and files in it: only root may read them, and no link leads out of it."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlflow_service.backup.model import BLOCK, LOCK_SECONDS, MANIFEST, MIB, NAME, UNFINISHED, BackupError, Service, log
from mlflow_service.system import acting, files, locks


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what the system says about files, and what is not followed, into a BackupError."""
    try:
        yield
    except files.Refusal as refusal:
        raise BackupError(str(refusal)) from None
    except acting.ActingError as error:
        raise BackupError(f"What runs as the service has failed: {error}.") from None
    except OSError as error:
        raise BackupError(why(error)) from error


def why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk with {error.filename or 'the backups'} is full; free some space."
    return f"{error.filename or 'A file'} can't be read or written ({error.strerror})."


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file of a backup, which may be in somebody's folder; a link or a hard link there is refused."""
    with files.opened(path) as descriptor, open(os.dup(descriptor), "rb") as file:
        yield file


def checksum(file: IO[bytes]) -> str:
    """SHA-256 of the rest of an open file."""
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep backups, and changes that begin with one, out of the folder, and wait for one that is under way."""
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not locks.take(descriptor, 0):
            log.info("waiting for the backup or the change that is under way in %s", folder)
            if not locks.take(descriptor, LOCK_SECONDS):
                minutes = LOCK_SECONDS // 60
                raise BackupError(
                    f"Another backup to {folder}, or a change, has been under way for {minutes} minutes; try again."
                )
        yield
    finally:
        os.close(descriptor)


def open_folder(folder: Path, service: Service) -> None:
    """Make the folder of the backups; the service's user may pass through it to a database's copy, and see nothing."""
    files.make_folder(folder, os.geteuid(), service.account.pw_gid, 0o710)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed run has left behind."""
    for path in folder.glob(f".*{UNFINISHED}"):
        files.remove(path)


def names(folder: Path) -> list[str]:
    """Names of the finished backups in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / MANIFEST).is_file())


def refuse_too_little_space(folder: Path, wanted: int, what: str, remedy: str) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise BackupError(
            f"{what} wants up to {-(-wanted // MIB)} MiB in {folder}, and {free // MIB} MiB are free there; {remedy}."
        )


def members(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def described(path: Path) -> dict[str, Any]:
    with opened(path) as file:
        return {"bytes": path.stat().st_size, "sha256": checksum(file)}


def make_folder_for(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)


def take(made: Path, target: Path) -> None:
    """Make a file that the service's user has made a file of root's; refuses anything that is not such a file."""
    with files.opened(made) as descriptor:
        found = os.fstat(descriptor)
        files.give(descriptor, os.geteuid(), os.getegid(), 0o600)
        os.fsync(descriptor)
        made.rename(target)
        if target.lstat().st_ino == found.st_ino and nobody_writes(descriptor):
            return
        # Somebody holds it open, and could change it later on: what is in it now goes to a file of ours.
        target.unlink()
        with new_file(target) as ours, open(os.dup(descriptor), "rb") as theirs:
            shutil.copyfileobj(theirs, ours, BLOCK)
            ours.flush()
            os.fsync(ours.fileno())


def nobody_writes(descriptor: int) -> bool:
    """Whether nobody has a file of ours open to write to it; see F_SETLEASE in fcntl(2). Only we can open it anew."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:  # somebody has, or the file system has no leases
        return False
    return True


def new_file(path: Path) -> IO[bytes]:
    """A file that only we can open, whoever writes to it."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600), "w+b")
