"""A backup's manifest, which says what belongs to it: written, read, checked."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_service.backup.folder import checksum, new_file, opened, sentences, why
from mlflow_service.backup.model import (
    FORMAT,
    LABEL,
    MANIFEST,
    MANIFEST_LIMIT,
    MEMBER,
    MODE,
    MOMENT,
    NAME,
    REVISION,
    SHA256,
    WORD,
    BackupError,
    is_count,
    is_word,
)
from mlflow_service.system import files


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with new_file(folder / MANIFEST) as file:
        file.write(json.dumps({**manifest, "sha256": manifest_checksum(manifest)}, indent=2).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of all that a manifest says but its own checksum."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a backup that is whole: every file has the size and the checksum that it says.

    Raises:
        BackupError: it is not.
    """
    path = Path(path)
    manifest = read_manifest_alone(path)
    with sentences():
        for member, wanted in manifest["files"].items():
            check_member(path, member, wanted)
    return manifest


def read_manifest_alone(path: Path) -> dict[str, Any]:
    """The manifest of a backup, whatever has become of its files."""
    try:
        manifest = json.loads(files.read(path / MANIFEST, MANIFEST_LIMIT))
        version, said = manifest["format"], manifest.get("sha256")
    except FileNotFoundError:
        raise BackupError(f"{path} is no backup: it has no {MANIFEST}.") from None
    except files.Refusal as refusal:
        raise BackupError(str(refusal)) from None
    except OSError as error:
        raise BackupError(why(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BackupError(f"The backup {path} is damaged: its {MANIFEST} can't be read.") from None
    if version != FORMAT:
        raise BackupError(
            f"The backup {path} has the format {version}, and this release of the service knows {FORMAT}; "
            "restore it with the release that made it."
        )
    if said != manifest_checksum(manifest):
        raise BackupError(f"The backup {path} is damaged: its {MANIFEST} was changed.")
    found = manifest.get("files")
    if strange := [member for member in (found if isinstance(found, dict) else ()) if not MEMBER.fullmatch(member)]:
        raise BackupError(f"The backup {path} has a file that belongs to none: {strange[0]!r}.")
    if not is_manifest(manifest):
        raise BackupError(f"The backup {path} is damaged: its {MANIFEST} says what none of ours does.")
    return manifest


def is_manifest(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has the form of those that `make` writes.

    Its checksum is anybody's to make: a backup may come from a bucket or a folder that the service can write.
    """
    words = (("name", NAME), ("created", MOMENT), ("schema_revision", REVISION), ("label", LABEL))
    words = (*words, ("mlflow_version", WORD), ("release", WORD), ("host", WORD))
    store, auth, found = manifest.get("store"), manifest.get("auth", {}), manifest.get("files")
    return (
        all(is_word(manifest.get(name), pattern) for name, pattern in words)
        and isinstance(store, dict)
        and all(is_word(store.get(name), WORD) for name in ("kind", "name"))
        and isinstance(auth, dict)
        and is_word(auth.get("schema_revision", ""), REVISION)
        and isinstance(found, dict)
        and all(isinstance(said, dict) and is_member(said) for said in found.values())
    )


def is_member(said: Mapping[str, Any]) -> bool:
    """Whether a manifest says of a file what can be said of one."""
    return (
        is_count(said.get("bytes"))
        and is_word(said.get("sha256"), SHA256)
        and is_word(said.get("mode", "0600"), MODE)
        and is_word(said.get("group", "root"), WORD)
    )


def check_member(path: Path, member: str, wanted: Mapping[str, Any]) -> None:
    file = path / member
    if not file.is_file() or file.is_symlink():
        raise BackupError(f"The backup {path} is damaged: {member} is missing.")
    with opened(file) as content:
        size, digest = os.fstat(content.fileno()).st_size, checksum(content)
    if size != wanted["bytes"]:
        raise BackupError(f"The backup {path} is damaged: {member} has {size} bytes, and had {wanted['bytes']}.")
    if digest != wanted["sha256"]:
        raise BackupError(f"The backup {path} is damaged: {member} is not what it was (SHA-256).")


def summary(path: Path) -> dict[str, Any]:
    """What a person wants to know of a backup."""
    manifest = read_manifest_alone(path)
    wanted = ("name", "created", "mlflow_version", "schema_revision", "store", "label")
    size = sum(file["bytes"] for file in manifest["files"].values())
    return {"path": str(path), "bytes": size, **{name: manifest[name] for name in wanted}}
