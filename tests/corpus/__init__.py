"""The in-house corpus of requests: what is on the wire, and what must come of it.

Each module is a table of one area. `CASES` are all of them; a name is `area/words`, unique.
The runners: tests/wire/test_wire_corpus.py (the compiled core at splits, and a real gateway) and
`python -m tests.conformance` (every split, other servers beside ours).
"""

from __future__ import annotations

from tests.corpus import (
    chunks,
    codings,
    connection,
    ends,
    fields,
    hosts,
    lengths,
    limits,
    request_line,
    targets,
)
from tests.corpus.case import PROBE, TARGET, Case, Outcome, check_names

AREAS: dict[str, tuple[Case, ...]] = {
    "request line": request_line.CASES,
    "targets": targets.CASES,
    "hosts": hosts.CASES,
    "fields": fields.CASES,
    "lengths": lengths.CASES,
    "codings": codings.CASES,
    "chunks": chunks.CASES,
    "connection": connection.CASES,
    "ends": ends.CASES,
    "limits": limits.CASES,
}
CASES = check_names(tuple(case for cases in AREAS.values() for case in cases))

__all__ = ["AREAS", "CASES", "PROBE", "TARGET", "Case", "Outcome"]
