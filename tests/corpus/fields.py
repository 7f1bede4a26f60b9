"""Cases: header fields. Names, values, white space, folding, line ends, and what is not forwarded.

SOURCE: RFC 9112 §5, §2.2; RFC 9110 §5.1, §5.5, §5.6.2, §7.6.1.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, Outcome, answered, get, post, refused, served, shown

SYNTAX: Final = "RFC 9112 §5"
NAME: Final = "RFC 9110 §5.1"
VALUE: Final = "RFC 9110 §5.5"
OK: Final = answered(200)
STAYS: Final = answered(400)
TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BEFORE: Final = b"GET / HTTP/1.1\r\n"


def raw(name: str, lines: bytes, outcome: Outcome, *others: Outcome, source: str = SYNTAX) -> Case:
    """A GET whose header section is Host, `lines`, and the empty line."""
    return Case(f"field/{name}", BEFORE + HOST + lines + b"\r\n", source, outcome, others)


def kept(name: str, line: bytes, field: bytes, value: bytes) -> Case:
    """A POST whose field must arrive with exactly this name and value."""
    return Case(
        f"field/{name}",
        post(line, b"Content-Length: 2", body=b"hi"),
        VALUE,
        served(b"hi"),
        kept=((field, value),),
    )


BROKEN: Final = {
    "no colon": b"NoColon\r\n",
    "no colon, spaces": b"No colon here\r\n",
    "empty name": b": v\r\n",
    "colon alone": b":\r\n",
    "space before the colon": b"X : v\r\n",
    "tab before the colon": b"X\t: v\r\n",
    "space in the name": b"X Y: v\r\n",
    "space before the name": b" X: v\r\n",
    "tab before the name": b"\tX: v\r\n",
    "folded with a space": b"X: v\r\n w\r\n",
    "folded with a tab": b"X: v\r\n\tw\r\n",
    "folded, blank": b"X: v\r\n \r\n",
    "folded twice": b"X: v\r\n w\r\n x\r\n",
    "folded before the value": b"X:\r\n v\r\n",
    "folded header of its own": b"X: v\r\n Content-Length: 5\r\n",
    "bare CR in the value": b"X: a\rb\r\n",
    "bare CR before a header": b"X: a\rContent-Length: 5\r\n",
    "bare CR at the end": b"X: a\r\r\n",
    "bare CR as the line": b"\rX: a\r\n",
    "bare CR in the name": b"X\rY: a\r\n",
    "LF in the name": b"X\nY: a\r\n",
    "NUL at the end": b"X: v\0\r\n",
    "NUL alone": b"\0\r\n",
    "CR NUL LF": b"X: v\r\0\n",
    "a request line": b"GET /smuggled HTTP/1.1\r\n",
}

REPLACED: Final = {"bare CR in the value", "bare CR before a header", "bare CR at the end"}
"""A recipient may put a space for a bare CR (RFC 9112 §2.2)."""

IGNORED: Final = (*b'"(),/;<=>?@[\\]{}', *range(128, 256))
"""A recipient may drop a field whose name holds one of these; no text says what it must do."""

CASES: tuple[Case, ...] = (
    *(
        raw(name, lines, refused(400), STAYS, *((OK,) if name in REPLACED else ()))
        for name, lines in BROKEN.items()
    ),
    *(
        raw(
            f"byte {shown(byte)} in the name",
            b"X%cY: v\r\n" % byte,
            refused(400),
            STAYS,
            *((OK,) if byte in IGNORED else ()),
            source=NAME,
        )
        for byte in range(256)
        if byte not in TOKEN and byte not in b":\r\n" and (byte < 130 or byte > 253)
    ),
    *(
        raw(
            f"byte {shown(byte)} first in the name",
            b"%cX: v\r\n" % byte,
            refused(400),
            STAYS,
            *((OK,) if byte in IGNORED else ()),
            source=NAME,
        )
        for byte in (0, 1, 11, 12, 34, 40, 44, 47, 64, 91, 123, 127, 128)
    ),
    *(
        raw(
            f"byte {shown(byte)} in the value",
            b"X: a%cb\r\n" % byte,
            refused(400),
            STAYS,
            OK,
            source=VALUE,
        )
        for byte in (*range(1, 9), 11, 12, *range(14, 32), 127)
    ),
    raw("NUL in the value", b"X: a\0b\r\n", refused(400), STAYS, source=VALUE),
    *(
        raw(
            f"byte {shown(byte)} first in the value",
            b"X: %cb\r\n" % byte,
            refused(400),
            STAYS,
            *((OK,) if byte else ()),
            source=VALUE,
        )
        for byte in (0, 1, 8, 11, 12, 27, 127)
    ),
    raw("bare LF at the end", b"X: v\n", refused(400), OK, STAYS, source="RFC 9112 §2.2"),
    raw("bare LF twice at the end", b"X: v\n\n", refused(400), OK, STAYS, source="RFC 9112 §2.2"),
    raw("bare LF before a space", b"X: v\n w\r\n", refused(400), STAYS),
    raw("tab as a line", b"\t\r\n", refused(400), STAYS),
    raw("space as a line", b" \r\n", refused(400), STAYS),
    Case(
        "field/bare LF ends the head",
        BEFORE + HOST + b"\n",
        "RFC 9112 §2.2",
        refused(400),
        (OK, STAYS),
    ),
    Case(
        "field/CR CR LF ends the head",
        BEFORE + HOST + b"\r\r\n",
        "RFC 9112 §2.2",
        refused(400),
        (STAYS,),
    ),
    Case(
        "field/space before the first name",
        BEFORE + b" X: v\r\n" + HOST + b"\r\n",
        "RFC 9112 §2.2",
        refused(400),
        (OK, STAYS),
    ),
    Case(
        "field/tab before the first name",
        BEFORE + b"\tX: v\r\n" + HOST + b"\r\n",
        "RFC 9112 §2.2",
        refused(400),
        (OK, STAYS),
    ),
    *(
        raw(f"name of {chr(byte)}", b"X%cY: v\r\n" % byte, OK, source=NAME)
        for byte in b"!#$%&'*+-.^_`|~09"
    ),
    raw("name of a digit", b"0: v\r\n", OK, source=NAME),
    raw("name of all letters", TOKEN + b": v\r\n", OK, source=NAME),
    raw("colon in the value", b"X: a:b::c\r\n", OK, source=VALUE),
    raw("empty value", b"X:\r\n", OK, source=VALUE),
    raw("blank value", b"X: \t \r\n", OK, source=VALUE),
    raw(
        "value of obs-text",
        b"X: " + bytes(range(128, 256)) + b"\r\n",
        OK,
        STAYS,
        refused(400),
        source=VALUE,
    ),
    raw("value of all visible bytes", b"X: " + bytes(range(33, 127)) + b"\r\n", OK, source=VALUE),
    raw("fifty repeats of a name", b"X: v\r\n" * 50, OK, source="RFC 9110 §5.3"),
    raw("Content-Length under another name", b"Content_Length: 5\r\n", OK, STAYS, source=NAME),
    raw(
        "Transfer-Encoding under another name",
        b"Transfer_Encoding: chunked\r\n",
        OK,
        STAYS,
        source=NAME,
    ),
    raw(
        "very old header",
        b"Content-Length-X: 5\r\nX-Transfer-Encoding: chunked\r\n",
        OK,
        source=NAME,
    ),
    kept("value as sent", b"X-Plain: v", b"X-Plain", b"v"),
    kept("value without a space", b"X-Plain:v", b"X-Plain", b"v"),
    kept("value with spaces around", b"X-Plain:  v  ", b"X-Plain", b"v"),
    kept("value with tabs around", b"X-Plain:\t v \t ", b"X-Plain", b"v"),
    kept("value with spaces inside", b"X-Plain: a  b\tc", b"X-Plain", b"a  b\tc"),
    kept("value of quotes", b'X-Plain: "a\\"b", c;d=e', b"X-Plain", b'"a\\"b", c;d=e'),
    kept("value of Latin letters", b"X-Plain: caf\xe9", b"X-Plain", b"caf\xe9"),
    kept("value empty", b"X-Plain:", b"X-Plain", b""),
    kept("name with its case", b"x-PLAIN: v", b"x-PLAIN", b"v"),
    *(
        Case(
            f"field/{name} is not passed on",
            post(line, b"Content-Length: 2", body=b"hi"),
            "RFC 9110 §7.6.1",
            served(b"hi"),
            dropped=(line.split(b":")[0].lower(),),
        )
        for name, line in {
            "Keep-Alive": b"Keep-Alive: timeout=5",
            "TE": b"TE: trailers",
            "Trailer": b"Trailer: X",
            "Proxy-Authorization": b"Proxy-Authorization: Basic eDp5",
            "Proxy-Connection": b"Proxy-Connection: keep-alive",
            "Cookie": b"Cookie: secret=1",
            "Upgrade": b"Upgrade: h2c",
            "Connection": b"Connection: keep-alive",
            "Nats-Rollup": b"Nats-Rollup: all",
        }.items()
    ),
    Case(
        "field/named by Connection is not passed on",
        post(b"X-Hop: 1", b"Connection: x-hop", b"X-End: 2", b"Content-Length: 2", body=b"hi"),
        "RFC 9110 §7.6.1",
        served(b"hi"),
        kept=((b"X-End", b"2"),),
        dropped=(b"x-hop",),
    ),
    Case(
        "field/body behind many fields",
        post(*(b"X-%d: %d" % (n, n) for n in range(60)), b"Content-Length: 2", body=b"hi"),
        SYNTAX,
        served(b"hi"),
        kept=((b"X-0", b"0"), (b"X-59", b"59")),
    ),
    Case("field/none at all", BEFORE + b"\r\n", SYNTAX, refused(400), (STAYS,)),
    Case(
        "field/GET of the station",
        get(b"/stations/corpus/produce/single"),
        "RFC 9110 §15.5.6",
        answered(405, 200),
    ),
)
