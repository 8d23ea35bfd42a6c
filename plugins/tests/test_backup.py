"""mlflow_service.backup with SQLite, without MLflow; the scenario `backup` has PostgreSQL, Google and the real service."""

import fcntl
import getpass
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_service import backup
from mlflow_service.backup import BackupError, creating, folder, manifest, model, postgresql, restoring

PACKAGES = Path(backup.__file__).parents[1]
REVISION = "dc11669786a5"
AUTH_REVISION = "f1a2b3c4d5e6"


def write(path, *rows, revision="", versions="alembic_version"):
    """Add rows to a SQLite database in WAL mode, and give it a schema revision in the table `versions`."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS runs (name TEXT)")
        database.executemany("INSERT INTO runs VALUES (?)", [(row,) for row in rows])
        if revision:
            database.execute(f"CREATE TABLE {versions} (version_num TEXT)")
            database.execute(f"INSERT INTO {versions} VALUES (?)", (revision,))
    database.close()


def rows(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        return [name for (name,) in database.execute("SELECT name FROM runs ORDER BY name")]


class Installation:
    """The service's folders and settings below a folder, and its backups."""

    def __init__(self, folder):
        self.home, self.config, self.backups = folder / "home", folder / "config", folder / "backups"
        for path in (self.home, self.config / "rollback", self.home / "artifacts"):
            path.mkdir(parents=True)
        self.database = self.home / "mlflow.db"
        self.environment = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.database}",
            "MLFLOW_SERVICE_STORE": f"sqlite:///{self.database}",
            "MLFLOW_SERVICE_PREVIOUS_SETTINGS": str(self.config / "previous.env"),
            "MLFLOW_SERVICE_USER": getpass.getuser(),
            "MLFLOW_SERVICE_HOME": str(self.home),
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.home / "artifacts"),
            "PYTHONPATH": str(PACKAGES),
        }
        write(self.database, "first", revision=REVISION)

    def turn_accounts_on(self, *users):
        """Have an auth database with users, as a server has that was started with accounts."""
        self.environment["MLFLOW_SERVICE_AUTH_STORE_URI"] = f"sqlite:///{self.home}/auth.db"
        write(self.home / "auth.db", *users, revision=AUTH_REVISION, versions="alembic_version_auth")

    def turn_accounts_off(self):
        del self.environment["MLFLOW_SERVICE_AUTH_STORE_URI"]

    def about_accounts(self, path):
        return backup.about_accounts(backup.read_manifest(path), backup.Service(self.environment))

    def back_up(self, **options):
        return backup.create(self.environment, self.backups, **options)

    def restore(self, path):
        backup.restore_database(path, self.environment)

    def left(self):
        """Everything in the backups' folder but the lock."""
        return sorted(path.name for path in self.backups.iterdir() if path.name != ".lock")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(creating, "running_release", lambda: "3.17.2-0123456789ab")
    return Installation(tmp_path)


def test_manifest_says_what_the_backup_is(here):
    path = here.back_up(label="before-3.18.0")
    manifest = backup.read_manifest(path)
    assert manifest["name"] == path.name
    assert path.name.endswith("-before-3.18.0")
    assert model.NAME.fullmatch(path.name)
    assert manifest["store"] == {"kind": "sqlite", "name": f"sqlite:///{here.database}"}
    assert manifest["schema_revision"] == REVISION
    assert manifest["files"]["database.sqlite"]["bytes"] == (path / "database.sqlite").stat().st_size
    assert rows(path / "database.sqlite") == ["first"]


@pytest.mark.parametrize("version", ["3.17.2+corp1", "3.17.2+corp_1"])
def test_version_of_ones_own_makes_a_name_of_a_backup(here, monkeypatch, version):
    monkeypatch.setattr(creating, "running_release", lambda: f"{version}-0123456789ab")
    path = here.back_up(label=f"before-{version}")
    assert path.name.endswith(f"Z-{version}-before-{version}")
    assert backup.names(path.parent) == [path.name]
    assert backup.read_manifest(path)["mlflow_version"] == version


def test_changes_that_are_only_in_the_log_are_in_the_backup(here):
    with sqlite3.connect(here.database) as open_for_ever:
        open_for_ever.execute("INSERT INTO runs VALUES ('second')")
        open_for_ever.commit()
        assert (here.home / "mlflow.db-wal").stat().st_size > 0
        path = here.back_up()
        assert rows(path / "database.sqlite") == ["first", "second"]
    assert not list(path.glob("*-wal"))


def test_backup_can_only_be_read_by_its_owner(here):
    path = here.back_up()
    assert [file.stat().st_mode & 0o077 for file in (path, *path.rglob("*"))] == [0] * 3


def test_restored_database_is_the_one_that_was_backed_up(here):
    path = here.back_up()
    write(here.database, "later")
    here.restore(path)
    assert rows(here.database) == ["first"]


@pytest.mark.parametrize("gone", [False, True])
def test_log_of_the_replaced_database_is_not_played_into_the_restored_one(here, gone):
    path = here.back_up()
    # A server that was killed leaves a log whose pages are newer than those of the file.
    code = (
        f"import os, sqlite3; d = sqlite3.connect({str(here.database)!r}); d.execute('PRAGMA wal_autocheckpoint = 0'); "
    )
    code += "d.execute('INSERT INTO runs VALUES (\"later\")'); d.commit(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (here.home / "mlflow.db-wal").stat().st_size > 0
    if gone:
        here.database.unlink()
    here.restore(path)
    assert rows(here.database) == ["first"]


def test_damaged_database_is_not_taken_for_a_backup(here):
    write(here.database, *(f"run {number}" for number in range(5000)))
    content = bytearray(here.database.read_bytes())
    content[40960:45056] = bytes(4096)
    here.database.write_bytes(content)
    with pytest.raises(BackupError, match="is damaged"):
        here.back_up()
    assert here.left() == []


def test_database_that_is_damaged_or_gone_is_restored(here):
    path = here.back_up()
    here.database.write_bytes(b"no database at all" * 1000)
    here.restore(path)
    assert rows(here.database) == ["first"]
    here.database.unlink()
    here.restore(path)
    assert rows(here.database) == ["first"]


def test_restored_database_keeps_its_mode(here):
    here.database.chmod(0o640)
    here.restore(here.back_up())
    assert here.database.stat().st_mode & 0o777 == 0o640


def test_other_databases_and_secrets_come_back(here):
    write(here.home / "auth.db", "user")
    (here.home / "notes.db").write_text("no database")
    secret = here.config / "secrets" / "flask"
    secret.parent.mkdir()
    secret.write_text("key")
    secret.chmod(0o640)
    path = here.back_up()
    assert sorted(backup.read_manifest(path)["files"]) == ["database.sqlite", "databases/auth.db", "secrets/flask"]
    (here.home / "auth.db").unlink()
    shutil.rmtree(secret.parent)
    here.restore(path)
    assert rows(here.home / "auth.db") == ["user"]
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("key", 0o640)


def test_accounts_come_back_with_the_runs(here):
    here.turn_accounts_on("ann")
    path = here.back_up()
    manifest = backup.read_manifest(path)
    assert manifest["schema_revision"] == REVISION
    assert manifest["auth"] == {"file": "databases/auth.db", "schema_revision": AUTH_REVISION}
    write(here.database, "later")
    write(here.home / "auth.db", "bob")
    here.restore(path)
    assert (rows(here.database), rows(here.home / "auth.db")) == (["first"], ["ann"])
    assert here.about_accounts(path) == ""


def test_accounts_stay_where_the_backup_has_none(here):
    path = here.back_up()
    here.turn_accounts_on("ann")
    here.restore(path)
    assert rows(here.home / "auth.db") == ["ann"]
    assert here.about_accounts(path) == f"The backup {path.name} has no accounts; those of the server stay as they are."


def test_accounts_of_a_backup_wait_until_they_are_turned_on(here):
    here.turn_accounts_on("ann")
    path = here.back_up()
    here.turn_accounts_off()
    (here.home / "auth.db").unlink()
    here.restore(path)
    assert rows(here.home / "auth.db") == ["ann"]
    assert "are restored, and not in use, because mlflow_auth_enabled is false" in here.about_accounts(path)


def test_accounts_that_are_being_turned_on_hinder_no_backup(here):
    here.environment["MLFLOW_SERVICE_AUTH_STORE_URI"] = f"sqlite:///{here.home}/auth.db"
    manifest = backup.read_manifest(here.back_up())
    assert list(manifest["files"]) == ["database.sqlite"]
    assert "auth" not in manifest
    assert not (here.home / "auth.db").exists()


def test_nothing_is_restored_where_not_all_of_it_fits(here, monkeypatch):
    here.turn_accounts_on("ann")
    path = here.back_up()
    write(here.database, "later")
    # Each of the two fits, both do not.
    free = max(file["bytes"] for file in backup.read_manifest(path)["files"].values())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    with pytest.raises(BackupError, match="What is restored wants up to"):
        here.restore(path)
    assert rows(here.database) == ["first", "later"]


def test_artifacts_come_back_where_they_were_asked_for(here):
    artifact = here.home / "artifacts" / "1" / "model.bin"
    artifact.parent.mkdir()
    artifact.write_bytes(os.urandom(3000))
    content = artifact.read_bytes()
    assert "artifacts.tar" not in backup.read_manifest(here.back_up())["files"]
    path = here.back_up(artifacts=True)
    shutil.rmtree(artifact.parent)
    backup.restore_artifacts(path, here.environment)
    assert artifact.read_bytes() == content


def test_names_sort_by_time_within_one_second_too(here):
    made = [here.back_up().name for _ in range(3)]
    assert made == sorted(made)
    assert len(set(made)) == 3


def test_newest_backups_stay(here):
    made = [here.back_up().name for _ in range(3)]
    made.append(here.back_up(keep=2).name)
    assert here.left() == made[-2:]


def test_backup_that_a_change_may_go_back_to_stays(here):
    needed = here.back_up()
    (here.config / "rollback" / "change.json").write_text(json.dumps({"backup": str(needed)}))
    here.back_up()
    newest = here.back_up(keep=1)
    assert here.left() == [needed.name, newest.name]


def test_what_a_killed_run_left_is_removed_and_counts_as_nothing(here):
    left = here.backups / ".20200101T000000Z-3.17.2.unfinished"
    left.mkdir(parents=True)
    (left / "database.sqlite").write_text("half")
    (here.backups / "20200101T000000Z-3.17.2").mkdir()  # by hand: it has no manifest
    path = here.back_up(keep=1)
    assert here.left() == ["20200101T000000Z-3.17.2", path.name]
    assert backup.names(here.backups) == [path.name]


def test_failed_backup_leaves_nothing_and_the_older_ones(here):
    older = here.back_up()
    here.database.write_bytes(here.database.read_bytes()[:8000])
    with pytest.raises(BackupError, match=r"mlflow\.db"):
        here.back_up()
    assert here.left() == [older.name]
    assert backup.read_manifest(older)


def test_too_little_space_is_refused_before_anything_is_written(here, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 8192, 8192))
    with pytest.raises(
        BackupError, match=r"wants up to \d+ MiB in .*, and 0 MiB are free there; free some, or set mlflow_backup_dir"
    ):
        here.back_up()
    assert here.left() == []


def test_backup_is_the_newest_also_after_the_clock_was_ahead(here):
    ahead = here.back_up()
    ahead.rename(here.backups / f"20990101{ahead.name[8:]}")
    newest = here.back_up(keep=1)
    assert here.left() == [newest.name]


def test_second_backup_waits_for_the_first(here, monkeypatch):
    here.back_up()
    monkeypatch.setattr(folder, "LOCK_SECONDS", 0)
    with (here.backups / ".lock").open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(BackupError, match="Another backup"):
            here.back_up()
    here.back_up()


@pytest.mark.parametrize("label", ["../x", "Größe", "a b", "-x", "x" * 41])
def test_label_that_is_no_part_of_a_name_is_refused(here, label):
    with pytest.raises(BackupError, match="A backup's label"):
        here.back_up(label=label)


def damage_file(path):
    content = bytearray((path / "database.sqlite").read_bytes())
    content[5000] ^= 1
    (path / "database.sqlite").write_bytes(content)


def cut_file(path):
    os.truncate(path / "database.sqlite", 100)


def remove_file(path):
    (path / "database.sqlite").unlink()


def change(path, **news):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **news}))


def sign(path, **news):
    """Change a manifest as its maker would."""
    change(path, **news)
    change(path, sha256=manifest.manifest_checksum(json.loads((path / "manifest.json").read_text())))


@pytest.mark.parametrize(
    "harm, said",
    [
        (damage_file, "database.sqlite is not what it was"),
        (cut_file, "database.sqlite has 100 bytes, and had "),
        (remove_file, "database.sqlite is missing"),
        (lambda path: change(path, schema_revision="0"), "its manifest.json was changed"),
        (lambda path: (path / "manifest.json").write_text("{"), "its manifest.json can't be read"),
        (lambda path: (path / "manifest.json").unlink(), "is no backup: it has no manifest.json"),
        (lambda path: sign(path, format=2), "has the format 2"),
        (
            lambda path: sign(path, files={"../../etc/passwd": {}}),
            "has a file that belongs to none: '../../etc/passwd'",
        ),
        (lambda path: sign(path, files={"secrets/..": {}}), "has a file that belongs to none: 'secrets/..'"),
    ],
)
def test_backup_that_is_not_whole_is_refused_and_nothing_is_restored(here, harm, said):
    path = here.back_up()
    write(here.database, "later")
    harm(path)
    with pytest.raises(BackupError) as error:
        here.restore(path)
    assert said in str(error.value)
    assert rows(here.database) == ["first", "later"]


def test_backup_of_another_kind_of_store_is_refused(here):
    path = here.back_up()
    sign(path, store={"kind": "postgresql", "name": "postgresql://db1:5432/mlflow"})
    with pytest.raises(BackupError, match="set mlflow_backend_store to postgresql"):
        here.restore(path)


def test_backup_is_found_by_name_path_and_latest(here):
    older, newest = here.back_up(), here.back_up()
    resolve = [backup.resolve(name, here.backups, here.environment) for name in (older.name, "latest", str(older))]
    assert resolve == [older, newest, older]


@pytest.mark.parametrize("name", ["20200101T000000Z-3.17.2", "../backups", "", "/nowhere"])
def test_backup_that_is_not_there_is_said_with_those_that_are(here, name):
    there = here.back_up()
    with pytest.raises(BackupError, match=f"There is no backup {name}; there are {there.name}"):
        backup.resolve(name, here.backups, here.environment)


def test_newer_pg_restore_sets_nothing_that_an_older_server_does_not_know(tmp_path):
    script = b"SET lock_timeout = 0;\nSET transaction_timeout = 0;\n\n-- Name: runs; Type: TABLE\nSET transaction_timeout = 0;\n"
    (tmp_path / "script").write_bytes(script)
    passed = {}
    for version in (150004, 170002):
        with (tmp_path / "script").open("rb") as source, (tmp_path / "passed").open("wb") as target:
            postgresql.pass_on(source, target, version)
        passed[version] = (tmp_path / "passed").read_bytes()
    assert passed[170002] == script
    assert passed[150004] == script.replace(b"SET transaction_timeout = 0;\n", b"", 1)


def test_oldest_client_that_is_not_older_than_the_server_is_taken(monkeypatch):
    monkeypatch.setattr(postgresql, "client_versions", lambda: {15: Path("/15"), 16: Path("/16"), 17: Path("/17")})
    assert [postgresql.client_folder(version) for version in (130001, 160002, 170000)] == [
        Path("/15"),
        Path("/16"),
        Path("/17"),
    ]
    with pytest.raises(BackupError, match="pg_dump on this machine is of version 17, and the server is PostgreSQL 18"):
        postgresql.client_folder(180000)


# What the service's account can do to it


@pytest.mark.parametrize(
    "news",
    [
        {"files": 5},
        {"files": {"database.sqlite": 5}},
        {"files": {"database.sqlite": {"bytes": "many", "sha256": "0" * 64}}},
        {"files": {"database.sqlite": {"bytes": 1, "sha256": "0" * 64, "mode": "rwx"}}},
        {"store": "sqlite"},
        {"store": {"kind": 1, "name": "x"}},
        {"name": "../../x"},
        {"created": "yesterday"},
        {"host": "a\u001b[2J"},
        {"schema_revision": None},
        {"auth": [1]},
        {"label": 1},
    ],
)
def test_manifest_that_none_of_ours_would_be_is_refused_in_a_sentence(here, news):
    """Its checksum is right: whoever can write the bucket or the folder can make one."""
    path = here.back_up()
    sign(path, **news)
    with pytest.raises(BackupError, match=r"says what none of ours does|can't be read"):
        backup.restore_database(path, here.environment)


def test_manifest_without_an_end_of_brackets_is_refused_in_a_sentence(here):
    path = here.back_up()
    (path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BackupError, match=r"can't be read"):
        backup.read_manifest(path)


@pytest.mark.parametrize(
    "member, said",
    [
        ("../../etc/cron.d/x", {"bytes": 1}),
        ("/etc/cron.d/x", {"bytes": 1}),
        ("databases/..", {"bytes": 1}),
        ("databases/a/b", {"bytes": 1}),
        ("secrets/admin-password", {"bytes": 1}),
        ("manifest.json", {"bytes": 1}),
        ("database.sqlite", {"bytes": -1}),
        ("database.sqlite", {"bytes": "1"}),
        ("database.sqlite", {"bytes": True}),
        ("database.sqlite", [1]),
        ("database.dump", {"bytes": 1, "revision": "x/../y"}),
        ("database.dump", {"bytes": 1, "schema": "a\nb"}),
        ("database.dump", {"bytes": 1, "version": "15"}),
    ],
)
def test_what_a_backup_can_not_have_is_believed_by_nobody(here, monkeypatch, member, said):
    """Whoever has taken the service's account can have its helper say anything."""
    good = {"database.sqlite": {"bytes": 1}}
    monkeypatch.setattr(backup.Service, "act", lambda *_, **__: {"databases": good | {member: said}, "artifacts": 0})
    with pytest.raises(BackupError, match="none of ours"):
        here.back_up()
    assert backup.names(here.backups) == []


def test_backup_of_a_home_full_of_odd_files_has_the_databases(here):
    for name in ("fifo.db", "link.db", "folder.db", "odd\n.db", "empty.db"):
        if name == "fifo.db":
            os.mkfifo(here.home / name)
        elif name == "link.db":
            (here.home / name).symlink_to("/dev/zero")
        elif name == "folder.db":
            (here.home / name).mkdir()
        else:
            (here.home / name).touch()
    write(here.home / "jobs.db", "job")
    made = here.back_up()
    assert set(backup.read_manifest(made)["files"]) == {"database.sqlite", "databases/jobs.db"}


def test_copy_that_somebody_holds_open_is_not_what_the_backup_keeps(tmp_path):
    """Who wrote it could change it later on, when its checksum has been taken, and for years."""
    made = tmp_path / "copy"
    made.write_bytes(b"good" * 1000)
    with made.open("r+b") as held:
        folder.take(made, tmp_path / "kept")
        held.write(b"evil")
        held.flush()
    assert (tmp_path / "kept").read_bytes() == b"good" * 1000
    assert not made.exists()


def test_copy_that_nobody_holds_open_is_taken_as_it_is(tmp_path):
    made = tmp_path / "copy"
    made.write_bytes(b"good")
    number = made.stat().st_ino
    folder.take(made, tmp_path / "kept")
    assert (tmp_path / "kept").stat().st_ino == number
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("member", ["database.sqlite", "manifest.json", "secrets/kek-passphrase"])
def test_backup_in_a_folder_of_others_leads_nowhere_by_a_link(here, tmp_path, member):
    (here.config / "secrets").mkdir()
    (here.config / "secrets" / "kek-passphrase").write_text("a secret")
    theirs = tmp_path / "theirs"
    shutil.copytree(here.back_up(), theirs)
    precious = tmp_path / "precious"
    (theirs / member).rename(precious)  # the same content, so that every checksum is right
    (theirs / member).symlink_to(precious)
    for place in (theirs, *theirs.iterdir()):
        if place.is_dir():
            place.chmod(0o777)
    with pytest.raises(BackupError, match=r"is a link|is missing"):
        backup.restore_database(theirs, here.environment)


def test_secret_comes_back_for_root_whoever_the_manifest_names(here):
    (here.config / "secrets").mkdir()
    (here.config / "secrets" / "kek-passphrase").write_text("a secret")
    wanted = {"owner": "nobody", "group": "nogroup", "mode": "0640"}
    restoring.restore_secret(backup.Service(here.environment), here.config / "secrets" / "kek-passphrase", wanted)
    found = (here.config / "secrets" / "kek-passphrase").stat()
    assert (found.st_uid, found.st_gid) == (os.geteuid(), backup.Service(here.environment).account.pw_gid)
