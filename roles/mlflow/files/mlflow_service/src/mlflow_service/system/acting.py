"""Acting as the service: what root's programs have done under its account, and how far they believe what comes back.

Whoever has code run under the service's account can stop, trace and replace what runs there. So such a child gets
no descriptor but its pipes and no terminal of ours, it imports nothing from a folder that the account can write
(``python -I``), and what it prints is bounded, in size and in time. Standard library only.
"""

import contextlib
import json
import os
import pwd
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

MIB = 1024 * 1024
OUTPUT_LIMIT = 16 * MIB
QUESTION_SECONDS = 600.0
REST_SECONDS = 5.0  # for what a child that has ended has left in its pipes
DATA_SECONDS = 12 * 3600.0  # copying, migrating, restoring; as long as the most patient of those who wait


class ActingError(Exception):
    """Why there is no answer; the text is one sentence for a person, without secrets."""


@dataclass(frozen=True)
class Done:
    """How a child has ended.

    Attributes:
        status: its exit status; below 0 the signal that it was stopped by.
        output, errors: what it printed to standard output and to standard error.
    """

    status: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last line that it said about an error."""
        lines = [line for line in self.errors.splitlines() if line.strip() and not line.startswith(" ")]
        return one_line(lines[-1])[:300] if lines else "no word"

    def answer(self) -> dict[str, Any]:
        """The JSON object in its last line; raises ActingError where there is none."""
        try:
            said = json.loads(self.output.splitlines()[-1])
        except (IndexError, ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise ActingError(f"{ended(self.status)}: {self.last_words}")
        return said


def ended(status: int) -> str:
    """How a process ended, in words."""
    return f"was stopped by signal {-status}" if status < 0 else f"ended with status {status}"


def one_line(text: str) -> str:
    """A text on one line of a log or a terminal, whatever somebody has put into it."""
    text = " ".join(text.split())
    return text if text.isprintable() else repr(text)[1:-1]


def python(*arguments: str, interpreter: str = "") -> list[str]:
    """The command of a Python that imports nothing from its working folder, a user's home or ``PYTHON*`` variables."""
    return [interpreter or sys.executable, "-I", *arguments]


def identity(user: str, group: str | int | None = None) -> dict[str, Any]:
    """What lets a child of `subprocess` be an account; nothing where we are no root, as in tests.

    Args:
        user: name of the account.
        group: of the child; None for the account's own.
    """
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    return {
        "user": account.pw_uid,
        "group": account.pw_gid if group is None else group,
        "extra_groups": [],
        "umask": 0o077,
    }


def run(
    command: list[str],
    who: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    home: str,
    given: str | IO[bytes] | None = None,
    output: IO[bytes] | None = None,
    seconds: float = QUESTION_SECONDS,
) -> Done:
    """Run a command as the service and wait for its end.

    Args:
        command: with its arguments.
        who: see `identity`.
        environment: all of its variables, besides PATH, LANG and HOME.
        home: of the account.
        given: its standard input: a text, or an open file that it may read.
        output: a file that gets what it prints, however much, in place of `Done.output`.
        seconds: it is killed, with all that it has started in its session, after that time.

    Raises:
        ActingError: it did not end in time, or said too much.
    """
    with contextlib.ExitStack() as stack:
        stdin: Any = subprocess.DEVNULL
        if isinstance(given, str):
            # In memory: it may hold secrets, and nobody has to feed a pipe.
            stdin = stack.enter_context(os.fdopen(os.memfd_create("given"), "w+b"))
            stdin.write(given.encode())
            stdin.seek(0)
        elif given is not None:
            stdin = given
        process = subprocess.Popen(
            command,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": home, **environment},
            cwd="/",
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # without our terminal
            **who,
        )
        stack.callback(end, process)
        said = listen(process, output, time.monotonic() + seconds, command)
    return Done(process.returncode, *(said[stream].decode("utf-8", "replace") for stream in ("output", "errors")))


def end(process: subprocess.Popen) -> None:
    """Let nothing of it go on: what it has started is in its session, whose number nobody else gets before this."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()


def has_ended(process: subprocess.Popen) -> bool:
    """Whether it has; its number stays its own until `end`."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def listen(
    process: subprocess.Popen, target: IO[bytes] | None, deadline: float, command: list[str]
) -> dict[str, bytearray]:
    """What a process says until it has ended, to which it is held."""
    said = {"output": bytearray(), "errors": bytearray()}
    name = os.path.basename(command[0]) if "-m" not in command else " ".join(command[command.index("-m") + 1 :][:2])
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, "output")
        selector.register(process.stderr, selectors.EVENT_READ, "errors")
        while selector.get_map():
            gone = has_ended(process)
            ready = selector.select(0 if gone else min(0.2, max(0.0, deadline - time.monotonic())))
            if gone and not ready:
                break  # others who hold its pipes open are not waited for
            if gone:
                deadline = min(deadline, time.monotonic() + REST_SECONDS)
            for key, _ in ready:
                block = os.read(key.fd, MIB)
                if not block:
                    selector.unregister(key.fileobj)
                elif key.data == "output" and target is not None:
                    target.write(block)
                else:
                    said[key.data] += block
            if max(map(len, said.values())) > OUTPUT_LIMIT:
                raise ActingError(f"{name} said more than {OUTPUT_LIMIT // MIB} MiB")
            if time.monotonic() > deadline:
                raise ActingError(f"{name} did not end in time")
    while not has_ended(process):
        if time.monotonic() > deadline:
            raise ActingError(f"{name} did not end in time")
        time.sleep(0.01)  # it has closed its pipes, and is about to end
    return said
