"""Whether this worker works: what each worker tells ``mlflow-check``, at a private socket of its own.

Clients share one socket, and which worker takes a connection is chance: a worker that hangs makes a
part of them wait and is found by nobody who asks there. So each has a Unix socket in the service's
runtime folder. Whoever connects gets one line of JSON and no more:

``warm``         whether the worker takes clients
``threads``      once it is warm, whether MLflow answers within `THREADS_SECONDS`, in a thread as it answers clients
``in_progress``  requests that clients wait for
``answered``     requests that were answered well since the worker started

A worker that gives no line at all hangs as a whole: uvicorn finds one that is stopped, but not one
whose event loop is blocked, because a thread of its own answers uvicorn.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_service.system import files, runtime

THREADS_SECONDS = 10.0
TIMEOUT_SECONDS = 15.0


class Pulse:
    """The socket of this worker.

    Args:
        mlflow: asks MLflow for an answer that needs no database; returns its HTTP status.
    """

    def __init__(self, mlflow: Callable[[], Awaitable[int]]) -> None:
        self.mlflow = mlflow
        self.warm = False
        self.in_progress = 0
        self.answered = 0
        self.asked: asyncio.Task[int] | None = None
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, for as long as the worker lives."""
        path = runtime.folder() / f"pulse-{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        self.server = await asyncio.start_unix_server(self.tell, path)

    async def tell(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(await self.state()).encode() + b"\n")
            await writer.drain()
            writer.close()

    async def state(self) -> dict[str, Any]:
        told: dict[str, Any] = {"warm": self.warm, "in_progress": self.in_progress, "answered": self.answered}
        if self.warm:  # before, MLflow must not be asked several things at once; see app.WARM_UP
            told["threads"] = await self.threads_answer()
        return told

    async def threads_answer(self) -> bool:
        """One question at a time: those that hang must not pile up."""
        if self.asked is None or self.asked.done():
            self.asked = asyncio.ensure_future(self.mlflow())
        done, _ = await asyncio.wait([self.asked], timeout=THREADS_SECONDS)
        return bool(done)


# The other side


NAME = re.compile(r"pulse-(\d{1,10})\.sock", re.ASCII)
SOCKET_LIMIT = 256  # four times as many workers as there may be
LINE_LIMIT = 4096  # bytes


class OddError(Exception):
    """What is in the folder and is no worker's; the text is one phrase."""


@dataclass
class Worker:
    """A worker as it was found.

    Attributes:
        pid: of its process.
        state: what it told; None where it was asked and told nothing.
    """

    pid: int
    state: dict[str, Any] | None


def ask(path: Path, members: Collection[int], timeout: float = TIMEOUT_SECONDS) -> Worker | None:
    """Ask the worker behind a socket; None where there is none any more.

    Root asks, in a folder of the service, so neither a name nor a link there decides whom this is about.

    Args:
        path: of the socket.
        members: the service's processes; nobody else is a worker.
        timeout: seconds for all of it.

    Raises:
        OddError: it is no worker's.
    """
    deadline = time.monotonic() + timeout
    try:
        connection = files.connect(path, timeout)
    except files.Refusal as refusal:
        raise OddError(str(refusal)) from None
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except OSError:  # its queue is full of those who asked before
        return Worker(member(int(NAME.fullmatch(path.name)[1]), path, members), None)
    with connection:
        # The kernel knows who listens, also where that process is stopped.
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        pid = member(pid, path, members)
        try:
            line = read_line(connection, deadline)
        except (TimeoutError, ConnectionError):
            return Worker(pid, None)
    if not line:
        return None
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not is_state(told):
        raise OddError(f"{path} answers what no worker does")
    return Worker(pid, told)


def member(pid: int, path: Path, members: Collection[int]) -> int:
    """The pid, if it is one of the service's processes."""
    if pid not in members:
        raise OddError(f"{path} is of process {pid}, which is none of the service's")
    return pid


def read_line(connection: socket.socket, deadline: float) -> bytes:
    """One line, without its end, however slowly it comes; raises TimeoutError after a deadline of time.monotonic()."""
    line = b""
    while not line.endswith(b"\n") and len(line) <= LINE_LIMIT:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        block = connection.recv(LINE_LIMIT)
        if not block:
            break
        line += block
        if time.monotonic() > deadline:
            raise TimeoutError
    return line.rstrip(b"\n")


def is_state(told: Any) -> bool:
    """Whether it is what `Pulse.state` returns."""
    if not isinstance(told, dict) or not isinstance(told.get("warm"), bool):
        return False
    counts = [told.get("in_progress"), told.get("answered")]
    return all(type(count) is int for count in counts) and (not told["warm"] or isinstance(told.get("threads"), bool))


def sockets(folder: Path) -> list[Path]:
    """Those of all workers, and of some that are gone."""
    return sorted(path for path in folder.glob("pulse-*") if NAME.fullmatch(path.name))[:SOCKET_LIMIT]


def odd_names(folder: Path) -> list[str]:
    """What is called almost like a worker's socket, as one may print it, or is one too many."""
    found = list(folder.glob("pulse-*"))
    odd = sorted(ascii(path.name) for path in found if not NAME.fullmatch(path.name))
    return odd + (["more than any workers have"] if len(found) > SOCKET_LIMIT else [])
