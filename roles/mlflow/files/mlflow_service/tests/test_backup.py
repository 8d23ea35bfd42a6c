"""Backups of real stores: in a bucket at Google and back, and of PostgreSQL's databases, row by row."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy
from conftest import DATABASE_HOST, OWNERS_PASSWORD, Done, Google, Postgres, command, wait_until
from google_cloud import CA_BUNDLE, OBJECT_USER
from mlflow_service import backup
from mlflow_service.backup import BackupError, bucket, manifest
from mlflow_service.stores import schema
from secrecy import WATCHER

BUCKET = "mlflow-backups"
VM = "vm@stand-in.iam.gserviceaccount.com"
OLDEST = "20200101T000000Z-3.17.2"
TINY, DISK = Path("/srv/tiny"), Path("/srv/disk")  # disks of 512 KiB and of 64 MiB
RESTORE = """
import os, sys
from pathlib import Path
from mlflow_service import backup
backup.restore_database(Path(sys.argv[1]), os.environ)
"""
LARGE = "SET ROLE owner; CREATE TABLE large AS SELECT md5(n::text) || md5((n + 1)::text) AS t FROM generate_series(1, 300000) n"


class Service:
    """A service's home and settings, and its backups, which are root's.

    Args:
        folder: for all of them; only root may change it.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self.place = f"machines/{folder.name}"
        self.location = f"gs://{BUCKET}/{self.place}"
        self.home, self.backups, self.fetched = (folder / name for name in ("home", "backups", "fetched"))
        self.home.mkdir()
        shutil.chown(self.home, "mlflow", "mlflow")
        self.config = folder / "config"
        self.config.mkdir()
        self.environment = {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_SERVICE_STORE": store.partition(":")[0],
            "MLFLOW_SERVICE_PREVIOUS_SETTINGS": str(self.config / "previous.env"),
            "MLFLOW_SERVICE_USER": "mlflow",
            "MLFLOW_SERVICE_HOME": str(self.home),
            "REQUESTS_CA_BUNDLE": CA_BUNDLE,
        }

    @property
    def variables(self) -> dict[str, str]:
        return {**self.environment, "MLFLOW_BACKUP_FOLDER": str(self.backups), "MLFLOW_BACKUP_KEEP": "2"}

    def start(self, **settings: str) -> Done:
        return command("backup", "create", **self.variables | settings)

    def begin(self, *arguments: str) -> subprocess.Popen:
        """Run Python beside the test, with the variables of a backup."""
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", **self.variables}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-I", *arguments], env=environment, cwd="/", **pipes)

    def begin_backup(self, member: str) -> subprocess.Popen:
        """Begin a backup; it has something of a member when this returns."""
        found = self.begin("-m", "mlflow_service.backup", "create")
        wait_until(lambda: any(path.stat().st_size for path in self.backups.glob(f".*.unfinished/{member}")))
        return found

    @property
    def left(self) -> list[str]:
        """Everything in the folder of the backups but the lock."""
        return sorted(path.name for path in self.backups.iterdir() if path.name != ".lock")

    def make_auth(self, kib: int = 10) -> Path:
        """Make an auth database of that size; returns its path."""
        path = self.home / "auth.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE users (secret BLOB)")
            database.execute("INSERT INTO users VALUES (?)", [os.urandom(kib * 1024)])
            database.commit()
        path.chmod(0o600)
        shutil.chown(path, "mlflow", "mlflow")
        return path

    def make_secret(self) -> Path:
        path = self.config / "secrets" / "flask"
        path.parent.mkdir()
        path.write_text("secret")
        path.chmod(0o640)
        shutil.chown(path, "root", "mlflow")
        return path

    def back_up(self, **settings: str) -> dict:
        """Make a backup by the command; returns what it says of it."""
        return self.start(**settings).answer

    def fails_to_back_up(self, **settings: str) -> str:
        """Start the command, which must fail; returns the sentence that it ends with."""
        done = self.start(**settings)
        assert done.status == 1
        return json.loads(done.errors.splitlines()[-1])["message"]

    def send(self) -> dict:
        return self.back_up(MLFLOW_BACKUP_LOCATION=self.location)

    def fetch(self, name: str) -> Path:
        return backup.resolve(f"{self.location}/{name}", self.fetched, self.environment)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that only root can change, and that others may pass through."""
    folder = Path("/srv") / f"backup-{os.urandom(4).hex()}"
    folder.mkdir()
    yield folder
    for made in (folder, TINY / "backups", DISK / "backups"):
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def service(place: Path, filled: Path) -> Service:
    """A service with a filled SQLite store."""
    found = Service(place, f"sqlite:///{place}/home/mlflow.db")
    shutil.copy(filled, found.home / "mlflow.db")
    shutil.chown(found.home / "mlflow.db", "mlflow", "mlflow")
    (found.home / "mlflow.db").chmod(0o600)
    return found


@pytest.fixture(scope="session", autouse=True)
def backups_bucket(google_server: Google) -> None:
    google_server.bucket(BUCKET)


def stored(google: Google, service: Service) -> dict[str, set[str]]:
    """Names of the objects below the service's location, by backup."""
    found: dict[str, set[str]] = {}
    for thing in google.objects(BUCKET):
        if thing["name"].startswith(f"{service.place}/"):
            name, _, member = thing["name"].removeprefix(f"{service.place}/").partition("/")
            found.setdefault(name, set()).add(member)
    return found


def test_backup_goes_to_google_with_its_manifest_last_and_comes_back_as_it_was(service, google):
    google.forget_requests()
    made = service.send()
    assert made["location"] == f"{service.location}/{made['name']}"
    files = set(backup.read_manifest(Path(made["path"]))["files"]) | {"manifest.json"}
    assert stored(google, service)[made["name"]] == files
    written = [request for request in google.requests() if request["method"] == "POST" and "upload" in request["path"]]
    assert {request["identity"] for request in written} == {VM}
    last = max(google.objects(BUCKET), key=lambda thing: thing["timeCreated"])
    assert last["name"] == f"{service.place}/{made['name']}/manifest.json"
    for asked in ("latest", made["name"]):
        path = service.fetch(asked)
        assert path == service.fetched / made["name"]
        sent = {file.relative_to(made["path"]): file.read_bytes() for file in Path(made["path"]).rglob("*.*")}
        assert {file.relative_to(path): file.read_bytes() for file in path.rglob("*.*")} == sent
        assert {(file.stat().st_mode & 0o777, file.owner()) for file in path.rglob("*.*")} == {(0o600, "root")}
        shutil.rmtree(path)


def test_newest_stay_there_and_what_others_have_there_is_left_alone(service, google):
    """Two of this machine's stay; an upload of its own that broke off goes, and another machine's backup does not."""
    path = Path(service.send()["path"])
    others = shutil.copytree(path, service.home.parent / OLDEST)
    said = json.loads((others / "manifest.json").read_text()) | {"name": OLDEST, "host": "other"}
    (others / "manifest.json").write_text(json.dumps(said | {"sha256": manifest.manifest_checksum(said)}))
    bucket.upload(others, service.location, service.environment)
    broken_off = "20220101T000000Z-3.17.2"
    with bucket.google(service.location, service.environment) as (client, name, folder):
        blob = client.bucket(name).blob(f"{folder}/{broken_off}/database.sqlite")
        blob.metadata = {"host": socket.gethostname()}
        blob.upload_from_string(b"half")
    assert service.fetch("latest").name == path.name  # without its manifest nothing is a backup
    made = [service.send()["name"] for _ in range(2)]
    assert list(stored(google, service)) == [OLDEST, *made]


def test_damage_on_the_way_is_found_and_nothing_of_it_is_kept(service, google):
    made = service.send()
    with bucket.google(service.location, service.environment) as (client, name, folder):
        blob = client.bucket(name).blob(f"{folder}/{made['name']}/database.sqlite")
        content = bytearray(blob.download_as_bytes())
        content[-1] ^= 1
        blob.upload_from_string(bytes(content))
    with pytest.raises(BackupError, match=r"is damaged: database.sqlite is not what it was \(SHA-256\)"):
        service.fetch(made["name"])
    assert [path.name for path in service.fetched.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["20210101T000000Z-3.17.2", "nonsense"])
def test_backup_that_is_not_at_google_is_said(service, google, name):
    service.send()
    sentences = (
        f"There is no backup {name} in {service.location}; there are ",
        f"{service.location}/{name} names no backup",
    )
    with pytest.raises(BackupError) as refused:
        service.fetch(name)
    assert str(refused.value).startswith(sentences)


def test_backup_that_can_not_be_sent_is_said_and_stays_here(service, google):
    before = stored(google, service)
    google.permissions(VM, "get", "list")
    try:
        said = service.fails_to_back_up(MLFLOW_BACKUP_LOCATION=service.location)
    finally:
        google.permissions(VM, *OBJECT_USER)
    (path,) = (found for found in service.backups.iterdir() if found.is_dir())
    assert said.startswith(
        f"The backup {path} was made, and could not be sent to {service.location}: {VM} may not write"
    )
    assert stored(google, service) == before


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else can read the SQLite database while the block lasts."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


def sentence(process: subprocess.Popen) -> str:
    """The sentence that a backup ends with which fails."""
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    return json.loads(errors.splitlines()[-1])["message"]


def test_manifest_says_what_is_in_it(service):
    service.make_auth()
    service.make_secret()
    path = Path(service.back_up()["path"])
    found = backup.read_manifest(path)
    release = Path("/opt/mlflow/current").readlink().name
    assert found["format"] == 1
    assert path == service.backups / found["name"]
    assert (found["mlflow_version"], found["release"]) == (release.rpartition("-")[0], release)
    assert found["store"] == {"kind": "sqlite", "name": "sqlite"}
    assert found["schema_revision"] == schema.head(schema.TRACKING)
    assert (found["host"], found["label"]) == (socket.gethostname(), "")
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    assert set(files) == {"manifest.json", "database.sqlite", "databases/auth.db", "secrets/flask"}
    del files["manifest.json"]
    sums = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert {name: file["sha256"] for name, file in found["files"].items()} == sums


def test_destroyed_sqlite_database_comes_back_row_by_row(service):
    store, auth, secret = service.environment["MLFLOW_BACKEND_STORE_URI"], service.make_auth(), service.make_secret()
    before, accounts = contents(store), contents(f"sqlite:///{auth}")
    path = Path(service.back_up()["path"])
    auth.unlink()
    shutil.rmtree(secret.parent)
    with (service.home / "mlflow.db").open("r+b") as file:
        file.write(os.urandom(20 * 4096))
    backup.restore_database(path, service.environment)
    assert (contents(store), contents(f"sqlite:///{auth}")) == (before, accounts)
    assert secret.read_text() == "secret"
    files = (service.home / "mlflow.db", auth, secret)
    owned = [(file.stat().st_mode & 0o777, file.owner(), file.group()) for file in files]
    assert owned == [(0o600, "mlflow", "mlflow"), (0o600, "mlflow", "mlflow"), (0o640, "root", "mlflow")]


def test_artifacts_are_in_a_backup_that_was_asked_for_them(service):
    artifacts = service.home / "artifacts"
    for name in ("0/a/artifacts/note.txt", "0/b/artifacts/model/weights"):
        (artifacts / name).parent.mkdir(parents=True)
        (artifacts / name).write_text(name)
    subprocess.run(["chown", "-R", "mlflow:mlflow", artifacts], check=True)
    service.environment["MLFLOW_ARTIFACTS_DESTINATION"] = str(artifacts)
    path = Path(service.back_up(MLFLOW_BACKUP_ARTIFACTS="true")["path"])
    there = {file.relative_to(artifacts): file.read_bytes() for file in artifacts.rglob("*") if file.is_file()}
    with tarfile.open(path / "artifacts.tar") as archive:
        kept = {Path(found.name): archive.extractfile(found).read() for found in archive if found.isfile()}
    assert kept == there
    assert "artifacts.tar" not in backup.read_manifest(Path(service.back_up()["path"]))["files"]


def test_newest_backups_stay_and_one_that_a_change_needs(service):
    first = service.back_up()
    journal = service.config / "rollback" / "change.json"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"backup": first["path"]}))
    made = [service.back_up()["name"] for _ in range(3)]
    assert service.left == [first["name"], *made[-2:]]
    shutil.rmtree(journal.parent)
    made.append(service.back_up()["name"])
    assert service.left == made[-2:]


def test_disk_that_is_too_small_is_refused_up_front(service):
    service.backups = TINY / "backups"
    said = service.fails_to_back_up()
    assert said.startswith("A backup wants up to ")
    assert f" in {service.backups}, and 0 MiB are free there; free some, or set mlflow_backup_dir" in said
    assert service.left == []


def test_disk_that_is_full_on_the_way_leaves_the_older_backups_alone(service):
    service.backups = DISK / "backups"
    older, auth, fill = service.back_up()["name"], service.make_auth(2048), DISK / "fill"
    with locked(auth):
        process = service.begin_backup("database.sqlite")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), fill.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    assert sentence(process) == "The disk with the backups is full; free some space."
    assert service.left == [older]
    fill.unlink()
    assert service.back_up()["name"] > older


def test_killed_backup_leaves_the_older_ones_and_the_next_cleans_up(service):
    older, auth = service.back_up()["name"], service.make_auth()
    with locked(auth):
        process = service.begin_backup("database.sqlite")
        process.kill()
        process.communicate()
    assert [name for name in service.left if not name.endswith(".unfinished")] == [older]
    assert service.left != [older]
    assert service.back_up()["name"] in service.left
    assert len(service.left) == 2


def test_stopped_backup_leaves_nothing(service):
    older, auth = service.back_up()["name"], service.make_auth()
    with locked(auth):
        process = service.begin_backup("database.sqlite")
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode != 0
    assert service.left == [older]


def contents(uri: str) -> dict[str, list]:
    """Every row of every table."""
    with closing(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect()) as connection:
        names = sqlalchemy.inspect(connection).get_table_names()
        return {name: sorted(map(repr, connection.execute(sqlalchemy.text(f"SELECT * FROM {name}")))) for name in names}


@pytest.fixture
def on_postgres(place: Path, filled: Path, postgres_server: Postgres, template: str) -> Service:
    """A service with PostgreSQL, which has no accounts yet."""
    from mlflow_service.stores import copying

    store = postgres_server.make("kept", template)
    copying.transfer([copying.Copy(schema.TRACKING, f"sqlite:///{filled}", store)])
    found = Service(place, store)
    shutil.copy(filled, found.home / "mlflow.db")  # the store that was left
    return found


def test_accounts_come_back_with_the_runs_or_stay_where_the_backup_has_none(on_postgres, postgres_server):
    """What a newer schema has added goes; what an extension has stays."""
    environment, store = on_postgres.environment, on_postgres.environment["MLFLOW_BACKEND_STORE_URI"]
    without = Path(on_postgres.back_up()["path"])
    found = backup.read_manifest(without)
    assert (found["store"]["kind"], found["store"]["schema"]) == ("postgresql", "public")
    assert found["schema_revision"] == schema.head(schema.TRACKING)
    assert set(found["files"]) == {"database.dump"}  # and not the SQLite store that was left
    auth = environment["MLFLOW_SERVICE_AUTH_STORE_URI"] = postgres_server.make("kept_auth")
    schema.upgrade(schema.AUTH, auth)
    postgres_server.ask("INSERT INTO users (username, password_hash, is_admin) VALUES ('ann', 'x', false)", "kept_auth")
    before, accounts = contents(store), contents(auth)
    made = Path(on_postgres.back_up()["path"])
    assert backup.read_manifest(made)["auth"]["schema_revision"] == schema.head(schema.AUTH)
    postgres_server.ask("DROP TABLE metrics, tags CASCADE; UPDATE alembic_version SET version_num = 'newer'", "kept")
    postgres_server.ask("CREATE EXTENSION pg_trgm", "kept")
    newer = "SET ROLE owner; CREATE TYPE mood AS ENUM ('good'); CREATE TABLE newer (m mood); CREATE VIEW v AS SELECT 1"
    postgres_server.ask(newer, "kept")
    postgres_server.ask("DROP TABLE users, roles CASCADE", "kept_auth")
    backup.restore_database(made, environment)
    assert (contents(store), contents(auth)) == (before, accounts)
    left = "SELECT count(*) FROM pg_type WHERE typname IN ('mood', 'newer', 'v')"
    assert postgres_server.ask(left, "kept") == "0"
    assert postgres_server.ask("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'", "kept") == "1"

    said = backup.about_accounts(backup.read_manifest(without), backup.Service(environment))
    assert said.endswith("has no accounts; those of the server stay as they are.")
    backup.restore_database(without, environment)
    assert (contents(store), contents(auth)) == (before, accounts)


def test_pg_dump_that_is_killed_half_way_leaves_nothing(on_postgres, postgres_server):
    postgres_server.ask(LARGE, "kept")
    process = on_postgres.begin_backup("database.dump")
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):  # it has just ended
            if path.read_text() == "pg_dump\n":
                os.kill(int(path.parent.name), signal.SIGKILL)
    assert sentence(process).startswith("pg_dump was stopped by signal 9")
    assert on_postgres.left == []


def test_restore_that_is_killed_half_way_leaves_what_was_there(on_postgres, postgres_server):
    store = on_postgres.environment["MLFLOW_BACKEND_STORE_URI"]
    postgres_server.ask(LARGE, "kept")
    path = on_postgres.back_up()["path"]
    postgres_server.ask("DROP TABLE large", "kept")
    before = contents(store)
    copying = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mlflow-backup' AND query ILIKE 'COPY public.large%'"
    process = on_postgres.begin("-c", RESTORE, path)
    wait_until(lambda: postgres_server.ask(copying) == "1")
    process.kill()
    process.communicate()
    wait_until(lambda: postgres_server.ask(copying) == "0")
    assert contents(store) == before
    backup.restore_database(Path(path), on_postgres.environment)  # and it can be run again
    assert postgres_server.ask("SELECT count(*) FROM large", "kept") == "300000"


def test_password_shows_in_no_command_line(on_postgres):
    watch = [sys.executable, "-I", "-c", WATCHER]
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout.readline().strip() == "started"
        done = on_postgres.start()
        path = done.answer["path"]
        backup.restore_database(Path(path), on_postgres.environment)
        lines = json.loads(watcher.communicate(timeout=30)[0])
    said = done.output + done.errors + (Path(path) / "manifest.json").read_text()
    assert any("pg_dump" in line for line in lines)
    secrets = (OWNERS_PASSWORD, quote(OWNERS_PASSWORD, safe=""))
    assert [line for line in [*lines, said] if any(secret in line for secret in secrets)] == []


def test_restore_that_fails_half_way_leaves_what_was_there(on_postgres, postgres_server):
    store = on_postgres.environment["MLFLOW_BACKEND_STORE_URI"]
    path = Path(on_postgres.back_up()["path"])
    postgres_server.ask("INSERT INTO experiments (name) VALUES ('since')", "kept")
    before = contents(store)
    refuse = """
    CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN
      IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.runs')
      THEN RAISE EXCEPTION 'broken'; END IF;
    END$$;
    CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse();
    """
    postgres_server.ask(refuse, "kept")
    with pytest.raises(BackupError, match=r"psql failed with status 3 .*broken"):
        backup.restore_database(path, on_postgres.environment)
    assert contents(store) == before
    postgres_server.ask("DROP EVENT TRIGGER refuse", "kept")
    backup.restore_database(path, on_postgres.environment)  # and it can be run again
    assert contents(store) != before


def test_database_that_is_away_fails_the_backup_with_a_sentence(on_postgres):
    store = on_postgres.environment["MLFLOW_BACKEND_STORE_URI"]
    on_postgres.environment["MLFLOW_BACKEND_STORE_URI"] = store.replace(DATABASE_HOST, f"{DATABASE_HOST}:5499")
    said = on_postgres.fails_to_back_up()
    assert said.startswith("PostgreSQL can't be used: nothing listens at that address; start PostgreSQL there")
    assert [path.name for path in on_postgres.backups.iterdir() if path.name != ".lock"] == []
