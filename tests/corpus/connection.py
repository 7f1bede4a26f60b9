"""Cases: what becomes of the connection. Options, Expect, Upgrade, pipelining, what is behind.

SOURCE: RFC 9112 §9.3, §9.6; RFC 9110 §7.6.1, §7.8, §10.1.1.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, Outcome, answered, get, post, refused, served

PERSISTS: Final = "RFC 9112 §9.3"
CLOSES: Final = "RFC 9112 §9.6"
EXPECT: Final = "RFC 9110 §10.1.1"
UPGRADE: Final = "RFC 9110 §7.8"
PIPELINE: Final = "RFC 9112 §9.3.2"
OK: Final = answered(200)
LAST: Final = answered(200, closes=True)
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"
CHUNKED_SMUGGLED: Final = b"26\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"

OPTIONS: Final[dict[bytes, Outcome]] = {
    b"close": LAST,
    b"Close": LAST,
    b"CLOSE": LAST,
    b" close ": LAST,
    b"close\t": LAST,
    b"close, x": LAST,
    b"x, close": LAST,
    b"x,close": LAST,
    b"x ,\tclose , y": LAST,
    b"close,": LAST,
    b",close": LAST,
    b"close, keep-alive": LAST,
    b"keep-alive, close": LAST,
    b"close, TE": LAST,
    b"upgrade, close": LAST,
    b"keep-alive": OK,
    b"Keep-Alive": OK,
    b"keep-alive, x": OK,
    b"": OK,
    b",": OK,
    b"closed": OK,
    b"clos": OK,
    b"not-close": OK,
    b"x-close": OK,
    b"close-x": OK,
    b"TE": OK,
    b"Upgrade": OK,
    b"X-Unknown": OK,
    b"host": OK,
}

OLD_OPTIONS: Final[dict[bytes, Outcome]] = {
    b"close": LAST,
    b"keep-alive, close": LAST,
    b"": LAST,
    b"x": LAST,
    b"keep-alive": OK,
    b"Keep-Alive": OK,
    b"keep-alive, x": OK,
    b"x, keep-alive": OK,
}


def old(*lines: bytes) -> bytes:
    """A GET of HTTP/1.0."""
    return b"GET / HTTP/1.0\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


ONE: Final = post(b"Content-Length: 3", body=b"one")
TWO: Final = post(b"Transfer-Encoding: chunked", body=b"3\r\ntwo\r\n0\r\n\r\n")
LOST: Final = post(b"Content-Length: 4", body=b"lost")
BAD: Final = b"GET / HTTP/1.1\r\nno colon\r\n\r\n"


SAME: Final[dict[int, tuple[int, ...]]] = {204: (204, 200), 404: (404, 200), 505: (505, 400)}


def several(
    name: str,
    raw: bytes,
    *answers: int,
    bodies: tuple[bytes, ...] = (),
    closes: bool = False,
    methods: tuple[str, ...] = (),
) -> Case:
    """Several requests in one go; the answers come in their order."""
    outcome = Outcome(tuple(SAME.get(status, (status,)) for status in answers), bodies, closes)
    return Case(f"connection/pipelined {name}", raw, PIPELINE, outcome, methods=methods)


PIPELINED: Final = (
    several("two", ONE + TWO, 200, 200, bodies=(b"one", b"two")),
    several("two the other way", TWO + ONE, 200, 200, bodies=(b"two", b"one")),
    several("ten", get() * 10, *[200] * 10),
    several(
        "HEAD between",
        get() + get(method=b"HEAD") + get(),
        200,
        200,
        200,
        methods=("GET", "HEAD", "GET"),
    ),
    several("an empty line between", ONE + b"\r\n" + TWO, 200, 200, bodies=(b"one", b"two")),
    several("two empty lines between", get() + b"\r\n\r\n" + get(), 200, 200),
    several("unknown path between", get() + get(b"/nothing") + get(), 200, 404, 200),
    several("good, then no header", ONE + BAD, 200, 400, bodies=(b"one",), closes=True),
    several("good, then NUL", ONE + b"\0\0\r\n\r\n", 200, 400, bodies=(b"one",), closes=True),
    several("good, then no Host", ONE + get(host=b""), 200, 400, bodies=(b"one",), closes=True),
    several(
        "good, then two lengths",
        ONE + post(b"Content-Length: 1", b"Content-Length: 2", body=b"xy"),
        200,
        400,
        bodies=(b"one",),
        closes=True,
    ),
    several(
        "good, then a bad chunk",
        ONE + post(b"Transfer-Encoding: chunked", body=b"x\r\n\r\n"),
        200,
        400,
        bodies=(b"one",),
        closes=True,
    ),
    several(
        "good, then version 2",
        ONE + b"GET / HTTP/2.0\r\n\r\n",
        200,
        505,
        bodies=(b"one",),
        closes=True,
    ),
    several(
        "good, good, bad, good",
        ONE + TWO + BAD + LOST,
        200,
        200,
        400,
        bodies=(b"one", b"two"),
        closes=True,
    ),
    several("bad, then good", BAD + LOST, 400, closes=True),
    several("no Host, then good", get(host=b"") + LOST, 400, closes=True),
    several(
        "both framings, then good",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n") + LOST,
        400,
        closes=True,
    ),
    several("too large, then good", post(b"Content-Length: 99999999") + LOST, 413, closes=True),
    several("close, then good", get(b"/", b"Connection: close") + LOST, 200, closes=True),
    several("1.0, then good", old() + LOST, 200, closes=True),
    several(
        "1.0 kept alive, then good",
        old(b"Connection: keep-alive") + ONE,
        200,
        200,
        bodies=(b"one",),
    ).or_else(LAST),
    several(
        "good, close, good",
        ONE + post(b"Content-Length: 3", b"Connection: close", body=b"end") + LOST,
        200,
        200,
        bodies=(b"one", b"end"),
        closes=True,
    ),
    several(
        "upgrade, then good",
        get(b"/", b"Connection: Upgrade", b"Upgrade: h2c") + ONE,
        200,
        200,
        bodies=(b"one",),
    ),
    several(
        "upgrade with a body between",
        ONE
        + post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"upg")
        + TWO,
        200,
        200,
        200,
        bodies=(b"one", b"upg", b"two"),
    ),
    several("OPTIONS between", get() + get(b"*", method=b"OPTIONS") + get(), 200, 204, 200),
)

BEHIND: Final = {
    "rubbish": b"\0\1\2rubbish",
    "a line end": b"\r\n",
    "a request": LOST,
    "half a request": LOST[:20],
    "a TLS hello": b"\x16\x03\x01\x02\x00",
    "much": b"x" * 5000,
}

UPGRADES: Final = {
    "h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA"),
    "websocket": (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
    "lower case": (b"connection: upgrade", b"upgrade: h2c"),
    "two protocols": (b"Connection: keep-alive, Upgrade", b"Upgrade: h2c, websocket"),
    "TLS": (b"Connection: Upgrade", b"Upgrade: TLS/1.0"),
    "no option": (b"Upgrade: h2c",),
    "no protocol": (b"Connection: Upgrade",),
    "two headers": (b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: h2c"),
}

BROKEN_LINES: Final = {
    "two spaces after the method": b"GET  / HTTP/1.1\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\n",
    "a space behind the version": b"GET / HTTP/1.1 \r\n",
    "no version": b"GET /\r\n",
    "RTSP": b"OPTIONS / RTSP/1.0\r\n",
    "ICE": b"SOURCE / ICE/1.0\r\n",
    "a method in lower case": b"get / HTTP/1.1\r\n",
    "a bare LF": b"GET / HTTP/1.1\n",
}

LENIENT: Final = {
    "two spaces after the method",
    "two spaces before the version",
    "a space behind the version",
    "a bare LF",
}
"""A recipient may take these (RFC 9112 §2.2, §3)."""

CASES: tuple[Case, ...] = (
    *(
        Case(
            f"connection/option {value.decode()!r}",
            get(b"/", b"Connection: " + value),
            PERSISTS,
            outcome,
            () if outcome is LAST else (LAST,),
        )
        for value, outcome in OPTIONS.items()
    ),
    *(
        Case(
            f"connection/1.0 option {value.decode()!r}",
            old(b"Connection: " + value),
            PERSISTS,
            outcome,
            () if outcome is LAST else (LAST,),
        )
        for value, outcome in OLD_OPTIONS.items()
    ),
    Case("connection/1.0 without options", old(), PERSISTS, LAST),
    Case("connection/two headers", get(b"/", b"Connection: x", b"Connection: close"), CLOSES, LAST),
    Case(
        "connection/two headers, close first",
        get(b"/", b"Connection: close", b"Connection: keep-alive"),
        CLOSES,
        LAST,
    ),
    Case(
        "connection/Proxy-Connection: close",
        get(b"/", b"Proxy-Connection: close"),
        PERSISTS,
        LAST,
        (OK,),
    ),
    Case(
        "connection/close with a body",
        post(b"Connection: close", b"Content-Length: 5", body=b"hello"),
        CLOSES,
        served(b"hello", closes=True),
    ),
    Case(
        "connection/close with chunks",
        post(b"Connection: close", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        CLOSES,
        served(b"hello", closes=True),
    ),
    *PIPELINED,
    *(
        several(
            f"{before}, then {name}",
            first + line + HOST + b"Connection: keep-alive\r\n\r\n",
            200,
            400,
            bodies=bodies,
            closes=True,
        ).or_else(*((Outcome(((200,), (200,)), bodies),) if name in LENIENT else ()))
        for before, first, bodies in (
            ("GET", get(), ()),
            ("length", ONE, (b"one",)),
            ("chunks", TWO, (b"two",)),
            ("upgrade", post(*UPGRADES["h2c"], b"Content-Length: 3", body=b"upg"), (b"upg",)),
        )
        for name, line in BROKEN_LINES.items()
    ),
    *(
        Case(
            f"connection/{name} behind close",
            post(b"Connection: close", b"Content-Length: 3", body=b"end") + behind,
            CLOSES,
            served(b"end", closes=True),
        )
        for name, behind in BEHIND.items()
    ),
    *(
        Case(f"connection/{name} behind 1.0", old() + behind, CLOSES, LAST)
        for name, behind in BEHIND.items()
    ),
    *(
        Case(
            f"connection/upgrade {name} with a length",
            post(*lines, b"Content-Length: 38", body=SMUGGLED),
            UPGRADE,
            served(SMUGGLED),
            dropped=(b"upgrade", b"http2-settings", b"connection"),
        )
        for name, lines in UPGRADES.items()
    ),
    *(
        Case(
            f"connection/upgrade {name} with chunks",
            post(*lines, b"Transfer-Encoding: chunked", body=CHUNKED_SMUGGLED),
            UPGRADE,
            served(SMUGGLED),
            dropped=(b"upgrade", b"http2-settings", b"connection"),
        )
        for name, lines in UPGRADES.items()
    ),
    *(
        Case(f"connection/upgrade {name} of a GET", get(b"/", *lines), UPGRADE, OK)
        for name, lines in UPGRADES.items()
    ),
    Case(
        "connection/upgrade with close",
        post(b"Connection: Upgrade, close", b"Upgrade: h2c", b"Content-Length: 2", body=b"hi"),
        UPGRADE,
        served(b"hi", closes=True),
    ),
    Case(
        "connection/upgrade in 1.0",
        post(
            b"Connection: Upgrade",
            b"Upgrade: h2c",
            b"Content-Length: 2",
            body=b"hi",
            version=b"1.0",
        ),
        UPGRADE,
        served(b"hi", closes=True),
    ),
    Case(
        "connection/upgrade with a bad chunk",
        post(*UPGRADES["h2c"], b"Transfer-Encoding: chunked", body=b"zz\r\nhi\r\n0\r\n\r\n"),
        UPGRADE,
        refused(400),
    ),
    Case(
        "connection/upgrade with both framings",
        post(
            *UPGRADES["h2c"],
            b"Content-Length: 2",
            b"Transfer-Encoding: chunked",
            body=b"2\r\nhi\r\n0\r\n\r\n",
        ),
        UPGRADE,
        refused(400),
        (served(b"hi", closes=True),),
    ),
    Case(
        "connection/upgrade without a Host",
        post(*UPGRADES["h2c"], b"Content-Length: 2", body=b"hi", host=b""),
        UPGRADE,
        refused(400),
    ),
    *(
        Case(
            f"connection/expect {value.decode()!r}",
            post(b"Expect: " + value, b"Content-Length: 5", body=b"hello"),
            EXPECT,
            served(b"hello"),
        )
        for value in (b"100-continue", b"100-Continue", b"100-CONTINUE", b" 100-continue ")
    ),
    Case(
        "connection/expect with chunks",
        post(
            b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"
        ),
        EXPECT,
        served(b"hello"),
    ),
    Case("connection/expect without a body", get(b"/", b"Expect: 100-continue"), EXPECT, OK),
    Case(
        "connection/expect with an empty body",
        post(b"Expect: 100-continue", b"Content-Length: 0"),
        EXPECT,
        served(b""),
    ),
    Case(
        "connection/expect in 1.0",
        post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello", version=b"1.0"),
        EXPECT,
        served(b"hello", closes=True),
    ),
    *(
        Case(
            f"connection/expect {value.decode()!r}",
            post(b"Expect: " + value, b"Content-Length: 5", body=b"hello"),
            EXPECT,
            refused(417, 400),
            (served(b"hello"), answered(417)),
        )
        for value in (
            b"200-ok",
            b"100-continu",
            b"100-continue-x",
            b"x",
            b"100-continue, x",
            b"100",
        )
    ),
    Case(
        "connection/expect other, of a GET",
        get(b"/", b"Expect: x"),
        EXPECT,
        refused(417, 400),
        (OK, answered(417)),
    ),
    Case(
        "connection/expect other in 1.0",
        post(b"Expect: x", b"Content-Length: 5", body=b"hello", version=b"1.0"),
        EXPECT,
        refused(417, 400),
        (served(b"hello", closes=True),),
    ),
    Case(
        "connection/expect twice",
        post(b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        EXPECT,
        served(b"hello"),
        (refused(417, 400),),
    ),
    Case(
        "connection/expect behind another",
        ONE + post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
        EXPECT,
        served(b"one", b"hello"),
    ),
)
