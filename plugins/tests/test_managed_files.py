"""managed_files: a set of files in one trip, taken up by the services that go by them, with a way back."""

import grp
import os
import pwd
import re
import signal
import socket
import stat
import threading

import pytest

ME = pwd.getpwuid(os.geteuid()).pw_name
MINE = grp.getgrgid(os.getegid()).gr_name
SECRET = "p@ss:w/rd#%?&x"


@pytest.fixture
def write(module, tmp_path):
    """A function that writes entries below tmp_path and returns the result."""

    def run(*entries, check=False, state="present", **more):
        owned = [{**entry, "path": str(tmp_path / entry["path"]), "owner": ME, "group": MINE} for entry in entries]
        return module(
            "managed_files", check, state=state, entries=owned, rollback_dir=str(tmp_path / "rollback"), **more
        )

    return run


def entry(path="a.conf", content="new\n", mode="0640"):
    return {"path": path, "content": content, "mode": mode}


def test_files_and_folders_are_written_with_their_mode(write, tmp_path):
    result = write({"path": "folder", "mode": "0750"}, entry("folder/a.conf"))
    assert result["changed"]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    assert (tmp_path / "folder/a.conf").read_text() == "new\n"
    assert stat.S_IMODE((tmp_path / "folder/a.conf").stat().st_mode) == 0o640


def test_second_call_changes_nothing(write):
    write(entry())
    assert not write(entry())["changed"]


def test_mode_alone_is_a_change(write, tmp_path):
    write(entry())
    assert write(entry(mode="0600"))["changed"]
    assert stat.S_IMODE((tmp_path / "a.conf").stat().st_mode) == 0o600


def test_check_mode_tells_and_writes_nothing(write, tmp_path):
    result = write(entry(), check=True)
    assert result["changed"]
    assert result["pending"] == [str(tmp_path / "a.conf")]
    assert not (tmp_path / "a.conf").exists()
    assert not (tmp_path / "rollback").exists()


def test_diff_shows_what_changes(write):
    write(entry(content="old\n"))
    (diff,) = write(entry())["diff"]
    assert (diff["before"], diff["after"]) == ("old\n", "new\n")


def test_secret_shows_nowhere_in_the_result(write):
    write({"path": "a.env", "secret": f"A={SECRET}-old", "mode": "0600"})
    result = write({"path": "a.env", "secret": f"A={SECRET}", "mode": "0600"})
    assert result["changed"]
    assert SECRET not in str(result)


def test_restored_brings_back_content_and_mode_and_removes_what_is_new(write, tmp_path):
    write(entry(content="old\n", mode="0644"))
    write(state="settled")
    write(entry(), entry("b.conf"))
    assert write(state="restored")["changed"]
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert stat.S_IMODE((tmp_path / "a.conf").stat().st_mode) == 0o644
    assert not (tmp_path / "b.conf").exists()


def test_way_back_leads_past_killed_runs_to_what_was_in_use(write, tmp_path):
    write(entry(content="in use\n"))
    write(state="settled")
    write(entry(content="of a killed run\n"))
    write(entry(content="of another killed run\n"))
    write(state="restored")
    assert (tmp_path / "a.conf").read_text() == "in use\n"


def test_settled_forgets_the_way_back(write, tmp_path):
    write(entry(content="old\n"))
    write(state="settled")
    assert not (tmp_path / "rollback").exists()
    assert write(state="restored")["changed"] is False
    assert (tmp_path / "a.conf").read_text() == "old\n"


def test_rollback_folder_is_for_its_owner_alone(write, tmp_path):
    write(entry(content="old\n"))
    write(entry())
    assert stat.S_IMODE((tmp_path / "rollback").stat().st_mode) == 0o700


def test_folder_that_is_missing_is_named(write, tmp_path):
    result = write(entry("nowhere/a.conf"))
    assert result["failed"]
    assert "can't be read or written" in result["msg"]


def test_removed_file_comes_back_with_the_others(write, tmp_path):
    write(entry("key.json"))
    write(state="settled")
    assert write({"path": "key.json", "mode": "0640", "state": "absent"})["pending"] == [str(tmp_path / "key.json")]
    assert not (tmp_path / "key.json").exists()
    assert not write({"path": "key.json", "mode": "0640", "state": "absent"})["changed"]
    write(state="restored")
    assert (tmp_path / "key.json").read_text() == "new\n"


def test_copy_is_made_before_the_next_entry_replaces_its_source_and_never_shown(write, tmp_path):
    write({"path": "a.conf", "secret": f"old {SECRET}", "mode": "0640"})
    copied = write(
        {"path": "b.conf", "copy_of": str(tmp_path / "a.conf"), "mode": "0600"},
        {"path": "a.conf", "secret": f"new {SECRET}", "mode": "0640"},
    )
    assert (tmp_path / "b.conf").read_text() == f"old {SECRET}"
    assert SECRET not in str(copied)


def test_copy_of_a_file_that_is_not_there_is_refused(write, tmp_path):
    said = write({"path": "b.conf", "copy_of": str(tmp_path / "a.conf"), "mode": "0600"})
    assert said["msg"] == f"{tmp_path}/a.conf can't be read or written: No such file or directory."


def made(path="token", **more):
    return {"path": path, "random": 48, "mode": "0640", **more}


def test_random_content_is_made_once_and_kept(write, tmp_path):
    write(made())
    first = (tmp_path / "token").read_text()
    assert re.fullmatch(r"[A-Za-z0-9_-]{48}", first)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o640
    assert not write(made())["changed"]
    assert (tmp_path / "token").read_text() == first


def test_random_content_is_another_one_for_each_file(write, tmp_path):
    write(made("a"), made("b"))
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()


def test_what_a_person_has_written_is_kept_and_an_empty_file_is_filled(write, tmp_path):
    (tmp_path / "token").write_text("by hand\n")
    (tmp_path / "empty").touch()
    write(made(), made("empty"))
    assert (tmp_path / "token").read_text() == "by hand\n"
    assert len((tmp_path / "empty").read_text()) == 48


def test_random_content_is_renewed_on_demand_with_a_way_back(write, tmp_path):
    write(made())
    first = (tmp_path / "token").read_text()
    write(state="settled")
    assert write(made(renew=True))["changed"]
    assert (tmp_path / "token").read_text() != first
    write(state="restored")
    assert (tmp_path / "token").read_text() == first


def test_random_content_shows_nowhere_and_check_mode_makes_none(write, tmp_path):
    assert write(made(), check=True)["changed"]
    assert not (tmp_path / "token").exists()
    result = write(made())
    assert (tmp_path / "token").read_text() not in str(result)
    renewed = write(made(renew=True))
    assert (tmp_path / "token").read_text() not in str(renewed)


@pytest.fixture
def theirs(tmp_path):
    """A folder in which others can exchange anything, as the service can in its home."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def test_folder_that_is_a_link_is_refused_and_what_it_names_stays_whose_it_was(write, theirs, tmp_path):
    (tmp_path / "precious").mkdir(mode=0o700)
    (theirs / "artifacts").symlink_to(tmp_path / "precious")
    before = (tmp_path / "precious").stat()
    result = write({"path": "theirs/artifacts", "mode": "0750"})
    assert result["failed"]
    assert result["msg"].startswith(f"{theirs}/artifacts is a link")
    assert (tmp_path / "precious").stat().st_mode == before.st_mode


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_file_that_is_a_link_is_neither_shown_nor_replaced_nor_kept(write, theirs, tmp_path, plant):
    (tmp_path / "precious").write_text(SECRET)
    plant(tmp_path / "precious", theirs / "a.conf")
    result = write(entry("theirs/a.conf"))
    assert result["failed"]
    assert "link" in result["msg"]
    assert SECRET not in str(result)
    assert (tmp_path / "precious").read_text() == SECRET
    assert not (tmp_path / "rollback" / "0").exists()


def test_file_to_take_the_content_from_may_be_no_link_of_others(write, theirs, tmp_path):
    (tmp_path / "precious").write_text(SECRET)
    (theirs / "key.json").symlink_to(tmp_path / "precious")
    result = write({"path": "a.json", "mode": "0640", "copy_of": str(theirs / "key.json")})
    assert result["failed"]
    assert "is a link" in result["msg"]
    assert not (tmp_path / "a.json").exists()


def test_fifo_in_the_way_is_waited_for_by_nobody(write, theirs):
    os.mkfifo(theirs / "a.conf")
    assert write(entry("theirs/a.conf"))["msg"] == f"{theirs}/a.conf is no regular file."


@pytest.fixture
def service(tmp_path):
    """A service without a unit: told to read a.conf, it notes in `taken` what stands there, so that each time shows."""
    return {"reload": ["sh", "-c", f"cat {tmp_path}/a.conf >> {tmp_path}/taken"]}


@pytest.fixture
def taken(tmp_path):
    """A function that returns what the service has read so far, and fails where it has been told nothing."""
    return (tmp_path / "taken").read_text


SILENT = {"command": ["false"], "seconds": 0, "otherwise": "it does not answer"}
TAKEN_BACK = "As before: {reason} (see the log)."


def killing(command):
    """The same, by a shell that then kills the module, as a machine that loses its power does."""
    return ["sh", "-c", f"{command}; kill -KILL $PPID"]


def test_service_takes_up_new_files_once(write, service, taken, tmp_path):
    result = write(entry(), services=[service])
    assert (result["changed"], result["pending"], result["services"]) == (True, [], {"": "reloaded"})
    assert taken() == "new\n"
    assert not write(entry(), services=[service])["changed"]
    assert taken() == "new\n"
    assert not (tmp_path / "rollback").exists()


def test_service_is_told_of_its_own_files_only(write, service, taken, tmp_path):
    write(entry(), services=[service])
    result = write(entry(), entry("b.conf"), services=[{**service, "reload_for": [str(tmp_path / "a.conf")]}])
    assert (result["changed"], result["services"]) == (True, {"": ""})
    assert taken() == "new\n"


def test_service_that_is_seen_to_go_by_others_takes_up_files_that_are_right(write, service, taken):
    write(entry(), services=[service])
    assert write(entry(), services=[{**service, "due": True}])["changed"]
    assert taken() == "new\n" * 2


def test_check_mode_tells_what_service_would_take_up_and_asks_none(write, service, tmp_path):
    validator = {"command": ["touch", str(tmp_path / "validated")]}
    result = write(entry(), check=True, services=[service], validate=[validator])
    assert (result["changed"], result["services"]) == (True, {"": "reloaded"})
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_not_valid_is_never_in_place(write, service, taken, tmp_path):
    write(entry(content="good\n"), services=[service])
    says_no = 'grep good "$0" || { echo "[7] $0: line 1 is bad"; exit 1; }'
    validator = {"command": ["sh", "-c", says_no, str(tmp_path / "a.conf")], "strip": r"^\[\d\] "}
    result = write(
        entry(), validate=[validator], services=[service], invalid="Not taken: {reason}.", taken_back=TAKEN_BACK
    )
    assert result["failed"]
    assert result["msg"] == f"Not taken: {tmp_path}/a.conf: line 1 is bad."
    assert (tmp_path / "a.conf").read_text() == taken() == "good\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conf", "rollback.lock", "taken"]


def test_files_that_name_each_other_are_validated_together(write, service, tmp_path):
    read_both = {"command": ["sh", "-c", 'grep here "$(cat "$0")"', str(tmp_path / "a.conf")]}
    both = entry(content=f"{tmp_path}/b.conf"), entry("b.conf", "here\n", mode="0600")
    assert write(*both, validate=[read_both], services=[service])["changed"]
    assert (tmp_path / "a.conf").read_text() == f"{tmp_path}/b.conf"


def test_validator_sees_owner_and_mode(write, service, tmp_path):
    shows_them = {"command": ["sh", "-c", 'stat --format=%a:%U "$0"; exit 1', str(tmp_path / "a.conf")]}
    assert f"640:{ME}" in write(entry(), validate=[shows_them], services=[service])["msg"]


def test_secret_that_a_validator_quotes_shows_nowhere(write, service, tmp_path):
    quotes = {"command": ["sh", "-c", 'cat "$0"; exit 1', str(tmp_path / "a.env")]}
    result = write({"path": "a.env", "secret": SECRET, "mode": "0600"}, entry(), validate=[quotes], services=[service])
    assert result["failed"]
    assert SECRET not in str(result)


@pytest.mark.parametrize(("word", "fails"), [("", False), ("echo no;", True)])
def test_validator_that_ends_by_itself_without_a_word_has_found_nothing(write, service, word, fails):
    ends_itself = {"command": ["sh", "-c", f"{word} kill -TERM $$"], "quiet_codes": [-15]}
    assert write(entry(), validate=[ends_itself], services=[service]).get("failed", False) is fails


def test_service_that_does_not_answer_goes_by_the_files_from_before(write, service, taken, tmp_path):
    write(entry(content="old\n"), services=[service])
    result = write(entry(), entry("b.conf"), services=[{**service, "answers": [SILENT]}], taken_back=TAKEN_BACK)
    assert result["msg"] == "As before: it does not answer (see the log)."
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert not (tmp_path / "b.conf").exists()
    assert taken() == "old\nnew\nold\n"
    assert not write(entry(content="old\n"), services=[service])["changed"]


def test_service_that_says_why_is_quoted(write, service, tmp_path):
    write(entry(content="old\n"), services=[service])
    refuses = ["sh", "-c", f"grep -q old {tmp_path}/a.conf || {{ echo no such colour >&2; exit 1; }}"]
    result = write(entry(), services=[{"reload": refuses}], taken_back=TAKEN_BACK)
    assert result["msg"] == "As before: no such colour (see the log)."


def test_files_that_no_service_goes_back_to_are_taken_up_by_the_next_run(write, service, taken, tmp_path):
    write(entry(content="old\n"), services=[service])
    quotes_its_file = ["sh", "-c", f"cat {tmp_path}/a.conf; exit 1"]
    result = write(entry(), services=[{"reload": quotes_its_file}])
    assert result["msg"] == ("The files from before are in place again, but not in use: old; what came first: new")
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert write(entry(content="old\n"), services=[service])["changed"]
    assert taken() == "old\n" * 2


def test_what_service_says_of_the_files_from_before_too_keeps_it_from_nothing(write, service, tmp_path):
    write(entry(content="old\n"), services=[service])
    result = write(
        entry(), services=[{"reload": ["sh", "-c", "echo another file is wrong; exit 1"]}], taken_back=TAKEN_BACK
    )
    assert result["msg"] == "As before: another file is wrong (see the log)."
    assert not write(entry(content="old\n"), services=[service])["changed"]


def test_run_that_dies_before_the_service_is_told_leaves_that_to_the_next(write, service, taken, tmp_path):
    write(entry(content="old\n"), services=[service])
    assert write(entry(), services=[{"reload": killing("true")}]) == {"killed_by": signal.SIGKILL}
    assert ((tmp_path / "a.conf").read_text(), taken()) == ("new\n", "old\n")
    assert write(entry(), check=True, services=[service])["changed"]
    assert write(entry(), services=[service])["services"] == {"": "reloaded"}
    assert taken() == "old\nnew\n"
    assert not write(entry(), services=[service])["changed"]


def test_run_that_dies_on_the_way_back_leaves_that_to_the_next(write, service, taken, tmp_path):
    write(entry(content="old\n"), services=[service])
    dies_on_old = f"cat {tmp_path}/a.conf >> {tmp_path}/taken; grep -q new {tmp_path}/a.conf || kill -KILL $PPID"
    died = write(entry(), services=[{"reload": ["sh", "-c", dies_on_old], "answers": [SILENT]}])
    assert died == {"killed_by": signal.SIGKILL}
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert write(entry(content="old\n"), services=[service])["changed"]
    assert taken() == "old\nnew\nold\nold\n"


def test_run_that_dies_while_files_are_checked_leaves_those_that_serve(write, service, tmp_path):
    write(entry(content="old\n"), services=[service])
    died = write(entry(), services=[service], validate=[{"command": killing("true")}])
    assert died == {"killed_by": signal.SIGKILL}
    assert (tmp_path / "a.conf").read_text() == "old\n"
    assert not write(entry(content="old\n"), services=[service])["changed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conf", "rollback.lock", "taken"]


@pytest.fixture
def answering(tmp_path):
    """A Unix socket and a TCP port that answer `id: 7`; the path and the port."""

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(100)
                connection.sendall(b"name: a\nid: 7\n")

    listeners = socket.socket(socket.AF_UNIX), socket.socket()
    for listener, address in zip(listeners, (str(tmp_path / "s"), ("127.0.0.1", 0)), strict=True):
        listener.bind(address)
        listener.listen()
        threading.Thread(target=serve, args=[listener], daemon=True).start()
    yield str(tmp_path / "s"), listeners[1].getsockname()[1]
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("expected", ["^id: 7$", "^id: 8$"])
def test_service_is_asked_on_its_socket_which_files_it_goes_by(write, service, answering, expected):
    question = {"socket": answering[0], "send": "which?\n", "expect": expected, "seconds": 0, "otherwise": "others"}
    result = write(entry(), services=[{**service, "answers": [question]}])
    assert ("others" in result.get("msg", "")) == (expected == "^id: 8$")


@pytest.mark.parametrize("way", [{"address": "127.0.0.1:%d"}, {"listens": "%d"}])
def test_service_is_waited_for_where_it_listens(write, service, answering, way):
    _, port = answering
    asked = {key: value % port for key, value in way.items()}
    nobody = {key: value % find_closed() for key, value in way.items()}
    question = {"seconds": 0, "otherwise": "nobody listens"}
    assert write(entry(), services=[{**service, "answers": [{**asked, **question}]}])["changed"]
    result = write(entry(content="b"), services=[{**service, "answers": [{**nobody, **question}]}])
    assert "nobody listens" in result["msg"]


def find_closed():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
