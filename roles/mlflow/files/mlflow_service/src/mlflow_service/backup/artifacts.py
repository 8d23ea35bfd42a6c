"""Local artifacts: archived and restored as the service."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mlflow_service.backup.folder import new_file, opened, refuse_too_little_space, sentences
from mlflow_service.backup.manifest import read_manifest_alone
from mlflow_service.backup.model import ARTIFACTS_FILE, BackupError, Service
from mlflow_service.system import acting


def tar_bytes(folder: Path) -> int:
    """The size of an archive of a folder: a header for each file and folder, and contents in blocks of 512 bytes."""
    total, folders = 20 * 512, [os.fspath(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += 512
                    folders.append(entry.path)
                else:
                    # A long path takes two blocks more, and so does a name with odd characters.
                    total += 3 * 512 + -(-entry.stat(follow_symlinks=False).st_size // 512) * 512
    return total


def archive_artifacts(service: Service, target: Path) -> None:
    """Archive the local artifacts; one that is written meanwhile belongs to no run that the database knows as whole."""
    command = ["tar", "--create", "--file=-", f"--directory={service.artifacts}", "."]
    with new_file(target) as archive:
        done = service.run(command, output=archive, seconds=acting.DATA_SECONDS)
        if done.status not in (0, 1):  # 1: a file changed while it was read
            raise BackupError(tool_failed("tar", done.status, done.errors))
        archive.flush()
        os.fsync(archive.fileno())


def tool_failed(tool: str, status: int, said: str) -> str:
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return f"The disk became full while {tool} wrote; free some space."
    if status < 0:
        return f"{tool} was stopped by signal {-status}; what it had done is taken back, so start it again."
    lines = [line for line in said.strip().splitlines() if "rror" in line] or said.strip().splitlines() or ["no word"]
    return f"{tool} failed with status {status} ({lines[0].strip()[:300]})."


def brings_artifacts(path: Path, environment: Mapping[str, str]) -> bool:
    """Whether restoring a backup overwrites artifacts on this machine."""
    return ARTIFACTS_FILE in read_manifest_alone(path)["files"] and Service(environment).artifacts is not None


def restore_artifacts(path: Path, environment: Mapping[str, str]) -> None:
    """Bring back the local artifacts of a backup that has them; those that were made since stay.

    Raises:
        BackupError: it could not be.
    """
    path = Path(path)
    service = Service(environment)
    if ARTIFACTS_FILE not in read_manifest_alone(path)["files"]:
        return
    if service.artifacts is None:
        raise BackupError(f"The backup {path.name} has artifacts, and the settings keep none on this machine.")
    size = (path / ARTIFACTS_FILE).stat().st_size
    refuse_too_little_space(service.artifacts, size, "The restored artifacts", "free some")
    command = ["tar", "--extract", "--file=-", f"--directory={service.artifacts}", "--no-same-owner"]
    with sentences(), opened(path / ARTIFACTS_FILE) as archive:
        done = service.run(command, given=archive, seconds=acting.DATA_SECONDS)
    if done.status != 0:
        raise BackupError(tool_failed("tar", done.status, done.errors))
