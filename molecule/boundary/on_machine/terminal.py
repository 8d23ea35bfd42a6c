"""Run a command in a terminal of its own, as root does by hand: ``terminal.py ACCOUNT COMMAND [ARGUMENT …]``.

Prints as JSON ``{"said", "status", "seen", "reached"}``: what the command printed and how it ended, how many processes
of the account there were meanwhile that the command had started, and how those could type into the terminal, or read
what is typed there.
"""

import fcntl
import json
import os
import pty
import pwd
import select
import struct
import sys
from contextlib import suppress
from pathlib import Path

TIOCGPTN = 0x80045430  # asm-generic/ioctls.h; Python before 3.13 has no os.ptsname
account = pwd.getpwnam(sys.argv[1]).pw_uid
before = set(os.listdir("/proc"))
child, master = pty.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
terminal = f"/dev/pts/{number}"
device = os.stat(terminal).st_rdev
said, seen, reached = b"", set(), set()


def look(process: str) -> None:
    folder = Path("/proc", process)
    if folder.stat().st_uid != account:
        return
    seen.add(process)
    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    controlling = int((folder / "stat").read_text().rpartition(")")[2].split()[4])
    if controlling == device:
        reached.add(f"{words}: its controlling terminal")
    for descriptor in os.listdir(folder / "fd"):
        if os.readlink(folder / "fd" / descriptor) == terminal:
            reached.add(f"{words}: descriptor {descriptor}")


while True:
    if select.select([master], [], [], 0.01)[0]:
        try:
            part = os.read(master, 65536)
        except OSError:  # nobody has it open any more
            break
        said += part
    for name in os.listdir("/proc"):
        if name.isdigit() and name not in before:
            with suppress(OSError):
                look(name)
_, status = os.waitpid(child, 0)
found = {"said": said.decode(errors="replace"), "status": os.waitstatus_to_exitcode(status)}
print(json.dumps({**found, "seen": len(seen), "reached": sorted(reached)}))
