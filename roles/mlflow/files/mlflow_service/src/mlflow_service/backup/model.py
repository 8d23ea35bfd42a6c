"""What a backup is of: the service as its settings describe it, and its databases."""

import contextlib
import logging
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlflow_service.stores import pooler
from mlflow_service.system import acting, files

FORMAT = 1
MANIFEST = "manifest.json"
SQLITE_FILE, POSTGRES_FILE, ARTIFACTS_FILE = "database.sqlite", "database.dump", "artifacts.tar"
DATABASES, SECRETS = "databases", "secrets"  # folders in a backup
AUTH_DUMP = f"{DATABASES}/auth.dump"
NAME = re.compile(r"\d{8}T\d{6}Z-[0-9A-Za-z.+_]+(-[a-z0-9.+_-]+)?")
MEMBER = re.compile(rf"{SQLITE_FILE}|{POSTGRES_FILE}|{ARTIFACTS_FILE}|({DATABASES}|{SECRETS})/(?!\.{{1,2}}$)[^/\0\n]+")
LABEL = re.compile(r"([a-z0-9][a-z0-9.+_-]{0,39})?")  # may have a version, such as before-3.17.2+corp1
REVISION = re.compile(r"\w{0,64}")  # of a schema
SCHEMA = re.compile(r"[^\0\n\r]{1,63}")  # a name of PostgreSQL's
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
MODE = re.compile(r"0[0-7]{3}")
WORD = re.compile(r"[^\x00-\x1f\x7f]{0,4096}")  # what may stand in a sentence
DATABASE_LIMIT = 100  # SQLite files at home that a backup takes
MANIFEST_LIMIT = 16 * 1024 * 1024  # bytes
UNFINISHED = ".unfinished"
SQLITE_HEADER = b"SQLite format 3\0"
LOCK_SECONDS = 3600
DATABASE_LOCK_SECONDS = 60
BLOCK = 1024 * 1024
MIB = 1024 * 1024
log = logging.getLogger("mlflow_service.backup")


class BackupError(Exception):
    """What is wrong with a backup, or why there is none; the text is one sentence for a person, without a secret."""


@dataclass(frozen=True)
class Database:
    """One of the service's databases.

    Attributes:
        member: its name in a backup.
        uri: for SQLAlchemy.
        versions: the table with its schema's revision.
    """

    member: str
    uri: str
    versions: str = "alembic_version"

    @property
    def path(self) -> Path:
        """The file of one that is SQLite's."""
        return Path(self.uri.removeprefix("sqlite:///"))


class Service:
    """The service, as its settings describe it.

    Args:
        environment: the variables of ``mlflow.env``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {name: value for name, value in environment.items() if value}
        self.uri = pooler.uri(environment["MLFLOW_BACKEND_STORE_URI"], environment)
        self.store = environment.get("MLFLOW_SERVICE_STORE", self.uri.partition("://")[0])
        self.kind = "postgresql" if self.uri.startswith("postgresql") else "sqlite"
        self.config = Path(environment["MLFLOW_SERVICE_PREVIOUS_SETTINGS"]).parent
        self.database = Database(SQLITE_FILE if self.kind == "sqlite" else POSTGRES_FILE, self.uri)
        user = environment.get("MLFLOW_SERVICE_USER", "mlflow")
        self.account = pwd.getpwnam(user) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.home = Path(environment.get("MLFLOW_SERVICE_HOME") or self.account.pw_dir)
        self.accounts = bool(environment.get("MLFLOW_SERVICE_AUTH_STORE_URI"))
        self.auth = self.auth_database(pooler.uri(environment.get("MLFLOW_SERVICE_AUTH_STORE_URI", ""), environment))
        names = ("MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
        destination = next((environment[name] for name in names if environment.get(name)), "")
        self.artifacts = Path(destination) if destination.startswith("/") else None

    def auth_database(self, uri: str) -> Database | None:
        """The database of the accounts. One in SQLite stays the service's while they are off, for it lies at home."""
        if self.kind == "sqlite":
            uri = uri or f"sqlite:///{self.home}/auth.db"
            return Database(f"{DATABASES}/{Path(uri).name}", uri, "alembic_version_auth")
        return Database(AUTH_DUMP, uri, "alembic_version_auth") if uri else None

    def named(self, member: str) -> Database | None:
        """The database that a member of a backup is of; None where the service has none such."""
        for database in (self.database, self.auth):
            if database and database.member == member:
                return database
        if member in {SQLITE_FILE, POSTGRES_FILE, AUTH_DUMP}:
            return None
        return Database(member, f"sqlite:///{self.home}/{Path(member).name}")

    def databases(self) -> list[Database]:
        """All that a backup takes: the tracking database, that of the accounts, and the other SQLite files at home.

        Files of a store that was left are none of the service's, nor are those whose name a backup could not have.
        """
        if self.kind == "sqlite":
            found, not_ours = [self.database], {self.database.path, self.home / "mlflow.db"}
        else:
            found = [database for database in (self.database, self.auth) if database]
            not_ours = {self.home / "mlflow.db", self.home / "auth.db"}
        others = [path for path in sorted(self.home.glob("*.db")) if path not in not_ours and path.name.isprintable()]
        return found + [self.named(f"{DATABASES}/{path.name}") for path in others if is_sqlite(path)]

    def identity(self) -> dict[str, Any]:
        """What lets a child be the service's user; tests run as one user throughout."""
        return acting.identity(self.account.pw_name)

    def act(self, verb: str, *arguments: str, given: IO[bytes] | None = None, seconds: float) -> dict[str, Any]:
        """Run one of `VERBS` as the service's user; returns what it returns, raises what it raises."""
        command = acting.python("-m", "mlflow_service.backup", "act", verb, *arguments)
        try:
            said = self.run(command, given=given, seconds=seconds).answer()
        except acting.ActingError as error:
            raise BackupError(f"The service's data could not be read ({verb}: {error}).") from None
        if "error" in said:
            raise BackupError(acting.one_line(str(said["error"])))
        return said

    def run(self, command: list[str], environment: Mapping[str, str] | None = None, **options: Any) -> acting.Done:
        """Run a command as the service's user; see `acting.run`."""
        environment = self.environment if environment is None else environment
        return acting.run(command, self.identity(), environment, home=str(self.home), **options)

    def measure(self, artifacts: bool = False) -> dict[str, Any]:
        """What there is to back up; see `measure`. Raises BackupError where that can't be."""
        seconds = acting.DATA_SECONDS if artifacts else acting.QUESTION_SECONDS  # there may be millions of files
        said = self.act("measure", *(["artifacts"] if artifacts else []), seconds=seconds)
        databases = said.get("databases")
        if not (
            isinstance(databases, dict) and is_count(said.get("artifacts")) and all(map(is_measure, databases.items()))
        ):
            raise BackupError("The service's data could not be measured: what answered is none of ours.")
        if len(databases) > DATABASE_LIMIT or self.database.member not in databases:
            raise BackupError(
                f"The service's home {self.home} has {len(databases)} databases, and a backup takes up to "
                f"{DATABASE_LIMIT}, of which {self.database.member} must be one; move the others away."
            )
        return said


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60


def is_measure(measured: tuple[str, Any]) -> bool:
    """Whether what was said of a database is of one that a backup may have."""
    member, said = measured
    if not (
        member in {SQLITE_FILE, POSTGRES_FILE} or (member.startswith(f"{DATABASES}/") and MEMBER.fullmatch(member))
    ):
        return False
    if not (isinstance(said, dict) and is_count(said.get("bytes"))):
        return False
    words = (("revision", REVISION), ("schema", SCHEMA))
    return is_count(said.get("version", 0)) and all(is_word(said.get(name, "x"), pattern) for name, pattern in words)


def is_sqlite(path: Path) -> bool:
    with contextlib.suppress(OSError, files.Refusal), files.opened(path) as descriptor:
        return os.read(descriptor, len(SQLITE_HEADER)) == SQLITE_HEADER
    return False


def is_word(said: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(said, str) and pattern.fullmatch(said) is not None
