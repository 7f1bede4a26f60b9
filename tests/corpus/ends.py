"""Cases: the client says that it sends no more, at every point of a message.

SOURCE: RFC 9112 §8, §9.6. What came whole is answered; what was cut is answered 400 or not at all,
and never reaches the application.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import Case, Outcome, answered, get, post, served

RULE: Final = "RFC 9112 §8"
NOTHING: Final = Outcome((), (), closes=True)
CUT: Final = Outcome(((400, 408),), (), closes=True)
GET: Final = get()
LENGTH: Final = post(b"Content-Length: 5", body=b"hello")
CHUNKED: Final = post(b"Transfer-Encoding: chunked", body=b"5;a=b\r\nhello\r\n0\r\nX-T: v\r\n\r\n")
HEAD_BYTES: Final = len(CHUNKED) - len(b"5;a=b\r\nhello\r\n0\r\nX-T: v\r\n\r\n")


def cut(name: str, whole: bytes, end: int) -> Case:
    """The first `end` bytes of a request."""
    return Case(f"end/{name} cut at {end}", whole[:end], RULE, CUT, (NOTHING,), is_cut=True)


def behind_good(name: str, part: bytes) -> Case:
    """A whole request, then a part of another."""
    good = post(b"Content-Length: 3", body=b"one")
    whole = Outcome(((200,), (400, 408)), (b"one",), closes=True)
    return Case(
        f"end/good, then {name}",
        good + part,
        RULE,
        whole,
        (served(b"one", closes=True),),
        is_cut=True,
    )


CASES: tuple[Case, ...] = (
    Case("end/nothing sent", b"", RULE, NOTHING, is_cut=True),
    Case("end/an empty line", b"\r\n", RULE, NOTHING, (CUT,), is_cut=True),
    Case("end/half an empty line", b"\r", RULE, NOTHING, (CUT,), is_cut=True),
    *(cut("GET", GET, end) for end in range(1, len(GET))),
    *(cut("length", LENGTH, end) for end in range(len(LENGTH) - 9, len(LENGTH))),
    *(cut("chunked", CHUNKED, end) for end in range(HEAD_BYTES - 4, len(CHUNKED))),
    Case("end/GET whole", GET, RULE, answered(200, closes=True), is_cut=True),
    Case("end/length whole", LENGTH, RULE, served(b"hello", closes=True), is_cut=True),
    Case("end/chunked whole", CHUNKED, RULE, served(b"hello", closes=True), is_cut=True),
    Case(
        "end/three whole",
        LENGTH + CHUNKED + GET,
        RULE,
        Outcome(((200,), (200,), (200,)), (b"hello", b"hello"), closes=True),
        is_cut=True,
    ),
    Case(
        "end/whole and an empty line",
        LENGTH + b"\r\n",
        RULE,
        served(b"hello", closes=True),
        is_cut=True,
    ),
    Case(
        "end/length one short of many",
        post(b"Content-Length: 5000", body=b"x" * 4999),
        RULE,
        CUT,
        (NOTHING,),
        is_cut=True,
    ),
    Case(
        "end/HEAD whole",
        get(method=b"HEAD"),
        RULE,
        answered(200, closes=True),
        is_cut=True,
        methods=("HEAD",),
    ),
    behind_good("a letter", b"G"),
    behind_good("half a line", b"GET / HT"),
    behind_good("half a head", b"GET / HTTP/1.1\r\nHost: gw.te"),
    behind_good("half a body", LENGTH[:-2]),
    behind_good("half a chunk", CHUNKED[: HEAD_BYTES + 9]),
    behind_good("no last chunk", CHUNKED[: HEAD_BYTES + 14]),
    Case(
        "end/upgrade cut in its body",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hel"),
        RULE,
        CUT,
        (NOTHING,),
        is_cut=True,
    ),
    Case(
        "end/upgrade whole",
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5", body=b"hello"),
        RULE,
        served(b"hello", closes=True),
        is_cut=True,
    ),
    Case(
        "end/expect, no body",
        post(b"Expect: 100-continue", b"Content-Length: 5"),
        RULE,
        CUT,
        (NOTHING,),
        is_cut=True,
    ),
)
