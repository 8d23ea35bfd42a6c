"""Backups in a ``gs://`` folder: sent, pruned and fetched with the service's own credentials."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_service.backup.folder import (
    locked,
    make_folder_for,
    new_file,
    open_folder,
    refuse_too_little_space,
    remove_unfinished,
    sentences,
)
from mlflow_service.backup.manifest import read_manifest, read_manifest_alone
from mlflow_service.backup.model import MANIFEST, MEMBER, MIB, NAME, UNFINISHED, BackupError, Service
from mlflow_service.system import files
from mlflow_service.system.durable import sync_folder

CHUNK = 16 * MIB
TIMEOUT_SECONDS = 300


@contextmanager
def google(location: str, environment: Mapping[str, str]) -> Iterator[tuple[Any, str, str]]:
    """A client with the service's own credentials, with the bucket and the folder of a location.

    Google's libraries read their environment by themselves, so that the service's is ours for a while.
    """
    before = dict(os.environ)
    os.environ.update({name: value for name, value in environment.items() if value})
    try:
        import google.auth.exceptions
        import google.auth.transport.requests
        from google.cloud import storage

        from mlflow_service.stores import google_storage

        bucket, _, folder = location.removeprefix("gs://").partition("/")
        folder = "/".join(filter(None, folder.split("/")))
        try:
            google_storage.refuse_emulator(os.environ)
            with storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT") or None) as client:
                with explained(client, "use", bucket):  # only with a token a virtual machine's account has its name
                    client._credentials.refresh(google.auth.transport.requests.Request())
                yield client, bucket, folder
        except google.auth.exceptions.DefaultCredentialsError:
            raise BackupError(f"Google's library finds no credentials for {location}; see mlflow_gcp_auth.") from None
        except google_storage.GoogleError as error:
            raise BackupError(google_storage.for_backups(str(error))) from None
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def explained(client: Any, action: str, bucket: str) -> Iterator[None]:
    """Turn what Google's library raises into one sentence."""
    from google.cloud.exceptions import NotFound
    from google.cloud.storage.exceptions import DataCorruption

    from mlflow_service.stores import google_storage

    identity = getattr(client._credentials, "service_account_email", None) or "the service's account"
    try:
        with google_storage.explained(action, bucket, identity):
            yield
    except DataCorruption:
        raise BackupError(f"gs://{bucket} has other bytes than were sent or asked for; try again.") from None
    except NotFound:
        raise BackupError(f"There is no bucket gs://{bucket}.") from None


def blob_path(*parts: str) -> str:
    return "/".join(filter(None, parts))


def upload(path: Path, location: str, environment: Mapping[str, str], keep: int = 0) -> str:
    """Send a backup to Google Cloud Storage, its manifest last; returns its address.

    Args:
        path: the backup.
        location: ``gs://bucket/folder``.
        environment: the variables of ``mlflow.env``.
        keep: how many of this machine's backups stay there; 0 removes none.

    Raises:
        BackupError: it is not there.
    """
    manifest = read_manifest_alone(path)
    marks = {"host": manifest["host"]}
    with google(location, environment) as (client, bucket, folder):
        place = client.bucket(bucket)
        sent = []
        try:
            for member in [*manifest["files"], MANIFEST]:
                blob = place.blob(blob_path(folder, path.name, member), chunk_size=CHUNK)
                blob.metadata = marks
                with explained(client, "write", bucket):
                    # Never over another machine's backup of the same second.
                    blob.upload_from_filename(
                        str(path / member), timeout=TIMEOUT_SECONDS, if_generation_match=0, checksum="md5"
                    )
                sent.append(blob)
        except BaseException:
            for blob in reversed(sent):
                with contextlib.suppress(Exception):  # the error under way says more
                    blob.delete(timeout=TIMEOUT_SECONDS)
            raise
        if keep:
            prune_remote(client, bucket, folder, keep, marks["host"])
    return f"gs://{blob_path(bucket, folder, path.name)}"


def remote(client: Any, bucket: str, folder: str) -> dict[str, list[Any]]:
    """What stands for backups in a location, by name, oldest first; without a manifest it is none."""
    found: dict[str, list[Any]] = {}
    start = blob_path(folder, "") + "/" if folder else ""
    with explained(client, "list", bucket):
        for blob in client.list_blobs(bucket, prefix=start, timeout=TIMEOUT_SECONDS):
            name, _, member = blob.name.removeprefix(start).partition("/")
            if NAME.fullmatch(name) and member:
                found.setdefault(name, []).append(blob)
    return dict(sorted(found.items()))


def is_whole(name: str, blobs: Iterable[Any]) -> bool:
    return any(blob.name.endswith(f"{name}/{MANIFEST}") for blob in blobs)


def prune_remote(client: Any, bucket: str, folder: str, keep: int, host: str) -> None:
    """Remove this machine's oldest backups, and what killed uploads of it have left."""
    found = remote(client, bucket, folder)
    own = {
        name: blobs for name, blobs in found.items() if {(blob.metadata or {}).get("host") for blob in blobs} == {host}
    }
    whole = [name for name, blobs in own.items() if is_whole(name, blobs)]
    kept = whole[-keep:]
    for name, blobs in own.items():
        if name not in kept and name < kept[-1]:
            # The manifest first: without it the rest is no backup.
            for blob in sorted(blobs, key=lambda blob: not blob.name.endswith(f"/{MANIFEST}")):
                with explained(client, "delete", bucket):
                    blob.delete(timeout=TIMEOUT_SECONDS)


def fetch(url: str, folder: Path, environment: Mapping[str, str]) -> Path:
    """Bring a backup from Google Cloud Storage; returns its folder.

    Args:
        url: ``gs://bucket/folder/name`` or ``gs://bucket/folder/latest``.
        folder: where it goes.
        environment: the variables of ``mlflow.env``.

    Raises:
        BackupError: there is none, or it is not whole.
    """
    folder = Path(folder)
    service = Service(environment)
    location, _, name = url.rstrip("/").rpartition("/")
    if name != "latest" and not NAME.fullmatch(name):
        raise BackupError(f"{url} names no backup; it ends with a backup's name or with `latest`.")
    with sentences(), google(location, environment) as (client, bucket, place):
        found = {each: blobs for each, blobs in remote(client, bucket, place).items() if is_whole(each, blobs)}
        if name == "latest" and found:
            name = list(found)[-1]
        if name not in found:
            there = f"there are {', '.join(list(found)[-5:])}" if found else "there is none"
            raise BackupError(f"There is no backup {name} in {location}; {there}.")
        open_folder(folder, service)
        with locked(folder):
            if (folder / name / MANIFEST).is_file():
                read_manifest(folder / name)
                return folder / name
            remove_unfinished(folder)
            size = sum(blob.size for blob in found[name])
            remedy = "free some, or set mlflow_backup_dir to a folder on a larger disk"
            refuse_too_little_space(folder, size, "The backup from Google", remedy)
            download(client, bucket, blob_path(place, name), found[name], folder / f".{name}{UNFINISHED}")
            (folder / f".{name}{UNFINISHED}").rename(folder / name)
            sync_folder(folder)
    return folder / name


def download(client: Any, bucket: str, start: str, blobs: Iterable[Any], staging: Path) -> None:
    """Bring a backup's files into a folder that is made for them, and check them."""
    try:
        staging.mkdir(mode=0o700)
        for blob in blobs:
            member = blob.name.removeprefix(f"{start}/")
            if member != MANIFEST and not MEMBER.fullmatch(member):
                raise BackupError(f"gs://{bucket}/{start} has a file that belongs to no backup: {member!r}.")
            make_folder_for(staging / member)
            with explained(client, "read", bucket), new_file(staging / member) as file:
                blob.chunk_size = CHUNK
                blob.download_to_file(file, timeout=TIMEOUT_SECONDS)
                file.flush()
                os.fsync(file.fileno())
        read_manifest(staging)
        sync_folder(staging)
    except BaseException:
        with contextlib.suppress(OSError):  # the error under way says more
            files.remove(staging)
        raise
