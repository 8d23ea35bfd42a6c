# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Files where another account can write: opened, made, replaced and removed by root without following its links.

The service's account is the attacker that root's programs are built against. In a folder that it can write, such
as its home, it may exchange any file or folder for a link at any moment. So nothing here looks at a path first and
uses it afterwards: each folder on the way is opened in the one before, and what is found is looked at and used by
its descriptor.

A link is followed where root alone can have made it, which is in a folder that root owns and nobody else can write,
and that is reached through such folders only. From the first other folder on, links, files with a second name (hard
links), and owners that have no business there are refused; the sentence names the path.

The modules of the collection and the program on the machine (``mlflow_service``) share this file. Standard library
only, for Python 3.8 and later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
from collections.abc import Callable, Collection, Iterator

FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
SYMLINK_LIMIT = 40  # as the kernel has it; see path_resolution(7)
TEMPORARY = ".managed-"  # how a file is called while it is written; mlflow_removal knows it
MIB = 1024 * 1024
READ_LIMIT = 64 * MIB


class Refusal(Exception):
    """What was found is not followed, read or changed; the text is one sentence that names the path."""


class Place:
    """A name in a folder that is open.

    Attributes:
        folder: descriptor of the folder (O_PATH).
        name: the last part of the path, whether or not there is such a file.
        path: the whole of it, for sentences.
        real: the same after the links that were followed.
        safe: whether root alone can have put there what is there.
    """

    def __init__(self, folder: int, name: str, path: str, safe: bool) -> None:
        self.folder, self.name, self.path, self.real, self.safe = folder, name, path, path, safe

    def look(self) -> os.stat_result | None:
        """What is there, a link as itself; None where nothing is."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, flags: int, mode: int = 0o600) -> int:
        """A descriptor of what is there; a link is refused."""
        try:
            return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self.folder)
        except OSError as error:
            found = self.look() if error.errno in (errno.ELOOP, errno.ENOTDIR) else None
            if found and stat.S_ISLNK(found.st_mode):
                raise Refusal(is_a_link(self.path)) from None
            raise

    def sync(self) -> None:
        """Make sure that the names in the folder outlive a loss of power."""
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def refuse_link(self) -> None:
        """Raise Refusal where there is a link that others can have made."""
        found = self.look()
        if found and stat.S_ISLNK(found.st_mode) and not self.safe:
            raise Refusal(is_a_link(self.path))

    def refuse_stranger(self, found: os.stat_result, owners: Collection[int]) -> None:
        """Raise Refusal where others can write and what is there belongs to nobody who has business there."""
        expected = {0, os.geteuid(), os.fstat(self.folder).st_uid, *owners}
        if not self.safe and found.st_uid not in expected:
            raise Refusal(
                f"{self.path} belongs to the account with the id {found.st_uid}, which has no business there."
            )


def is_a_link(path: str) -> str:
    return (
        f"{path} is a link, in a folder that others than root can write, so it is not followed; remove it, or name the "
        "file or folder itself."
    )


def is_roots(found: os.stat_result) -> bool:
    """Whether nobody but root, and who asks, can change the names in a folder."""
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    return found.st_uid in (0, os.geteuid()) and not by_group and not found.st_mode & stat.S_IWOTH


@contextlib.contextmanager
def place(path: str | os.PathLike[str], make: bool = False) -> Iterator[Place]:
    """The folder of a path, open for as long as the block lasts.

    Args:
        path: absolute.
        make: whether folders on the way are made, for root, mode 0755, where they are missing.

    Raises:
        Refusal: there is a link on the way that others can have made.
        OSError: with the whole path as its ``filename``.
    """
    path = os.fspath(path)
    found = None
    try:
        found = locate(path, path, make)
        yield found
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise
    finally:
        if found:
            os.close(found.folder)


def locate(path: str, asked: str, make: bool, links: int = 0) -> Place:
    """See `place`; `asked` is the path that sentences name."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not path.startswith("/") or ".." in names or not names:
        raise Refusal(f"{asked} is no absolute path of a file or a folder without `..`.")
    folder, safe = os.open("/", FOLDER), True
    try:
        for number, name in enumerate(names):
            safe = safe and is_roots(os.fstat(folder))
            here = Place(folder, name, "/" + "/".join(names[: number + 1]), safe)
            found = here.look()
            if found and stat.S_ISLNK(found.st_mode):
                if not safe:
                    raise Refusal(is_a_link(here.path))
                if links == SYMLINK_LIMIT:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), asked)
                target = os.path.join("/", *names[:number], os.readlink(name, dir_fd=folder))
                resolved = locate(os.path.normpath(os.path.join(target, *names[number + 1 :])), asked, make, links + 1)
                os.close(folder)
                return resolved
            if number == len(names) - 1:
                here.path = asked
                return here
            if found is None and make:
                with contextlib.suppress(FileExistsError), umask(0o022):  # for all to enter, whatever root's own is
                    os.mkdir(name, 0o755, dir_fd=folder)
            inner = here.open(FOLDER)
            os.close(folder)
            folder = inner
    except BaseException:
        os.close(folder)
        raise
    raise AssertionError("a path has a last name")


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """What is made meanwhile lacks these permissions, and no others."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], owners: Collection[int] = ()) -> Iterator[int]:
    """A descriptor of a regular file for reading; a FIFO, a device or a socket is refused and nobody waits for it.

    Args:
        path: absolute.
        owners: ids that it may belong to, besides root, whoever asks, and the owner of its folder.
    """
    with place(path) as there:
        descriptor = there.open(os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refusal(f"{there.path} is no regular file.")
            if not there.safe and found.st_nlink != 1:
                raise Refusal(f"{there.path} has a second name (a hard link), so it is not used; remove it.")
            there.refuse_stranger(found, owners)
            yield descriptor
        finally:
            os.close(descriptor)


def read(path: str | os.PathLike[str], limit: int = READ_LIMIT, owners: Collection[int] = ()) -> bytes:
    """The content of a regular file of at most `limit` bytes; see `opened`."""
    with opened(path, owners) as descriptor:
        content = bytearray()
        while block := os.read(descriptor, min(MIB, limit + 1 - len(content))):
            content += block
            if len(content) > limit:
                raise Refusal(f"{os.fspath(path)} has more than {limit} bytes, so it is not read.")
        return bytes(content)


def attributes(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """Ids of owner and group and the mode, of a link its own; None where nothing is there."""
    with missing_is_none(), place(path) as there:
        found = there.look()
        return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) if found else None
    return None


def kind(path: str | os.PathLike[str]) -> Callable[[int], bool] | None:
    """What is there: one of `stat.S_ISREG`, `S_ISDIR`, `S_ISLNK`, `S_ISSOCK`, …; None where nothing is."""
    with missing_is_none(), place(path) as there:
        found = there.look()
        kinds = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK, stat.S_ISSOCK, stat.S_ISFIFO, stat.S_ISCHR, stat.S_ISBLK)
        return next(each for each in kinds if each(found.st_mode)) if found else None
    return None


@contextlib.contextmanager
def missing_is_none() -> Iterator[None]:
    """Let a block end where a folder on the way is missing, or is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield


def give(descriptor: int, uid: int, gid: int, mode: int) -> None:
    """Give what is open an owner, a group and a mode, as far as it has others."""
    found = os.fstat(descriptor)
    if (found.st_uid, found.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)  # which may take bits of the mode away
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)


def make_folder(path: str | os.PathLike[str], uid: int, gid: int, mode: int) -> None:
    """Have a folder with this owner, group and mode; those on the way are made for root."""
    with place(path, make=True) as there:
        if there.look() is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(there.name, 0o700, dir_fd=there.folder)
        descriptor = there.open(os.O_RDONLY | os.O_DIRECTORY)
        try:
            there.refuse_stranger(os.fstat(descriptor), [uid])
            give(descriptor, uid, gid, mode)
        finally:
            os.close(descriptor)


def write(
    path: str | os.PathLike[str],
    content: bytes,
    uid: int | None = None,
    gid: int | None = None,
    mode: int = 0o600,
) -> None:
    """Put a file in the place of whatever file is there: complete, synced, and under a name that nobody can guess.

    Args:
        path: absolute; its folder is there.
        content: of the file.
        uid, gid: its owner and group; None for who asks.
        mode: its permissions.
    """
    uid, gid = os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid
    with place_of_entry(path) as there:
        there.refuse_link()
        temporary = TEMPORARY + secrets.token_hex(8)
        descriptor = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=there.folder,
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                give(descriptor, uid, gid, mode)
                os.fsync(descriptor)
            os.rename(temporary, there.name, src_dir_fd=there.folder, dst_dir_fd=there.folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=there.folder)
            raise
        there.sync()


def mark(path: str | os.PathLike[str]) -> None:
    """Have something of that name there: an empty file of ours in the place of whatever is there now."""
    remove(path)
    with place_of_entry(path) as there, contextlib.suppress(FileExistsError):  # somebody else's mark is one, too
        os.close(there.open(os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, a link itself, or a folder with all that is in it; nothing where there is none."""
    with missing_is_none(), place_of_entry(path) as there:
        remove_entry(there.folder, there.name)


@contextlib.contextmanager
def place_of_entry(path: str | os.PathLike[str]) -> Iterator[Place]:
    """Like `place`, but a link at its end stands for itself, wherever it is."""
    folder, name = os.path.split(os.fspath(path).rstrip("/"))
    try:
        with place(os.path.join(folder, "-")) as there:
            there.name, there.path = name, os.fspath(path)
            yield there
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def remove_entry(folder: int, name: str) -> None:
    """Remove one name from an open folder, with all that is in it. What is mounted there is emptied, and stays."""
    try:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=folder)
        return
    try:
        empty(inner)
    finally:
        os.close(inner)
    try:
        os.rmdir(name, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EBUSY:  # a mount point
            raise


def empty(top: int) -> None:
    """Remove all that is in an open folder, but mount points, which are emptied.

    What the folders in it hold is moved up first, so that no depth is too deep.
    """
    stays: set[str] = set()
    while names := set(os.listdir(top)) - stays:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if not unlink(top, name) and not flatten(top, name):
                    stays.add(name)


def flatten(top: int, name: str) -> bool:
    """Remove a folder in an open folder, after what it holds has moved there; returns whether it could be removed."""
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for each in os.listdir(inner):
            if not unlink(inner, each):
                try:
                    os.rename(each, TEMPORARY + secrets.token_hex(8), src_dir_fd=inner, dst_dir_fd=top)
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.EXDEV):  # one of both is a mount point
                        raise
                    remove_entry(inner, each)
    finally:
        os.close(inner)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def unlink(folder: int, name: str) -> bool:
    """Remove a file or a link; returns whether it was none of a folder's name."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        return False
    return True


def real(path: str | os.PathLike[str]) -> str:
    """The path after the links that root has made; the last name itself may be missing."""
    with place(path) as there:
        return there.real


def unsafe_folder(path: str | os.PathLike[str], group: int | None = None) -> str:
    """The first folder on the way to a path, itself included, in which others than root can exchange names.

    On the way are also those that hold a link, and those that lead to what it names.

    Args:
        path: absolute; what is missing is none.
        group: a group that must not be able to; others that may write are taken to be administrators.
    """
    parts = [part for part in os.fspath(path).split("/") if part]
    for number in range(len(parts) + 1):
        real = os.path.realpath("/" + "/".join(parts[:number]))
        for folder in [*reversed(ancestors(real)), real]:
            try:
                found = os.lstat(folder)
            except OSError:
                break
            by_group = found.st_mode & stat.S_IWGRP and found.st_gid == group
            if found.st_uid != 0 or by_group or found.st_mode & stat.S_IWOTH:
                return folder
    return ""


def ancestors(path: str) -> list[str]:
    """The folders above a path, the nearest first."""
    return [] if path == "/" else [os.path.dirname(path), *ancestors(os.path.dirname(path))]


def connect(path: str | os.PathLike[str], seconds: float) -> socket.socket:
    """A connection to the Unix socket that is at a path, which may be no link; `seconds` is its time-out."""
    with place(path) as there:
        descriptor = there.open(os.O_PATH)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise Refusal(f"{there.path} is no socket.")
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(seconds)
                connection.connect(f"/proc/self/fd/{descriptor}")
            except BaseException:
                connection.close()
                raise
        finally:
            os.close(descriptor)
    return connection
