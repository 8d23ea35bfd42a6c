"""Locks of files, by which the programs of one machine wait for each other."""

import fcntl
import time
from typing import IO

POLL_SECONDS = 0.1


def take(file: IO | int, seconds: float) -> bool:
    """Lock an open file, until it is closed; returns whether that could be done in so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)  # flock(2) can wait by itself, but only for ever
        else:
            return True
