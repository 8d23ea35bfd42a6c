"""managed_files: a set of files in one trip, with a way back."""

import grp
import os
import pwd
import re
import stat

import pytest

ME = pwd.getpwuid(os.geteuid()).pw_name
MINE = grp.getgrgid(os.getegid()).gr_name
SECRET = "p@ss:w/rd#%?&x"


@pytest.fixture
def write(module, tmp_path):
    """A function that writes entries below tmp_path and returns the result."""

    def run(*entries, check=False, state="present"):
        owned = [{**entry, "path": str(tmp_path / entry["path"]), "owner": ME, "group": MINE} for entry in entries]
        return module("managed_files", check, state=state, entries=owned, rollback_dir=str(tmp_path / "rollback"))

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
