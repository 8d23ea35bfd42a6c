"""mlflow_state: what it reads from the kernel, systemd and SQLite."""

import grp
import os
import socket
import sqlite3

import mlflow_state as state
import pytest

NO_UNITS = {"mlflow.socket": {"ActiveState": "inactive", "Listen": ""}}


@pytest.fixture
def taken():
    """A port that this process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_free_port_is_free(taken):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert state.read_port("127.0.0.1", free, NO_UNITS) == ""


def test_taken_port_names_its_owner(taken):
    said = state.read_port("127.0.0.1", taken, NO_UNITS)
    assert said.startswith(f"port {taken} is taken by ")
    assert f"(process {os.getpid()})" in said


def test_port_of_our_own_socket_is_free_to_us(taken):
    units = {"mlflow.socket": {"ActiveState": "active", "Listen": f"127.0.0.1:{taken} (Stream)"}}
    assert state.read_port("127.0.0.1", taken, units) == ""


def test_our_own_socket_does_not_excuse_a_wrong_host(taken):
    units = {"mlflow.socket": {"ActiveState": "active", "Listen": f"127.0.0.1:{taken} (Stream)"}}
    assert state.read_port("localhost", taken, units) == "localhost is no IP address"
    assert state.read_port("192.0.2.1", taken, units) == "192.0.2.1 is no address of this machine"


# What `systemd-analyze calendar` of Debian 12 says, where the machine's time is not UTC.
CALENDAR = """\
Normalized form: *-*-* 02:30:00
    Next elapse: Sun 2026-11-29 02:30:00 CET
       (in UTC): Sun 2026-11-29 01:30:00 UTC
       From now: 6h left
"""


def test_moment_of_the_next_backup_is_systemds():
    assert state.next_elapse(CALENDAR) == "Sun 2026-11-29 02:30:00 CET"


def test_backups_are_those_that_are_finished(tmp_path):
    assert state.read_backups(str(tmp_path / "none")) == state.read_backups("") == []
    for name in (
        "20260102T000000Z-3.17.2",
        "20260101T000000Z-3.17.2+corp1",
        ".20260103T000000Z-3.17.2.unfinished",
        "kept",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "20260104T000000Z-3.17.2").mkdir()
    assert state.read_backups(str(tmp_path)) == ["20260101T000000Z-3.17.2+corp1", "20260102T000000Z-3.17.2"]


def test_revision_of_a_database_is_read(tmp_path):
    path = str(tmp_path / "mlflow.db")
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('dc11669786a5')")
    assert state.read_database(path)["revision"] == "dc11669786a5"


def test_missing_database_is_no_error(tmp_path):
    assert state.read_database(str(tmp_path / "mlflow.db")) == {"exists": False, "revision": ""}


def test_file_that_is_no_database_is_said(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_text("this is no database, and longer than a header of one would be " * 10)
    assert "not a database" in state.read_database(str(path))["error"]


def test_newest_release_is_last(tmp_path):
    for number, name in enumerate(["b", "a"]):
        (tmp_path / "releases" / name).mkdir(parents=True)
        os.utime(tmp_path / "releases" / name, (number, number))
    (tmp_path / "releases" / ".build").mkdir()
    assert state.read_releases(str(tmp_path)) == ["b", "a"]


def settings(path, store):
    path.write_text(f'# settings\nMLFLOW_PORT="5001"\nMLFLOW_SERVICE_STORE="{store}"\n')
    return str(path)


@pytest.fixture
def wanted(tmp_path):
    """The module's parameters for an installation below tmp_path."""
    return {
        "settings": settings(tmp_path / "mlflow.env", "postgresql://db1:5432/mlflow"),
        "previous_settings": str(tmp_path / "previous.env"),
        "data_dir": str(tmp_path),
    }


NOT_RUNNING = {"mlflow.service": {"MainPID": "0"}}


def test_store_in_use_is_what_the_settings_name(wanted):
    in_use = {"name": "postgresql://db1:5432/mlflow", "settings": wanted["settings"]}
    assert state.read_store(wanted, NOT_RUNNING, {}) == in_use


def test_settings_that_were_not_taken_up_name_no_store_in_use(wanted, tmp_path):
    kept = settings(tmp_path / "0", "sqlite:////var/lib/mlflow/mlflow.db")
    pending = {wanted["settings"]: {"exists": True, "copy": kept}}
    in_use = {"name": "sqlite:////var/lib/mlflow/mlflow.db", "settings": kept}
    assert state.read_store(wanted, NOT_RUNNING, pending) == in_use


def test_settings_of_a_store_that_never_served_do_not_hide_the_data_that_are_there(wanted, tmp_path):
    """A run with --tags configure wrote them where SQLite's data had been kept: the next one must see a switch."""
    (tmp_path / "mlflow.db").touch()
    pending = {wanted["settings"]: {"exists": False}}
    assert state.read_store(wanted, NOT_RUNNING, pending)["name"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_no_other_stores_settings_are_taken_for_those_of_the_data_that_are_there(wanted, tmp_path):
    """What they name would be asked in its place what it holds, and the data would be left unasked."""
    (tmp_path / "mlflow.db").touch()
    pending = {wanted["settings"]: {"exists": False}}
    assert state.read_store(wanted, NOT_RUNNING, pending)["settings"] == ""
    os.unlink(wanted["settings"])
    assert state.read_store(wanted, NOT_RUNNING, {})["settings"] == ""


def test_settings_of_a_first_start_that_failed_are_those_of_the_data_that_it_made(wanted, tmp_path):
    (tmp_path / "mlflow.db").touch()
    settings(tmp_path / "mlflow.env", f"sqlite:///{tmp_path}/mlflow.db")
    pending = {wanted["settings"]: {"exists": False}}
    assert state.read_store(wanted, NOT_RUNNING, pending)["settings"] == wanted["settings"]


def test_store_whose_rows_are_not_taken_over_yet_is_still_in_use(wanted, tmp_path):
    previous = settings(tmp_path / "previous.env", "sqlite:////old.db")
    assert state.read_store(wanted, NOT_RUNNING, {}) == {"name": "sqlite:////old.db", "settings": previous}
    (tmp_path / ".taken-over").write_text(str(os.stat(previous).st_mtime_ns))
    assert state.read_store(wanted, NOT_RUNNING, {})["name"] == "postgresql://db1:5432/mlflow"


def test_sqlite_file_without_settings_is_a_store_in_use(wanted, tmp_path):
    os.unlink(wanted["settings"])
    assert state.read_store(wanted, NOT_RUNNING, {})["name"] == ""
    (tmp_path / "mlflow.db").touch()
    assert state.read_store(wanted, NOT_RUNNING, {})["name"] == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def data_of(tmp_path):
    """A function that makes data of the owner with the id, and reads whose they are for a service's user."""

    def make(uid, user):
        (tmp_path / "artifacts").mkdir()
        os.chown(tmp_path / "artifacts", uid, uid)
        return state.read_data(str(tmp_path), "", "", user) | {"closed": []}

    return make


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@as_root
def test_ids_that_nobody_has_are_for_the_new_account(data_of):
    assert data_of(60123, "no-such-user") == {"uid": 60123, "gid": 60123, "stranger": "", "closed": []}


@as_root
def test_ids_that_another_account_has_are_a_strangers(data_of):
    assert data_of(1, "no-such-user")["stranger"] == 1


@as_root
def test_ids_that_nobody_has_are_a_strangers_where_there_is_an_account_already(data_of):
    assert data_of(60123, "daemon")["stranger"] == 60123


@as_root
@pytest.mark.parametrize("uid", [0, 1])
def test_data_of_root_or_of_the_service_are_right(data_of, uid):
    assert data_of(uid, "daemon") == {"uid": "", "gid": "", "stranger": "", "closed": []}


def test_data_that_are_not_there_are_nobodys(tmp_path):
    assert state.read_data(str(tmp_path / "none"), "", "", "mlflow")["closed"] == []


@as_root
def test_folders_that_only_root_may_enter_are_told(tmp_path):
    for name, mode in (("data", 0o755), ("secrets", 0o700)):
        (tmp_path / name).mkdir(mode)
    found = state.read_data(str(tmp_path / "data"), str(tmp_path / "secrets"), "", "mlflow")
    assert found["closed"] == [str(tmp_path / "secrets")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's folders are safe, and only root can give one away")
def test_folder_in_which_others_could_exchange_what_root_runs_is_told(ours, monkeypatch):
    (ours / "opt" / "mlflow").mkdir(parents=True)
    folders = {"mlflow_install_dir": str(ours / "opt" / "mlflow" / "not-there-yet")}
    assert state.read_exposed(folders, "nogroup") == {}
    os.chown(ours / "opt", 4242, 0)
    assert state.read_exposed(folders, "nogroup") == {"mlflow_install_dir": str(ours / "opt")}
    os.chown(ours / "opt", 0, grp.getgrnam("nogroup").gr_gid)
    (ours / "opt").chmod(0o775)
    assert state.read_exposed(folders, "nogroup") == {"mlflow_install_dir": str(ours / "opt")}
    assert state.read_exposed(folders, "staff") == {}  # administrators may be a group
    (ours / "opt").chmod(0o777)
    assert state.read_exposed(folders, "staff") == {"mlflow_install_dir": str(ours / "opt")}
    (ours / "link").symlink_to(ours / "opt")
    assert state.read_exposed({"a": str(ours / "link" / "mlflow")}, "staff") == {"a": str(ours / "opt")}
    (ours / "safe").mkdir()
    (ours / "opt" / "exchanged").symlink_to(ours / "safe")
    assert state.read_exposed({"a": str(ours / "opt" / "exchanged")}, "staff") == {"a": str(ours / "opt")}
    (ours / "trusted").symlink_to(ours / "safe")
    assert state.read_exposed({"a": str(ours / "trusted" / "mlflow")}, "staff") == {}


def test_file_that_is_a_link_of_the_services_has_no_owner_and_no_revision(tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / "mlflow.db").symlink_to("/etc/passwd")
    assert state.read_data(str(tmp_path), "", "", "nobody")["stranger"] == ""
    found = state.read_database(str(tmp_path / "mlflow.db"))
    assert found["revision"] == "" and "is a link" in found["error"]


def test_mark_of_a_switch_is_a_small_file_and_waited_for_by_nobody(tmp_path):
    previous = tmp_path / "previous.env"
    previous.touch()
    os.mkfifo(tmp_path / ".taken-over")
    assert not state.taken_over(str(previous), str(tmp_path))
    (tmp_path / ".taken-over").unlink()
    (tmp_path / ".taken-over").write_text(str(previous.stat().st_mtime_ns))
    assert state.taken_over(str(previous), str(tmp_path))


@pytest.mark.parametrize("said", ["'../../x'", "'a b'", "'" + "x" * 65 + "'", "7.5", "x'00ff'", "NULL"])
def test_revision_that_no_migration_has_is_none(tmp_path, said):
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute(f"INSERT INTO alembic_version VALUES ({said})")
    database.close()
    assert state.read_database(str(tmp_path / "mlflow.db"))["revision"] == ""
