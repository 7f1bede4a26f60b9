"""What every answer of the gateway must look like, read strictly.

What enters: all bytes that one connection was sent, and the methods of the requests on it.
What leaves: the answers, or an AssertionError that names the rule.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fastgw.errors import KINDS

HEAD = re.compile(
    rb"HTTP/1\.1 (\d\d\d) [A-Za-z' -]+\r\n((?:[A-Za-z-]+: [\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
# WHY: 500 says that the gateway has a defect, and is none of these.
STATUSES = frozenset({200, 202, 204, 404} | {kind.status for kind in KINDS.values()}) - {500}


class Answered(NamedTuple):
    """One final answer."""

    status: int
    is_last: bool
    body: bytes


def read_answers(data: bytes, methods: list[bytes]) -> list[Answered]:
    """Read every answer; raise when a byte is left over or out of place."""
    found: list[Answered] = []
    at = 0
    while at < len(data):
        assert not (found and found[-1].is_last), f"bytes behind the last answer: {data[at:]!r}"
        head = HEAD.match(data, at)
        assert head is not None, f"not the head of an answer: {data[at : at + 200]!r}"
        at = head.end()
        status, block = int(head[1]), head[2]
        if status == 100:
            assert not block, f"headers on a 100: {block!r}"
            continue
        assert status in STATUSES, f"status {status} is none of ours"
        assert (b"\r\n" + block).count(b"\r\nDate: ") == 1, f"an answer without one Date: {block!r}"
        sizes = re.findall(rb"(?m)^Content-Length: (\d+)\r$", block)
        assert len(sizes) == (status != 204), f"{status} with {len(sizes)} lengths"
        size = int(sizes[0]) if sizes else 0
        is_broken = status >= 400 and b"Connection: close\r\n" in block
        if len(found) < len(methods) and methods[len(found)] == b"HEAD":
            # WHY: a target that the parser refuses at once is answered before the method is read.
            size = size if is_broken and len(data) - at == size else 0
        elif is_broken and at == len(data):
            # WHY: a HEAD whose head is broken is told so without a body, and is in no list.
            size = 0
        assert len(data) - at >= size, "an answer is shorter than it says"
        found.append(Answered(status, b"Connection: close\r\n" in block, data[at : at + size]))
        at += size
    return found
