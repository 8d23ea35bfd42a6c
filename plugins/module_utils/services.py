# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""Services that go by files: when one has to take them up, how it does, and how it shows that it has.

Whether a service goes by what the files say is known from the rollback folder alone, which only root can write: a file
stands there from before it is replaced until the service has answered with the new ones (see rollback.py). So a run
that is killed at any moment leaves a service that the next run has take up its files. Runs on the machine; standard
library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time

from . import files
from .host import SEARCHED, listeners, read_unit

UNITS = "/etc/systemd/system/"  # what changes below it, systemd has to read anew
COMMAND_SECONDS = 600  # systemd gives up a start or a stop before
ASKED_SECONDS = 10  # for one answer
PAUSE_SECONDS = 0.5  # between two questions
ANSWER_LIMIT = 1024 * 1024  # bytes
JOURNAL_LINES = 20


class Trouble(Exception):
    """Why a service does not take up its files; the text ends a sentence."""


def execute(command, stdin="", seconds=COMMAND_SECONDS):
    """Run a command of root's, in a folder of root's.

    Returns:
        Its exit code, -N for a signal and 127 where it can't be run; and what it has printed, errors first.
    """
    environment = {**os.environ, "PATH": SEARCHED, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, input=stdin.encode(), capture_output=True, check=False, timeout=seconds, cwd="/", env=environment
        )
    except subprocess.TimeoutExpired:
        return 124, "`%s` has not ended in %d s" % (" ".join(command[:3]), seconds)
    except OSError as error:
        return 127, "%s: %s" % (command[0], error.strerror)
    return done.returncode, "\n".join(each.decode("utf-8", "replace").strip() for each in (done.stderr, done.stdout))


def systemctl(action, *units):
    """Run systemctl; raises Trouble with what it says."""
    code, said = execute(["systemctl", action, *units])
    if code != 0:
        raise Trouble("Unable to %s %s: %s" % (action, " ".join(units) or "systemd", " ".join(said.split())))


# Before files are replaced


def check(validators, staged):
    """Have each validator look at files under other paths than those that they are to have.

    Args:
        validators: see the option `validate` of managed_files.
        staged: by a file's path, the one under which it can be read until it is in its place.

    Raises:
        Trouble: one does not take them; with what it printed, each line cleared of its `strip`.
    """
    for validator in validators:
        command = [renamed(word, staged) for word in validator["command"]]
        code, said = execute(command, validator["stdin"])
        if code != 0 and (said.strip() or code not in validator["quiet_codes"]):
            said = renamed(said, {there: path for path, there in staged.items()})
            lines = [re.sub(validator["strip"], "", line).strip() for line in said.splitlines()]
            raise Trouble("; ".join(line for line in lines if line) or "%s ends with %d" % (command[0], code))


def renamed(text, names):
    """A text in which each of the paths has another name, where it stands as a whole."""
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)
    pattern = r"(?<![\w./-])(%s)(?![\w/-]|\.\w)" % "|".join(map(re.escape, longest_first))
    return re.sub(pattern, lambda found: names[found[1]], text)


# How a service shows that it has taken them up


def answer(question):
    """What a service answers to one question, or None where it does not; see `answers` of managed_files."""
    try:
        if question["command"]:
            code, said = execute(question["command"], question["stdin"], ASKED_SECONDS)
            return said if code == 0 else None
        if question["socket"]:
            return told(question["socket"], question["send"])
        if question["address"]:
            host, _, port = question["address"].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), ASKED_SECONDS).close()
            return ""
        return "" if listeners(question["listens"]) else None
    except (OSError, files.Refusal):
        return None


def told(path, text):
    """What is said on a Unix socket until its other end closes it."""
    said, deadline = b"", time.monotonic() + ASKED_SECONDS
    with files.connect(path, ASKED_SECONDS) as there:
        there.sendall(text.encode())
        while time.monotonic() < deadline and len(said) < ANSWER_LIMIT:
            block = there.recv(65536)
            if not block:
                return said.decode("utf-8", "replace")
            said += block
    return None


def wait_for(question):
    """Wait until a service answers as it should; raises Trouble where it does not in time."""
    deadline = time.monotonic() + question["seconds"]
    while True:
        said = answer(question)
        if said is not None and re.search(question["expect"], said, re.MULTILINE):
            return
        if time.monotonic() >= deadline:
            raise Trouble(question["otherwise"])
        time.sleep(PAUSE_SECONDS)


class Service:
    """One service that goes by files.

    Args:
        asked: an entry of the option `services` of managed_files.
        pending: paths of the files that it may not go by yet.
    """

    def __init__(self, asked, pending):
        self.asked, self.unit = asked, asked["unit"]
        found = read_unit(self.unit) if self.unit else {"active": True, "enabled": True}
        self.active = found["active"]
        self.becomes_enabled = asked["enabled"] and not found["enabled"]
        if not self.active or set(asked["restart_for"]) & pending:
            self.action = "restarted"
        elif asked["due"] or pending & (pending if asked["reload_for"] is None else set(asked["reload_for"])):
            self.action = "reloaded"
        else:
            self.action = ""
        self.began = time.time()

    def act(self, action):
        """Start it anew, or have it read its files while it runs; raises Trouble."""
        if action == "restarted":
            execute(["systemctl", "reset-failed", self.unit])  # systemd starts none that it has given up
            systemctl("restart", self.unit)
        elif self.asked["reload"]:
            code, said = execute(self.asked["reload"], self.asked["stdin"])
            if code != 0:
                raise Trouble(said.strip() or "%s ends with %d" % (self.asked["reload"][0], code))
        else:
            systemctl("reload", self.unit)

    def take_up(self):
        """Have it go by the files and wait until it shows that it does; raises Trouble."""
        if self.becomes_enabled:
            systemctl("enable", self.unit)
        if self.action:
            self.act(self.action)
            for question in self.asked["answers"]:
                wait_for(question)

    def go_back(self, ran, reason):
        """Have it go by the files from before, or stop it where it did not run with them; raises Trouble.

        What it says of the new files and of these alike is no fault of the new ones: it goes on as it did.
        """
        if not ran:
            systemctl("stop", self.unit)
        elif self.action == "restarted" or (self.unit and not read_unit(self.unit)["active"]):
            self.act("restarted")
        else:
            try:
                self.act("reloaded")
            except Trouble as trouble:
                if str(trouble) != reason:
                    raise

    def reason(self, trouble):
        """Why it does not take them up: in its own last words where they say so, else as it was found."""
        if self.unit and self.asked["reason"]:
            since = "--since=@%d" % self.began
            lines = "--lines=%d" % JOURNAL_LINES
            _, said = execute(["journalctl", "--unit=" + self.unit, since, lines, "--no-pager", "--output=cat"])
            told_so = [line for line in said.splitlines() if re.search(self.asked["reason"], line)]
            return told_so[-1] if told_so else str(trouble)
        return str(trouble)


def read_units_anew(paths):
    """Have systemd read its units where some of the files are such; raises Trouble."""
    if any(path.startswith(UNITS) for path in paths):
        systemctl("daemon-reload")


def take_up(services, replaced):
    """Have each service take up its files, one after the other; raises Trouble with the reason."""
    service = None
    try:
        read_units_anew(replaced)
        for service in services:
            service.take_up()
    except Trouble as trouble:
        raise Trouble(service.reason(trouble) if service else str(trouble)) from trouble


def go_back(services, replaced, ran, reason):
    """Have all of them go by the files from before, which are in place.

    Args:
        services: those of `take_up`.
        replaced: paths of the files that are put back.
        ran: units of those that ran with them.
        reason: why they are put back.

    Returns:
        Why some don't, or the empty string.
    """
    wrong = []
    with collected(wrong):
        read_units_anew(replaced)
    for service in services:
        if service.action:
            with collected(wrong):
                service.go_back(not service.unit or service.unit in ran, reason)
    return "; ".join(wrong)


@contextlib.contextmanager
def collected(wrong):
    """Go on after a Trouble, and keep what it says."""
    try:
        yield
    except Trouble as trouble:
        wrong.append(str(trouble))
