"""Become another program: pinned to one core, and ended when the harness dies.

What enters: a core and a command line, as arguments. It replaces itself, so that the process id
that the harness knows is the program's own. Run by its path, with the interpreter's -I and -S.
WHY: not `preexec_fn`, which may deadlock when another thread (the progress display) runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Pin, tie the life to the parent, and become the program."""
    core, parent, *argv = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("the harness is gone")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 -- a list, never a shell
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error}")


if __name__ == "__main__":
    main()
