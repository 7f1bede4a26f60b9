"""Become another program: pinned to its cores, and ended when the harness dies.

What enters: cores ("0" or "0,1") and a command line, as arguments. It replaces itself, so that the
process id that the harness knows is the program's own. Run by its path, with the interpreter's -I
and -S. As many files may be open as the system allows, for runs with 10,000 connections.
WHY: not `preexec_fn`, which may deadlock when another thread (the progress display) runs.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Pin, raise the bound on open files, tie the life to the parent, and become the program."""
    cores, parent, *argv = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the harness is gone")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 -- a list, never a shell
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error}")


if __name__ == "__main__":
    main()
