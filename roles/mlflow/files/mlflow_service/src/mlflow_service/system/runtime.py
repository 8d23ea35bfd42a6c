"""Tell systemd that the service is ready as soon as every worker is, and hold clients back while asked to.

Each worker leaves a file in the service's runtime folder, which systemd empties at each start. The main
process waits for all of them, and ends where one of them says that there is no use in it. While a file
``hold`` is there, workers are ready, but take no client from the socket; see the floor change.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_service.system import files

POLL_SECONDS = 0.05
EXTENSION_SECONDS = 60


def folder() -> Path:
    """The service's runtime folder; see RuntimeDirectory= in systemd.exec(5)."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", "/run/mlflow"))


def hold(wanted: bool) -> None:
    """Let workers hold clients back, or no longer."""
    path = folder() / "hold"
    if wanted:
        files.mark(path)  # by root, in a folder of the service
    else:
        files.remove(path)


def is_held() -> bool:
    return (folder() / "hold").exists()


def trial_socket() -> Path:
    """Where this worker answers while clients are held back."""
    return folder() / f"trial-{os.getpid()}.sock"


def trial_sockets() -> list[Path]:
    """Those of all workers."""
    return sorted(folder().glob("trial-*.sock"))


def worker_is_ready() -> None:
    """Called by a worker that can answer from now on."""
    (folder() / f"worker-{os.getpid()}").touch()


def give_up() -> None:
    """Called by a worker that can't start, nor any other one."""
    (folder() / "given-up").touch()


def was_ready() -> bool:
    """Whether all workers have been ready since the service was started."""
    return (folder() / "was-ready").exists()


def notify(state: str) -> None:
    """Send a message such as ``READY=1`` to systemd; see sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        systemd.sendall(state.encode())


def watch(workers: int) -> None:
    """Return once as many workers have become ready, and systemd was told so; end the service where one gave up."""
    while (ready := len(list(folder().glob("worker-*")))) < workers:
        if (folder() / "given-up").exists():
            os.kill(os.getpid(), signal.SIGTERM)  # which ends the workers, too
            return
        time.sleep(POLL_SECONDS)
    (folder() / "was-ready").touch()
    notify(f"READY=1\nSTATUS={ready} workers ready")


def watch_in_background(workers: int) -> None:
    """Start `watch` beside what this process does; does nothing where systemd did not start it."""
    if "NOTIFY_SOCKET" in os.environ:
        threading.Thread(target=watch, args=(workers,), daemon=True).start()


@contextmanager
def systemd_waits(status: str) -> Iterator[None]:
    """Ask systemd for more time to start for as long as the block lasts; see sd_notify(3)."""
    ended = threading.Event()

    def ask() -> None:
        while True:
            notify(f"EXTEND_TIMEOUT_USEC={EXTENSION_SECONDS * 1_000_000}\nSTATUS={status}")
            if ended.wait(EXTENSION_SECONDS / 3):
                return

    if "NOTIFY_SOCKET" in os.environ:
        threading.Thread(target=ask, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
