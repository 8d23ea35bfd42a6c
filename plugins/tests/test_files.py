"""Files where another account can write: what is followed, refused, replaced and removed. Needs no root for most."""

import itertools
import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_service.system import files

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another account")
STRANGER = 4242


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder that everybody can write, and with it all that is in it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def precious(tmp_path) -> Path:
    file = tmp_path / "precious"
    file.write_text("secret")
    file.chmod(0o600)
    return file


def test_a_link_that_only_we_can_have_made_is_followed(ours):
    (ours / "real").mkdir()
    (ours / "real" / "file").write_text("content")
    (ours / "link").symlink_to("real")
    (ours / "real" / "again").symlink_to(ours / "link" / "file")
    assert files.read(ours / "link" / "file") == files.read(ours / "link" / "again") == b"content"
    files.write(ours / "link" / "new", b"new")
    assert (ours / "real" / "new").read_text() == "new"


def test_a_link_in_a_circle_ends(ours):
    (ours / "a").symlink_to("b")
    (ours / "b").symlink_to("a")
    with pytest.raises(OSError, match="levels of symbolic links"):
        files.read(ours / "a" / "file")


@pytest.mark.parametrize("path", ["link", "folder/link", "to-folder/precious"])
def test_a_link_that_others_can_have_made_is_refused(theirs, precious, path):
    (theirs / "folder").mkdir()
    (theirs / "link").symlink_to(precious)
    (theirs / "folder" / "link").symlink_to(precious)
    (theirs / "to-folder").symlink_to(precious.parent)
    with pytest.raises(files.Refusal, match=f"{theirs}.* is a link"):
        files.read(theirs / path)


def test_nothing_of_root_is_trusted_below_a_folder_of_others(theirs, precious):
    (theirs / "roots").mkdir(mode=0o700)
    (theirs / "roots" / "link").symlink_to(precious)
    with pytest.raises(files.Refusal, match="is a link"):
        files.read(theirs / "roots" / "link")


def test_what_is_no_regular_file_is_refused_and_waited_for_by_nobody(theirs):
    os.mkfifo(theirs / "fifo")
    (theirs / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(theirs / "socket"))
        for name in ("fifo", "folder"):
            with pytest.raises(files.Refusal, match="no regular file"):
                files.read(theirs / name)
        with pytest.raises(OSError, match="No such device"):
            files.read(theirs / "socket")


def test_a_hard_link_of_others_is_refused(theirs, ours, precious):
    os.link(precious, theirs / "second")
    with pytest.raises(files.Refusal, match="hard link"):
        files.read(theirs / "second")
    (ours / "first").write_text("content")
    os.link(ours / "first", ours / "second")  # as a backup by hard links makes them
    assert files.read(ours / "second") == b"content"


def test_a_file_that_is_too_large_is_refused(theirs):
    with (theirs / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(files.Refusal, match="more than 1024 bytes"):
        files.read(theirs / "large", 1024)
    (theirs / "fits").write_bytes(b"x" * 1024)
    assert len(files.read(theirs / "fits", 1024)) == 1024


@ONLY_ROOT
def test_a_file_of_somebody_who_has_no_business_there_is_refused(theirs):
    (theirs / "file").write_text("content")
    os.chown(theirs / "file", STRANGER, STRANGER)
    with pytest.raises(files.Refusal, match=f"id {STRANGER}"):
        files.read(theirs / "file")
    assert files.read(theirs / "file", owners=[STRANGER]) == b"content"
    os.chown(theirs, STRANGER, STRANGER)
    assert files.read(theirs / "file") == b"content"


def test_writing_goes_through_no_link(theirs, ours, precious):
    (theirs / "file").symlink_to(precious)
    with pytest.raises(files.Refusal, match=f"{theirs}/file is a link"):
        files.write(theirs / "file", b"new", mode=0o640)
    (ours / "file").symlink_to(precious)
    files.write(ours / "file", b"new", mode=0o640)
    assert not (ours / "file").is_symlink() and (ours / "file").read_text() == "new"
    assert stat.S_IMODE((ours / "file").stat().st_mode) == 0o640
    assert precious.read_text() == "secret"
    assert [path.name for path in ours.iterdir()] == ["file"]


def test_writing_that_fails_leaves_what_was_there(theirs):
    (theirs / "file").mkdir()
    (theirs / "file" / "inside").touch()
    with pytest.raises(OSError, match=str(theirs / "file")):
        files.write(theirs / "file", b"new")
    assert [path.name for path in theirs.iterdir()] == ["file"]


def test_a_folder_that_is_a_link_keeps_its_owner_and_mode(theirs, tmp_path):
    (tmp_path / "precious").mkdir(mode=0o700)
    (theirs / "artifacts").symlink_to(tmp_path / "precious")
    with pytest.raises(files.Refusal, match=f"{theirs}/artifacts is a link"):
        files.make_folder(theirs / "artifacts", os.geteuid(), os.getegid(), 0o777)
    assert stat.S_IMODE((tmp_path / "precious").stat().st_mode) == 0o700


@pytest.fixture(params=[0o022, 0o077])
def umask(request) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folders_are_made_with_their_mode_and_those_on_the_way_for_root(theirs):
    files.make_folder(theirs / "a" / "b", os.geteuid(), os.getegid(), 0o2750)
    assert stat.S_IMODE((theirs / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((theirs / "a" / "b").stat().st_mode) == 0o2750


def test_a_path_that_goes_up_or_is_relative_is_refused():
    for path in ("relative", "/a/../b", "/"):
        with pytest.raises(files.Refusal, match="no absolute path"):
            files.read(path)


def test_removing_removes_links_and_not_what_they_name(theirs, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (theirs / "tree").mkdir()
    (theirs / "tree" / "link").symlink_to(tmp_path / "precious")
    (theirs / "tree" / "line\nend").touch()
    os.mkfifo(theirs / "tree" / "fifo")
    Path(os.fsdecode(os.fsencode(theirs / "tree") + b"/\xff\xfe")).touch()
    (theirs / "link").symlink_to(tmp_path / "precious")
    for name in ("tree", "link", "nothing"):
        files.remove(theirs / name)
    assert list(theirs.iterdir()) == []
    assert (tmp_path / "precious" / "file").exists()


def test_removing_below_a_link_of_others_is_refused(theirs, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (theirs / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(files.Refusal, match="is a link"):
        files.remove(theirs / "link" / "file")
    assert (tmp_path / "precious" / "file").exists()


def test_a_tree_of_any_depth_is_removed(theirs):
    """Deeper than Python calls functions, than a process has descriptors, and than a path may be long."""
    folder = os.open(theirs, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    files.remove(theirs / "deep")
    assert list(theirs.iterdir()) == []


def exchanging_before(calls: set[int], folder: Path) -> Callable[[object, str, object], None]:
    """A profiler that exchanges a folder for a link, or back, right before each of these system calls of ours."""
    seen = itertools.count()

    def profile(_frame, event, called):
        if event == "c_call" and called.__module__ == "posix" and next(seen) in calls:
            for old, new in (("real", "kept"), ("other", "real"), ("kept", "other")):
                os.rename(folder / old, folder / new)

    return profile


@pytest.mark.parametrize("later", [None, 1, 2, 3])
def test_a_folder_that_is_exchanged_meanwhile_is_never_followed(theirs, tmp_path, later):
    """Somebody exchanges a folder for a link at any moment, for good or for some calls, while files in it come and go."""
    (tmp_path / "precious").mkdir()
    outcomes = []
    for moment in range(200):
        (theirs / "real").mkdir()
        (theirs / "other").symlink_to(tmp_path / "precious")
        sys.setprofile(exchanging_before({moment, moment + later} if later else {moment}, theirs))
        try:
            files.write(theirs / "real" / "file", b"content")
            files.remove(theirs / "real" / "file")
            files.make_folder(theirs / "real" / "folder", os.geteuid(), os.getegid(), 0o700)
            outcomes.append("done")
        except (files.Refusal, OSError) as error:
            outcomes.append(type(error).__name__)
        finally:
            sys.setprofile(None)
        assert list((tmp_path / "precious").iterdir()) == []
        for each in theirs.iterdir():
            each.unlink() if each.is_symlink() else shutil.rmtree(each)
    assert "Refusal" in outcomes
    assert outcomes[-1] == "done", "there are more moments than were tried"


def test_a_socket_that_is_a_link_is_not_asked(theirs, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "others.sock"))
        listening.listen()
        (theirs / "link.sock").symlink_to(tmp_path / "others.sock")
        with pytest.raises(files.Refusal, match="is a link"):
            files.connect(theirs / "link.sock", 1.0)
        files.connect(tmp_path / "others.sock", 1.0).close()
    (theirs / "file.sock").touch()
    with pytest.raises(files.Refusal, match="no socket"):
        files.connect(theirs / "file.sock", 1.0)


def test_a_mark_is_there_whatever_was_there_before(theirs, precious):
    (theirs / "hold").symlink_to(precious.parent / "made")
    files.mark(theirs / "hold")
    assert (theirs / "hold").is_file() and not (theirs / "hold").is_symlink()
    assert not (precious.parent / "made").exists()
    files.remove(theirs / "hold")
    (theirs / "hold" / "folder").mkdir(parents=True)
    files.mark(theirs / "hold")
    assert (theirs / "hold").is_file()
