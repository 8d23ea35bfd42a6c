"""Ask the stores what the service will ask of them, before it is touched.

Root starts it; what it asks, it asks as the service's user, with the service's environment and with the credential
files that the service will have.
"""

import grp
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlflow_service.stores import pooler, postgres, schema
from mlflow_service.system import acting, files, settings

TIMEOUT_SECONDS = 120.0
NONE_OF_OURS = "The stores could not be asked: what answered is none of ours."


@dataclass
class Wanted:
    """What the service will be.

    Attributes:
        environment: its variables; an empty one is none.
        user, group, home: of its account.
        files: credential files that it will have, by path: ``{"secret": text}`` or ``{"copy_of": path}``.
        google_auth: ``mlflow_gcp_auth`` where the artifacts go to ``gs://``, otherwise empty.
        connection_settings: names of the settings that hold the connection strings of the store and of
            its read replica; empty where the single settings do.
        backups: ``location`` in ``gs://`` where backups go, and ``google_auth``; empty where they stay here.
        previous: settings file of the store that the service leaves, or empty.
        write: whether an artifact may be written and deleted, and not only a token obtained.
    """

    environment: dict[str, Any]
    user: str
    group: str
    home: str
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    google_auth: str = ""
    backups: dict[str, str] = field(default_factory=dict)
    connection_settings: dict[str, str] = field(default_factory=dict)
    previous: str = ""
    write: bool = True


def examine_database(wanted: Wanted) -> dict[str, Any]:
    """What the backend store offers with the auth database, and what they hold where the service comes from others."""
    uri = schema.TRACKING.uri
    found: dict[str, Any] = {}
    auth = None
    if uri.startswith("postgresql"):
        timeout, setting = os.environ["PGCONNECT_TIMEOUT"], wanted.connection_settings.get("store", "")
        offered = postgres.examine(uri, setting, timeout, served=through_pooler(schema.TRACKING))
        found["connections"] = offered.pop("connections")
        tracking = schema.Schema(**offered)
        if schema.AUTH.uri:
            offered = postgres.examine(
                schema.AUTH.uri,
                setting,
                timeout,
                database_setting="mlflow_auth_database",
                store=schema.AUTH,
                served=through_pooler(schema.AUTH),
            )
            auth = schema.Schema(offered["head"], offered["revision"], offered["known"])
        if replica := os.environ.get("MLFLOW_READ_REPLICA_BACKEND_STORE_URI"):
            postgres.examine(replica, wanted.connection_settings["replica"], timeout, replica=True)
    else:
        tracking, auth = schema.look(schema.TRACKING), schema.look(schema.AUTH)
    found |= asdict(schema.together(tracking, auth))
    if wanted.previous:
        found["holdings"] = holdings(wanted)
    return found


def through_pooler(store: schema.Store) -> str:
    """Where MLflow is sent for a store, where that is not PostgreSQL itself."""
    return os.environ[store.variable] if pooler.is_set() else ""


def examine_previous(wanted: Wanted) -> dict[str, Any]:
    """What the stores hold that the service leaves, and their schema's revision, as `schema.together` says it."""
    auth = None
    if wanted.environment.get(schema.AUTH.variable):
        auth = schema.look(schema.AUTH) or schema.Schema(schema.head(schema.AUTH), "", True)
    found = schema.together(schema.look(schema.TRACKING), auth)
    return {"holdings": holdings(wanted), "revision": found.revision}


def holdings(wanted: Wanted) -> dict[str, int]:
    """How much the stores hold, by kind; accounts where the service will have any."""
    from mlflow_service.stores import copying

    found = copying.holdings(schema.TRACKING.uri)
    if schema.AUTH.uri and wanted.environment.get(schema.AUTH.variable):
        found["accounts"] = copying.accounts(schema.AUTH.uri)
    return {kind: count for kind, count in found.items() if count}


def takes(there: dict[str, int], here: dict[str, int]) -> bool:
    """Whether each database of a store is empty, or holds as much as what is to be copied there.

    Of two databases one may have been copied before a run was killed.
    """
    accounts = there.get("accounts", 0) in {0, here.get("accounts", 0)}
    there, here = ({kind: n for kind, n in held.items() if kind != "accounts"} for held in (there, here))
    return accounts and there in ({}, here)


def examine_artifacts(wanted: Wanted) -> dict[str, Any]:
    """Write, read and delete an artifact where the service will keep them."""
    destination = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION") or os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    if wanted.google_auth:
        from mlflow_service.stores import google_storage

        return google_storage.check(destination, os.environ, wanted.google_auth, write=wanted.write)
    if "://" in destination and wanted.write:
        exchange_artifact(destination)
    return {}


def examine_backups(wanted: Wanted) -> dict[str, Any]:
    """Write, read and delete an object where backups go."""
    if not wanted.backups:
        return {}
    from mlflow_service.stores import google_storage

    try:
        return google_storage.check(
            wanted.backups["location"], os.environ, wanted.backups["google_auth"], write=wanted.write
        )
    except google_storage.GoogleError as error:
        raise google_storage.GoogleError(google_storage.for_backups(str(error))) from None


def exchange_artifact(destination: str) -> None:
    """Write, read and delete an artifact by MLflow's own client for that kind of store."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(f"{destination.rstrip('/')}/.mlflow-preflight")
    with tempfile.TemporaryDirectory() as folder:
        sent = Path(folder, "artifact")
        sent.write_bytes(os.urandom(64))
        repository.log_artifact(str(sent))
        if Path(repository.download_artifacts("artifact")).read_bytes() != sent.read_bytes():
            raise RuntimeError("what was read back is not what was written")
        repository.delete_artifacts("artifact")


def examine(steps: Mapping[str, Callable[[Wanted], dict]], wanted: Wanted) -> dict[str, Any]:
    """Run each step; what one returns stands under its name, what one refuses among the errors."""
    found: dict[str, Any] = {"errors": []}
    for name, step in steps.items():
        try:
            found[name] = step(wanted)
        except Exception as error:
            found["errors"].append(sentence(name, error))
    return found


def sentence(step: str, error: Exception) -> str:
    """An error for a person: our own as they are, any other with its kind and no secret."""
    if type(error).__module__.startswith("mlflow_service."):
        return str(error)
    said = " ".join(str(error).split())[:400]
    if isinstance(error, ImportError):
        said += "; add the package to mlflow_extra_packages"
    for name, value in os.environ.items():
        if len(value) > 5 and any(word in name for word in ("PASSWORD", "SECRET", "KEY", "TOKEN", "URI")):
            said = said.replace(value, "…")
    names = {
        "database": "The backend store",
        "artifacts": "The artifact store",
        "backups": "The place for backups",
        "previous": "The store in use until now",
    }
    return f"{names[step]} can't be used: {type(error).__name__}: {said}."


STEPS = {
    "wanted": {"database": examine_database, "artifacts": examine_artifacts, "backups": examine_backups},
    "previous": {"previous": examine_previous},
}


def ask(part: str, wanted: Wanted, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the steps of a part as the service's user, with the environment and nothing else."""
    group = grp.getgrnam(wanted.group).gr_gid
    try:
        found = acting.run(
            acting.python("-m", "mlflow_service.preflight", part),
            acting.identity(wanted.user, group),
            {"MLFLOW_CONFIGURE_LOGGING": "false", **environment},
            home=wanted.home,
            given=json.dumps(vars(wanted)),
            seconds=TIMEOUT_SECONDS,
        ).answer()
    except acting.ActingError as error:
        return {"errors": [sentence("database", RuntimeError(str(error)))]}
    errors = found.get("errors", [])
    if not (isinstance(errors, list) and all(isinstance(error, str) for error in errors)):
        errors = [NONE_OF_OURS]
    return {**found, "errors": [acting.one_line(error) for error in errors]}


def put_files(wanted: Wanted, folder: Path) -> dict[str, str]:
    """Write the credential files for the service's user to read; returns the environment that names them.

    Both the folder and the files are root's, as the real ones will be: what the service could exchange would be
    written through a link.
    """
    group = grp.getgrnam(wanted.group).gr_gid
    files.make_folder(folder, os.geteuid(), group, 0o750)
    moved = {}
    for number, (path, source) in enumerate(wanted.files.items()):
        content = source["secret"].encode() if "secret" in source else files.read(source["copy_of"])
        moved[path] = folder / str(number)
        files.write(moved[path], content, os.geteuid(), group, 0o640)
    named = {name: str(moved.get(value, value)) for name, value in wanted.environment.items()}
    return {name: value for name, value in named.items() if value}


def answer(wanted: Wanted) -> dict[str, Any]:
    """Ask all of them, as root: ``{"errors": [sentence, …], "database": {…}, "artifacts": {…}, "previous": {…}}``."""
    with tempfile.TemporaryDirectory(prefix="mlflow-preflight-", dir="/run") as folder:
        try:
            environment = put_files(wanted, Path(folder))
        except files.Refusal as refusal:
            return {"errors": [str(refusal)]}
        found = ask("wanted", wanted, environment)
        if wanted.previous:
            before = ask("previous", wanted, settings.read(wanted.previous))
            found = {**before, **found, "errors": found["errors"] + before["errors"]}
            if not found["errors"]:
                try:
                    found["database"]["takes"] = takes(found["database"]["holdings"], found["previous"]["holdings"])
                except (KeyError, TypeError, AttributeError):
                    found["errors"] = [NONE_OF_OURS]
    return found
