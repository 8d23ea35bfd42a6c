"""Backups of real stores: in a bucket at Google and back, and of PostgreSQL's databases, row by row."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from conftest import DATABASE_HOST, Done, Google, Postgres, command
from google_cloud import CA_BUNDLE, OBJECT_USER
from mlflow_service import backup
from mlflow_service.backup import BackupError, bucket, manifest
from mlflow_service.stores import schema

BUCKET = "mlflow-backups"
VM = "vm@stand-in.iam.gserviceaccount.com"
OLDEST = "20200101T000000Z-3.17.2"


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
        (folder / "config").mkdir()
        self.environment = {
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_SERVICE_STORE": store.partition(":")[0],
            "MLFLOW_SERVICE_PREVIOUS_SETTINGS": str(folder / "config" / "previous.env"),
            "MLFLOW_SERVICE_USER": "mlflow",
            "MLFLOW_SERVICE_HOME": str(self.home),
            "REQUESTS_CA_BUNDLE": CA_BUNDLE,
        }

    def start(self, **settings: str) -> Done:
        variables = {"MLFLOW_BACKUP_FOLDER": str(self.backups), "MLFLOW_BACKUP_KEEP": "2", **settings}
        return command("backup", "create", **self.environment, **variables)

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
    shutil.rmtree(folder)


@pytest.fixture
def service(place: Path, filled: Path) -> Service:
    """A service with a filled SQLite store."""
    found = Service(place, f"sqlite:///{place}/home/mlflow.db")
    shutil.copy(filled, found.home / "mlflow.db")
    shutil.chown(found.home / "mlflow.db", "mlflow", "mlflow")
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
    return Service(place, store)


def test_accounts_come_back_with_the_runs_or_stay_where_the_backup_has_none(on_postgres, postgres_server):
    """What a newer schema has added goes; what an extension has stays."""
    environment, store = on_postgres.environment, on_postgres.environment["MLFLOW_BACKEND_STORE_URI"]
    without = Path(on_postgres.back_up()["path"])
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
