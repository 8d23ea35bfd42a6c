"""Kill what root has begun on the machine from outside and what that has begun, as a module whose run was given up.

Docker's children have no parent inside; the one that looks is one of them.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

parents, root = {1: 0}, set()
for status in Path("/proc").glob("[0-9]*/status"):
    with suppress(OSError):
        shown = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        pid = int(shown["Pid"])
        parents[pid] = int(shown["PPid"])
        if shown["Uid"].split()[0] == "0":
            root.add(pid)


def origin(pid: int) -> int:
    while parents.get(pid, 0) != 0:
        pid = parents[pid]
    return pid


for pid in root:
    if origin(pid) not in (1, origin(os.getpid())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
