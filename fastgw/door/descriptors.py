"""File descriptors: as many as the configuration may need, and a word when there are no more.

What enters: the number of connections that are allowed. What leaves: a raised soft limit, and a
line in the log when newcomers are refused for want of descriptors, and when they are not any more.
`server` calls the one before its workers start, the gateway the other once a second.
It must never hold a descriptor itself, nor lower a limit.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from typing import Final

log: Final = logging.getLogger("fastgw.door")

SPARE_FILES: Final = 256
"""LIMIT: what a worker opens beside its clients: listeners, the broker, files, pools' pipes."""

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE)


def raise_limit(connections_max: int) -> str | None:
    """Raise this process's soft limit, and so its workers', to what the connections need.

    Args:
        connections_max: connections of one worker.

    Returns:
        a line for the operator when the hard limit allows fewer, else None.
    """
    wanted = connections_max + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed >= wanted:
        return None
    return (
        f"this process may open {hard} files, but limits.connections_max is {connections_max}; "
        f"raise the limit (ulimit -Hn, LimitNOFILE) to {wanted}"
    )


class Descriptors:
    """Whether this process can open one more file; the event loop accepts nobody without one."""

    def __init__(self) -> None:
        self.is_exhausted = False

    def look(self) -> bool:
        """Try, and tell in the log what has changed. Returns whether there are none left."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            if not self.is_exhausted:
                log.warning(
                    "cannot accept new clients: %s (limit %d); those connected go on",
                    error.strerror,
                    resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                )
            self.is_exhausted = True
            return True
        if self.is_exhausted:
            log.warning("new clients are accepted again")
        self.is_exhausted = False
        return False
