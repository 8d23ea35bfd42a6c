# Copyright the authors of this repository
# SPDX-License-Identifier: Apache-2.0
"""A question to a SQLite database that somebody else can write, asked under the account that owns the file.

What is in such a file decides what SQLite does, and files of root's beside it would keep its owner's programs out.
Standard library only, for Python 3.8 and later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from ansible_collections.mlops.mlflow.plugins.module_utils import files

SECONDS = 10.0
ANSWER_LIMIT = 65536  # bytes
# Where the owner may not enter the folder any more, it is told what the file holds by a descriptor.
PROGRAM = """
import json, os, sqlite3, sys, urllib.parse
path, descriptor, query = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def there():
    return sqlite3.connect("file:%s?mode=ro" % urllib.parse.quote(path), uri=True, timeout=5)

def given():
    if os.fstat(descriptor).st_size > 128 * 1024 * 1024:
        raise sqlite3.OperationalError("its owner may not enter its folder")
    content = bytearray(os.pread(descriptor, 128 * 1024 * 1024, 0))
    content[18:20] = b"\\1\\1"  # without a log beside it; see https://sqlite.org/fileformat2.html
    connection = sqlite3.connect(":memory:")
    connection.deserialize(bytes(content))
    return connection

for source in (there, given):
    try:
        print(json.dumps({"row": source().execute(query).fetchone()}))
        break
    except (sqlite3.Error, AttributeError, MemoryError) as error:
        said = said if source is given and "unable to open" not in said else str(error)
else:
    print(json.dumps({"error": said}))
"""


class Unanswered(Exception):
    """Why there is no answer; the text is a phrase."""


def ask(path: str, query: str) -> list | None:
    """The first row of an answer; None where it has none.

    Args:
        path: of the database's file, which is there.
        query: one statement.

    Raises:
        Unanswered: the file is no database, has no such table, or its owner's program does not answer.
        files.Refusal: it is a link, or otherwise none that a server has written.
    """
    with files.opened(path) as descriptor:
        owner = os.fstat(descriptor)

        def become() -> None:
            os.setsid()
            if os.geteuid() == 0 and owner.st_uid != 0:
                os.setgroups([])
                os.setgid(owner.st_gid)
                os.setuid(owner.st_uid)

        os.set_inheritable(descriptor, True)
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", PROGRAM, path, str(descriptor), query],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            preexec_fn=become,  # noqa: PLW1509 - no thread runs here yet, and `user` is none of Python 3.8's options
            cwd="/",
        )
        timer = threading.Timer(SECONDS, child.kill)
        timer.start()
        try:
            said = child.stdout.read(ANSWER_LIMIT)
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close()
    try:
        answer = json.loads(said)
        row = answer.get("row")
    except (ValueError, AttributeError, RecursionError):
        raise Unanswered("its owner's program does not answer") from None
    if "row" not in answer or not (row is None or isinstance(row, list)):
        raise Unanswered(" ".join(str(answer.get("error")).split())[:200])
    return row
