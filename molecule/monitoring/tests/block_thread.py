"""Stop one thread of a process for as long as this runs: ``block_thread.py TID``. Its other threads go on.

That is what a blocked event loop looks like from outside. See ptrace(2), PTRACE_SEIZE.
"""

import contextlib
import ctypes
import os
import sys

SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
thread = int(sys.argv[1])
if libc.ptrace(SEIZE, thread, None, None) or libc.ptrace(INTERRUPT, thread, None, None):
    sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, WALL)
print("stopped", flush=True)
with contextlib.suppress(ChildProcessError):
    os.waitpid(thread, WALL)  # until it is killed
