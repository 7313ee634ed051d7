"""Runs a program that dies with its parent: `python tether.py PARENT_PID PROGRAM ARGUMENTS...` (Linux only).

A file to run, not to import: the request to the kernel is made after the fork by this fresh, single-threaded
interpreter, since Python code between fork and exec of a threaded process can deadlock. The kernel watches the
*thread* that started this process, so that thread must live as long as the program should.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Ask for SIGKILL at the parent's death, make sure that it still lives, become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"cannot ask for a signal at the parent's death: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent died before its child had begun")
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # the log's level: the program listens once it has started
        signal.signal(number, signal.SIG_IGN)
    os.execv(program, sys.argv[2:])  # nosec B606 # the supervisor names it


if __name__ == "__main__":
    main()
