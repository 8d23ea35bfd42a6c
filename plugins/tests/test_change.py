"""mlflow_service.change: what is under way, and the way back. The scenarios upgrade and upgrade_failure do the rest."""

import fcntl
import getpass
import stat
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow_service.backup import folder as backup_folder
from mlflow_service.change import asking, taking
from mlflow_service.change.gate import unfinished
from mlflow_service.change.machine import Machine, brings_first_server, locked
from mlflow_service.change.model import BACKUPS, ChangeError, GivenUpError, Journal, Plan, Report, Request
from mlflow_service.change.planning import can_start
from mlflow_service.change.taking import Change
from mlflow_service.change.words import BACK, GO_ON, STOP, Steps
from mlflow_service.system import settings, systemd
from mlflow_service.system.systemd import SERVICE


@pytest.fixture
def machine(tmp_path):
    """An installation with two releases, the first of which is current."""
    for release in ("1-a", "2-b"):
        (tmp_path / "opt" / "releases" / release).mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    made = Machine(tmp_path / "etc", tmp_path / "opt")
    made.point("current", "1-a")
    return made


def replace(machine, path, content):
    """Replace a file as the module managed_files does: the old one is kept until it is settled."""
    machine.rollback.keep(str(path))
    path.write_text(content)


def request(machine):
    return Request("2-b", "2", "http://127.0.0.1:5001", "nobody", "nogroup", str(machine.install))


def test_link_names_the_release_after_each_step(machine):
    assert machine.current == "1-a"
    machine.point("current", "2-b")
    assert machine.current == "2-b"


def test_replaced_file_comes_back_with_its_content_and_mode(machine, tmp_path):
    path = tmp_path / "mlflow.env"
    path.write_text("old")
    path.chmod(0o640)
    replace(machine, path, "new")
    machine.rollback.put_back()
    assert path.read_text() == "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_new_file_goes_away_on_the_way_back(machine, tmp_path):
    replace(machine, tmp_path / "new.pem", "new")
    machine.rollback.put_back()
    assert not (tmp_path / "new.pem").exists()


def test_what_is_under_way_is_read_back(machine):
    journal = Journal(request(machine), "1-a")
    machine.write(journal, phase="migrating", backup="/var/backups/mlflow/x")
    assert machine.journal() == journal
    assert stat.S_IMODE(Path(machine.rollback.path).stat().st_mode) == 0o700
    machine.rollback.settle()
    assert machine.journal() is None
    assert not Path(machine.rollback.path).exists()


def test_nothing_is_unfinished_on_a_settled_machine(machine):
    assert unfinished(machine) is None


def test_killed_change_is_unfinished(machine):
    machine.write(Journal(request(machine), "1-a"), phase="migrating")
    assert unfinished(machine).before == "1-a"


def test_files_that_nobody_took_up_are_unfinished(machine, tmp_path):
    path = tmp_path / "mlflow.env"
    path.write_text("old")
    replace(machine, path, "new")
    assert unfinished(machine).before == "1-a"


def test_first_installation_has_nothing_to_go_back_to(machine):
    machine.write(Journal(request(machine), ""), phase="starting")
    assert unfinished(machine) is None


@pytest.mark.parametrize(("kept", "first"), [({}, False), ({"exists": True}, False), ({"exists": False}, True)])
def test_files_of_a_first_installation_are_those_of_a_unit_that_was_not_there(kept, first):
    replaced = {"/etc/systemd/system/mlflow.service": kept} if kept else {}
    assert brings_first_server(replaced) is first


def test_second_change_waits_and_says_so_when_it_waits_too_long(machine):
    too_long = pytest.raises(ChangeError, match="Another run has been changing this machine")
    with locked(machine), too_long, locked(machine, timeout=0.2):
        pass


@pytest.mark.parametrize(
    "tracking, auth, can",
    [
        ("dc11669786a5", "", True),
        ("dc11669786a5", "f1a2b3c4d5e6", True),
        ("dc11669786a5", "a1b2c3d4e5f6", False),  # known of the other database only
        ("f1a2b3c4d5e6", "", False),
    ],
)
def test_release_starts_from_a_backup_when_it_knows_both_schemas(tracking, auth, can):
    manifest = {"schema_revision": tracking, **({"auth": {"schema_revision": auth}} if auth else {})}
    assert can_start(manifest, ["dc11669786a5", "a1b2c3d4e5f6", "+f1a2b3c4d5e6"]) is can


@pytest.mark.parametrize(
    "before, after, new",
    [
        ("", 'MLFLOW_SERVICE_AUTH_STORE_URI="sqlite:////a/auth.db"\n', True),
        ('MLFLOW_SERVICE_AUTH_STORE_URI="sqlite:////a/auth.db"\n', 'MLFLOW_SERVICE_AUTH_STORE_URI="x"\n', True),
        ('MLFLOW_SERVICE_AUTH_STORE_URI="sqlite:////a/auth.db"\n', "", False),
        ("", "", False),
    ],
)
def test_accounts_that_are_turned_on_may_have_an_older_schema(machine, before, after, new):
    machine.env.write_text(before)
    replace(machine, machine.env, after)
    assert Change(machine, request(machine)).has_new_accounts(settings.read(machine.env)) is new


@pytest.fixture
def together(machine, tmp_path, monkeypatch):
    """A change of one of several servers, in a given place; nobody says a word unless a test has."""
    monkeypatch.setattr(taking, "PATIENCE_SECONDS", {"first": 0.0, "other": 0.0})
    machine.steps = Steps(tmp_path / "steps")
    machine.env.write_text("")

    def start(place):
        wanted = request(machine)
        wanted.place = place
        machine.steps.begin(wanted)
        return Change(machine, wanted)

    return start


def test_server_that_changes_alone_waits_for_nobody(machine):
    Change(machine, request(machine)).wait("stopped")


def test_word_lets_a_change_go_on_once(together, machine):
    one = together("first")
    machine.steps.word.write_text(GO_ON)
    one.wait("stopped")
    assert not machine.steps.word.exists()
    assert machine.steps.told().waits == ""
    with pytest.raises(GivenUpError, match="nobody said how to go on"):
        one.wait("checked")


@pytest.mark.parametrize("word", [STOP, BACK])
def test_any_other_word_gives_the_change_up(together, machine, word):
    one = together("other")
    machine.steps.word.write_text(word)
    with pytest.raises(GivenUpError, match="the servers go back together") as given_up:
        one.wait("checked")
    assert given_up.value.word == word


@pytest.mark.parametrize(("revision", "goes_on"), [("new", True), ("old", False)])
def test_server_that_is_told_nothing_looks_whether_the_first_one_went_on(together, monkeypatch, revision, goes_on):
    monkeypatch.setattr(asking, "schema", lambda *_: {"revision": revision, "head": "new"})
    one = together("other")
    if goes_on:
        one.wait("checked")
    else:
        with pytest.raises(GivenUpError):
            one.wait("checked")


def test_next_change_forgets_what_was_said_to_the_one_before(together, machine):
    together("first")
    machine.steps.word.write_text(GO_ON)
    machine.steps.tell(Report("2-b", ended=True))
    together("first")
    assert machine.steps.told() is None
    assert not machine.steps.word.exists()


@pytest.fixture
def migrating(machine, tmp_path, monkeypatch):
    """A change that would migrate the schema of a server that runs; what systemd is told is kept in `told`."""
    told = []
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_SERVICE_PREVIOUS_SETTINGS": str(tmp_path / "etc" / "previous.env"),
        "MLFLOW_SERVICE_USER": getpass.getuser(),
        "MLFLOW_SERVICE_HOME": str(tmp_path),
    }
    machine.env.write_text("".join(f'{name}="{value}"\n' for name, value in settings.items()))
    monkeypatch.setattr(systemd, "systemctl", lambda *words: told.append(words))
    monkeypatch.setattr(asking, "schema", lambda *_: {"known": True, "revision": "old", "head": "new"})
    monkeypatch.setattr(systemd, "last_words", lambda *_: "")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    wanted = request(machine)
    wanted.migrates, wanted.backup_dir = True, str(tmp_path / "backups")
    (tmp_path / "backups").mkdir()
    one = Change(machine, wanted)
    one.told = told
    return one


def test_backup_under_way_is_waited_for_while_the_server_still_serves(migrating, machine, monkeypatch):
    monkeypatch.setattr(migrating, "back_up", lambda _: (_ for _ in ()).throw(ChangeError("far enough")))
    with (machine.env.parents[1] / "backups" / ".lock").open("w") as backing_up:
        fcntl.flock(backing_up, fcntl.LOCK_EX)
        changing = threading.Thread(target=migrating.take_up)
        changing.start()
        while machine.journal() is None or machine.journal().phase != BACKUPS:
            assert changing.is_alive()
        assert migrating.told == []
        fcntl.flock(backing_up, fcntl.LOCK_UN)
        changing.join(60)
        # While the data change, no backup begins, and afterwards one can.
        assert ("stop", SERVICE) in migrating.told
        fcntl.flock(backing_up, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_no_backup_begins_while_the_data_change(migrating, machine, monkeypatch):
    def back_up(_):
        with (machine.env.parents[1] / "backups" / ".lock").open("w") as nightly, pytest.raises(BlockingIOError):
            fcntl.flock(nightly, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise ChangeError("looked at it")

    monkeypatch.setattr(migrating, "back_up", back_up)
    assert migrating.take_up().failed == "looked at it"


def test_change_that_waits_too_long_for_a_backup_leaves_the_server_alone(migrating, machine, tmp_path, monkeypatch):
    monkeypatch.setattr(backup_folder, "LOCK_SECONDS", 0)
    replace(machine, tmp_path / "unit", "new")
    with (tmp_path / "backups" / ".lock").open("w") as backing_up:
        fcntl.flock(backing_up, fcntl.LOCK_EX)
        report = migrating.take_up()
    assert "Another backup" in report.failed
    assert report.stuck == ""
    assert migrating.told == [("daemon-reload",), ("start", SERVICE)]
    assert not (tmp_path / "unit").exists()
    assert machine.journal() is None and machine.replaced() == {}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no JSON",
        "[]",
        '{"known": "yes", "revision": "a", "head": "b"}',
        '{"known": true, "revision": "../../x", "head": "b"}',
        '{"known": true, "head": "b"}',
        '{"known": true, "revision": 1, "head": "b"}',
    ],
)
def test_schema_that_the_service_can_not_have_is_believed_by_nobody(machine, monkeypatch, said):
    monkeypatch.setattr(asking, "as_service", lambda *_, **__: said)
    with pytest.raises(ChangeError, match="none of ours"):
        asking.schema(request(machine), {})


@pytest.mark.parametrize("said", ['{"runs": "many"}', '{"x\\u001b": 1}', "[1]", '{"RUNS; DROP": 1}'])
def test_what_a_store_was_given_is_kinds_and_numbers(machine, monkeypatch, said):
    monkeypatch.setattr(asking, "as_service", lambda *_, **__: said)
    with pytest.raises(ChangeError, match="none of ours"):
        asking.given_since(request(machine), {}, 0)


def test_plan_tells_ansible_all_that_it_found():
    """Its fields are the report that plan_change.yml and the filters of changes go by."""
    assert set(asdict(Plan())) == {
        "schema",
        "unreadable",
        "wrong",
        "backup",
        "accounts",
        "revisions",
        "lost",
        "backups",
    }
