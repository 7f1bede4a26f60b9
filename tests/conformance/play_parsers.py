"""The cases of parsers' suites over a socket, and fastgw's documented differences from them.

What enters: a server and `ParserCase`s. What leaves: a `Score`. Called by `__main__`.
A difference is told by what the bytes are, never by a case's name, so that a new case of a suite
is judged as well; docs/conformance.md gives each reason in full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.conformance.score import Score
from tests.corpus.case import Case, Outcome
from tests.corpus.wire import play

if TYPE_CHECKING:
    from tests.conformance.parsers import ParserCase
    from tests.conformance.servers import Server
    from tests.wire.raw_http import Response

TIMEOUT_S: Final = 2.0
"""LIMIT: how long a server may say nothing before a case counts as hanging."""
THREADS: Final = 8
CASES_MIN: Final = 100
"""LIMIT: either suite has more; with fewer, its files were not understood."""
GUNICORN_LINE_BYTES_MAX: Final = 4094
"""LIMIT: the smallest of gunicorn's own defaults, which its cases exceed."""


def run(suite: str, server: Server, cases: Iterable[ParserCase]) -> Score:
    """Play every case that is about a server."""
    score = Score(suite, server.name)
    played = []
    for case in cases:
        if case.skip:
            score.skipped.append((case.name, case.skip))
        else:
            played.append(case)
    with ThreadPoolExecutor(THREADS) as pool:
        problems = pool.map(lambda case: _play(server, case), played)
        for case, problem in zip(played, problems, strict=True):
            reason = find_difference(case) if problem else None
            score.note(case.name, problem, reason)
    if score.count < CASES_MIN:
        score.note("the suite itself", f"{score.count} cases read; its format has changed")
    return score


def _play(server: Server, case: ParserCase) -> str | None:
    methods = [read.method for read in case.reads]
    sent = Case(
        case.name, case.raw, "", Outcome(()), methods=tuple(methods), is_cut=case.ending == "cut"
    )
    seen, responses = play(server.address, sent, half_closes=server.is_ours, timeout_s=TIMEOUT_S)
    served = [r for r in responses if r.status < 400 and r.header("echo-probe") != "1"]
    refusals = [r for r in responses if r.status >= 400]
    if seen.trouble:
        return seen.trouble
    if not server.echoes:
        # WHY: the answer to the probe cannot be told from the others.
        is_behind = case.ending == "served" and len(served) == len(case.reads) + 1
        served = served[: len(case.reads)] if is_behind else served
    if case.ending == "any":
        return _compare(case, served[: len(case.reads)], server)
    if problem := _compare(case, served, server):
        return problem
    if case.ending == "refused" and not refusals:
        return f"not refused: {list(seen.statuses)}"
    if case.ending == "served" and refusals:
        return f"refused: {list(seen.statuses)}"
    return None


def _compare(case: ParserCase, served: list[Response], server: Server) -> str | None:
    statuses = [response.status for response in served]
    if len(served) != len(case.reads):
        return f"{len(served)} served {statuses} instead of {len(case.reads)}"
    if not server.echoes:
        return None
    for read, response in zip(case.reads, served, strict=True):
        if response.status == 204:
            continue  # OPTIONS is answered by the core itself.
        if response.header("echo-method") != read.method:
            return f"method {response.header('echo-method')} instead of {read.method}"
        if read.method != "HEAD" and case.ending != "any" and response.body != read.body:
            return f"body {response.body[:60]!r} instead of {read.body[:60]!r}"
        target = re.sub(r"^https?://[^/?]*/?", "/", read.target)
        if target.rstrip("?") != (response.header("echo-target") or "").rstrip("?"):
            return f"target {response.header('echo-target')} instead of {read.target}"
    return None


def _matches(pattern: bytes) -> Callable[[ParserCase], bool]:
    """Match a pattern with the bytes of a case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda case: compiled.search(case.raw) is not None


def _is_larger_than_gunicorn_takes(case: ParserCase) -> bool:
    return case.ending == "refused" and len(case.raw) > GUNICORN_LINE_BYTES_MAX


def _is_body_short(case: ParserCase) -> bool:
    head, _, body = case.raw.partition(b"\r\n\r\n")
    found = re.search(rb"\ncontent-length: (\d+)", head.lower())
    return case.ending == "served" and found is not None and int(found[1]) > len(body)


DIFFERENCES: Final[tuple[tuple[str, Callable[[ParserCase], bool]], ...]] = (
    ("CONNECT is 405: a gateway is no proxy", _matches(rb"^CONNECT ")),
    ("a method that is not known is refused", _matches(rb"^-BLARGH ")),
    (
        "a coding besides chunked is 501 (RFC 9112 §6.1)",
        _matches(rb"\ntransfer-encoding: *(gzip|deflate|identity)"),
    ),
    ("a target has no fragment (RFC 9112 §3.2)", _matches(rb"^[A-Z]+ \S*#")),
    ("a target is ASCII (RFC 3986 §2)", _matches(rb"^[A-Z]+ [!-~]*[\x80-\xff]")),
    (
        "user and password in a target are refused (RFC 9110 §4.2.4)",
        _matches(rb"^[A-Z]+ https?://[^/?# ]*@"),
    ),
    ("`*` is a target of OPTIONS alone (RFC 9112 §3.2.4)", _matches(rb"^M-SEARCH \* ")),
    ("only HTTP is spoken", _matches(rb"^[A-Z]+ \S+ (RTSP|ICE)/")),
    ("a request line names its version (RFC 9112 §3)", _matches(rb"^[A-Z]+ \S+\r\n")),
    (
        "white space in a chunk extension is refused by llhttp",
        _matches(rb"\n[0-9a-f]+[ \t]*;[ \t]"),
    ),
    (
        "our bounds are 8 KiB for the request line and 16 KiB for the head",
        _is_larger_than_gunicorn_takes,
    ),
    ("the body is shorter than its Content-Length", _is_body_short),
    (
        "a Host in the trailers is dropped, not refused (RFC 9110 §6.5.1)",
        _matches(rb"\n0\r\nhost:"),
    ),
    ("all empty lines before a request are skipped (RFC 9112 §2.2)", _matches(rb"^(\r\n){2}")),
    ("a repeated Content-Type is passed on", _matches(rb"\ncontent-type:.*\ncontent-type:")),
)
"""Why fastgw does otherwise, and for which cases. Only a case that fails is asked; where a peer
fails such a case, it is excused as well."""


def find_difference(case: ParserCase) -> str | None:
    """Return the reason of a documented difference, or None."""
    return next((reason for reason, applies in DIFFERENCES if applies(case)), None)
