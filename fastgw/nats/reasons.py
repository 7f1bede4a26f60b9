"""Why the system refused something, in words that are the same on every event loop.

What enters: an OSError. What leaves: a short text for an error line. Called where we dial.
"""

from __future__ import annotations

import os

from fastgw.errors import clip

REASON_CHARS_MAX = 200


def os_reason(error: OSError) -> str:
    """Return the system's own words, as in "Connection refused".

    WHY not str: asyncio puts the call and the address there, uvloop the number.
    """
    # A number below zero is the resolver's, which the system's table does not know.
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return clip(error.strerror or error, REASON_CHARS_MAX) or type(error).__name__
