"""What the program's tests have beside them: a PostgreSQL, a Google, MLflow's own clients, and the service's account.

molecule/shared/program.py starts all of it, in a container, and runs them there as root.
"""

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import google_cloud
import pytest
import sqlalchemy
from mlflow_service.stores import schema

CERTIFICATES = Path("/srv/certificates")
CLIENTS = Path("/srv/shared/clients")
CLUSTER = Path("/etc/postgresql/15/main")
DATABASE_HOST = "database.test"
PASSWORD = "  p@ss:w/rd#%?&x \"$'\\ñ "
OWNERS_PASSWORD = "p@ss:w/rd#%?&x"
USERS = {
    "outsider": PASSWORD,
    "limited": "of-little",
    "reader": "of-nothing",
    "certified": "unused",
    "owner": OWNERS_PASSWORD,
}
ACCESS = """
local all postgres,root peer map=ours
local all all peer
hostssl certified certified 127.0.0.1/32 cert
hostssl outside,small,latin,closed outsider,limited,reader 127.0.0.1/32 scram-sha-256
hostssl all owner 127.0.0.1/32 scram-sha-256
hostssl all ghost 127.0.0.1/32 trust
"""
# Nothing here has to outlive a crash of the machine.
SETTINGS = f"""
ssl = on
ssl_cert_file = '{CLUSTER}/server.pem'
ssl_key_file = '{CLUSTER}/server.key'
ssl_ca_file = '{CERTIFICATES}/ca.pem'
max_connections = 60
fsync = off
"""
OLD_REVISION, OLD_AUTH_REVISION = "b7e2c1a4d9f3", "8606fa83a998"  # of MLflow 3.16.1, and of the first accounts
SEPARATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_CONFIGURE_LOGGING": "false"}


@dataclass(frozen=True)
class Postgres:
    """The PostgreSQL of the tests."""

    def ask(self, query: str, database: str = "postgres") -> str:
        """What it answers to its superuser."""
        command = [
            "/usr/bin/psql",
            "--username=postgres",
            f"--dbname={database}",
            "--no-psqlrc",
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
        ]
        done = subprocess.run([*command, "--command", query], env={}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def uri(self, database: str) -> str:
        """Where its owner reaches a database."""
        return (
            f"postgresql+psycopg2://owner:{quote(OWNERS_PASSWORD, safe='')}@{DATABASE_HOST}/{database}?sslmode=require"
        )

    def make(self, database: str, template: str = "template0") -> str:
        """Make a database anew, which the user `owner` has; returns where it is."""
        self.drop(database)
        self.ask(f"CREATE DATABASE {database} OWNER owner ENCODING 'UTF8' TEMPLATE {template}")
        return self.uri(database)

    def leave(self, database: str) -> None:
        """End all connections to a database, as MLflow keeps some."""
        self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def drop(self, database: str) -> None:
        self.ask(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL with TLS, passwords, and databases of all kinds."""
    for name in ("server.pem", "server.key"):
        shutil.copy(CERTIFICATES / name, CLUSTER / name)
        shutil.chown(CLUSTER / name, "postgres", "postgres")
        (CLUSTER / name).chmod(0o600)
    (CERTIFICATES / "client.key").chmod(0o600)
    (CLUSTER / "conf.d" / "tests.conf").write_text(SETTINGS)
    (CLUSTER / "pg_hba.conf").write_text(ACCESS)
    (CLUSTER / "pg_ident.conf").write_text("ours root postgres\nours postgres postgres\n")
    subprocess.run(["pg_ctlcluster", "15", "main", "start"], check=True)
    server = Postgres()
    for name, password in USERS.items():
        quoted = password.replace("'", "''")
        server.ask(f"SET standard_conforming_strings = on; CREATE ROLE {name} LOGIN PASSWORD '{quoted}'")
    server.ask("CREATE ROLE mlflow LOGIN; ALTER ROLE limited CONNECTION LIMIT 12")
    for name, owner, kind in (
        ("outside", "outsider", "'UTF8'"),
        ("small", "limited", "'UTF8'"),
        ("certified", "certified", "'UTF8'"),
        ("latin", "outsider", "'LATIN1' LOCALE 'C'"),
        ("closed", "outsider", "'UTF8'"),
    ):
        server.ask(f"CREATE DATABASE {name} OWNER {owner} ENCODING {kind} TEMPLATE template0")
    server.ask("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    yield server
    subprocess.run(["pg_ctlcluster", "15", "main", "stop", "--mode", "immediate"], check=True)


@pytest.fixture(scope="session")
def template(postgres_server: Postgres) -> str:
    """A database with MLflow's tables, to make others from."""
    schema.upgrade(schema.TRACKING, postgres_server.make("template_mlflow"))
    postgres_server.leave("template_mlflow")
    return "template_mlflow"


class Google(google_cloud.Google):
    """The Google of the tests, reached by its name on their network."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def control(self) -> str:
        return f"{self.name}:{google_cloud.CONTROL_PORT}"

    def about_objects(self) -> list[dict]:
        """The requests about objects. Of a bucket itself the library asks in a thread, which may outlive a test."""
        asked = [request for request in self.requests() if request["host"] == "storage.googleapis.com"]
        return [request for request in asked if re.search("/b/[^/]+/o(/|$)", request["path"])]


@pytest.fixture(scope="session")
def google_server() -> Google:
    return Google(os.environ["GOOGLE"])


@pytest.fixture
def google(google_server: Google) -> Iterator[Google]:
    """Google, with no request remembered, and as it is at first when the test ends."""
    google_server.vm()
    google_server.forget_requests()
    yield google_server
    google_server.clock(0)
    google_server.vm()


@pytest.fixture(scope="session")
def bucket(google_server: Google) -> str:
    google_server.bucket("mlflow-artifacts")
    return "mlflow-artifacts"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """A function that makes variables those of the service, and leaves none of another test's."""
    for name in os.environ:
        if name.startswith(("PG", "MLFLOW", "GOOGLE_", "GCE_")) or name in {"HTTPS_PROXY", "STORAGE_EMULATOR_HOST"}:
            monkeypatch.delenv(name)

    def has(**variables: str) -> dict[str, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return has


@pytest.fixture
def hosts() -> Iterator[Callable[[str], int]]:
    """A function that has nobody answer at a name, until the test ends."""
    path = Path("/etc/hosts")
    before = path.read_text()
    yield lambda name: path.write_text(f"127.0.0.1 {name}\n{before}")
    path.write_text(before)


def wait_until(holds: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition; fails when the time is over."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it did not come to be in {seconds} s"
        time.sleep(0.02)  # until it is looked at again, no longer than the deadline


@dataclass(frozen=True)
class Done:
    """How a command has ended."""

    status: int
    output: str
    errors: str

    @property
    def answer(self) -> dict:
        """The JSON in its last line."""
        assert self.output, self.errors
        return json.loads(self.output.splitlines()[-1])


def command(module: str, *arguments: str, given: str = "", user: str = "root", **environment: str) -> Done:
    """Run ``python -I -m mlflow_service.MODULE`` as root, which has no HOME in a unit of systemd's, or as the service."""
    account = pwd.getpwnam(user)
    home = {} if user == "root" else {"HOME": account.pw_dir}
    done = subprocess.run(
        [sys.executable, "-I", "-m", f"mlflow_service.{module}", *arguments],
        env={"PATH": os.defpath, "LANG": "C.UTF-8", **home, **SEPARATE, **environment},
        input=given,
        capture_output=True,
        text=True,
        cwd="/",
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def program() -> Callable[..., Done]:
    """A function that runs one of the program's commands; see `command`."""
    return command


def client(script: Path, store: str, folder: Path) -> dict:
    """Run a script with a real MLflow client over a store; returns the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**SEPARATE, "PATH": os.defpath, "HOME": str(folder), "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with something of every kind that a client can make; not to be written to."""
    folder = tmp_path_factory.mktemp("filled")
    client(CLIENTS / "fill_store.py", f"sqlite:///{folder}/mlflow.db", folder)
    return folder / "mlflow.db"


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled store that belongs to the test."""
    return Path(shutil.copy(filled, tmp_path / "mlflow.db"))


def make_older(uri: str, auth: bool = False) -> None:
    """Make the tables of an older MLflow, by its own migrations: of 3.16.1, or of the first accounts."""
    import alembic.command
    from mlflow.server.auth.db import utils as auth_utils
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    if auth:
        auth_utils.migrate(engine, OLD_AUTH_REVISION)
        return
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config = utils._get_alembic_config(engine.url.render_as_string(hide_password=False))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, OLD_REVISION)
