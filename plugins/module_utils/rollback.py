# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""The rollback folder: files that were written and not taken up yet, and the way back to those that they replaced.

Whoever writes such files, takes them up, goes back, or wants to know goes by this module: ``managed_files``,
``mlflow_state`` and ``mlflow_removal`` of the control node's side, change, watch and backup of the machine's.

``FOLDER/manifest.json``  by the path of each file that was replaced, ``exists``, whether there was one, and ``copy``,
                          where it is then. Only the first version of a file is kept, so that however many runs were
                          killed, the way back leads to what was last in use.
``FOLDER/0``, ``1``, …    the copies, with owner, group and mode.
``FOLDER/running.json``   units of the services that ran when the first file was replaced; only ``managed_files`` goes
                          by them.
``FOLDER/change.json``    the journal of a change of the server: what it is doing (``phase``), which backup leads back,
                          and so on; see ``Journal`` of a change, which alone writes it. One that stays is of a killed
                          change.
``FOLDER.lock``           locked (flock) by whoever changes any of this.
``.FOLDER-settled``       beside it, what is left of a folder that has been settled, while it is deleted.
``.FOLDER-staged``        beside it, files that are checked before they are written, below it by their whole path.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from pathlib import Path

from . import durable, files

MANIFEST, JOURNAL, RUNNING = "manifest.json", "change.json", "running.json"


class Folder:
    """One rollback folder.

    Args:
        path: of the folder, which is there only while something is not settled.
    """

    def __init__(self, path):
        self.path = str(path)
        self.lock = self.path + ".lock"
        self.settled = os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}-settled")
        self.staged = os.path.join(os.path.dirname(self.path), f".{os.path.basename(self.path)}-staged")
        self.manifest = os.path.join(self.path, MANIFEST)
        self.journal = os.path.join(self.path, JOURNAL)
        self.running = os.path.join(self.path, RUNNING)

    def replaced(self):
        """By path, what is kept of each file that was replaced."""
        return read_json(self.manifest)

    def noted(self):
        """The journal of a change that is under way, or was killed; empty where there is none."""
        return read_json(self.journal)

    def keep(self, path):
        """Keep a file as it is now, before it is replaced, unless one is kept already."""
        kept = self.replaced()
        if path in kept:
            return
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        kept[path] = {"exists": files.kind(path) is not None}
        if kept[path]["exists"]:
            kept[path]["copy"] = os.path.join(self.path, str(len(kept) - 1))
            copy(path, kept[path]["copy"])
        write_json(self.manifest, kept)

    def note(self, journal):
        """Note what a change is doing, so that it is there after a loss of power."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        write_json(self.journal, journal)

    def ran(self, now):
        """The units that ran when the first file was replaced, which are those that run now where none has been yet."""
        if not (self.replaced() and os.path.exists(self.running)):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            write_json(self.running, sorted(now))
        return read_json(self.running)

    def forget(self):
        """Remove the journal, and leave the files as they are."""
        files.remove(self.journal)

    def put_back(self, replaced=None):
        """Put the files back as they were, those that are given or all."""
        for path, kept in (self.replaced() if replaced is None else replaced).items():
            if kept["exists"]:
                copy(kept["copy"], path)
            else:
                files.remove(path)

    def settle(self):
        """Forget the way back: from here on, what is in place counts, also after a loss of power."""
        if os.path.exists(self.path):
            files.remove(self.settled)
            durable.rename(Path(self.path), Path(self.settled))
            files.remove(self.settled)

    @contextlib.contextmanager
    def held(self):
        """Nobody else changes anything meanwhile; waits for who does."""
        with files.umask(0o022):  # the service has its files beside it
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.lock, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def wait(self):
        """Let who changes something come to an end."""
        if os.path.exists(self.lock):
            with open(self.lock, encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH)


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def write_json(path, content):
    files.write(path, json.dumps(content).encode())


def copy(source, target):
    """Copy a file with owner, group and mode, visible, also after a loss of power, only when complete."""
    if files.kind(source) is not stat.S_ISREG:
        raise files.Refusal(f"{source} is no regular file.")
    with files.opened(source) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        found = os.fstat(descriptor)
        files.write(target, file.read(), found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
