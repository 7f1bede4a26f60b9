"""Cases: the request target in its four forms.

SOURCE: RFC 9112 §3.2; RFC 3986 §2, §3. A path that no route has is 404: the target was taken.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, Outcome, answered, get, post, refused, served, shown

FORM: Final = "RFC 9112 §3.2"
URI: Final = "RFC 3986 §3"
OK: Final = answered(200)
MISSING: Final = answered(404, 200)

TAKEN: Final[dict[bytes, Outcome]] = {
    b"/": OK,
    b"/?": OK,
    b"/?q": OK,
    b"/?q=1&r=2;s": OK,
    b"/?a?b/c:d@e": OK,
    b"/monitoring/status": OK,
    b"/monitoring/status?x=%00": OK,
    b"/monitoring/statu%73": OK,
    b"//": MISSING,
    b"///monitoring/status": MISSING,
    b"/..": MISSING,
    b"/../../etc/passwd": MISSING,
    b"/%2e%2e/x": MISSING,
    b"/a/./b": MISSING,
    b"/;p=1": MISSING,
    b"/a:b@c!$&'()*+,;=": MISSING,
    b"/%2F": MISSING,
    b"/%41%zz": MISSING,
    b"/%": MISSING,
    b"/%4": MISSING,
    b"/%C3%A9": MISSING,
    b"/%FF": MISSING,
    b"/%00": MISSING,
    b"/~_-.": MISSING,
    b"/http://gw.test/": MISSING,
    b"http://gw.test/": OK,
    b"http://gw.test": OK,
    b"http://gw.test?q": OK,
    b"http://gw.test:80/": OK,
    b"http://gw.test:/": OK,
    b"HTTP://GW.TEST/": OK,
    b"https://gw.test/": OK,
    b"http://127.0.0.1:4444/monitoring/status": OK,
    b"http://[::1]/": OK,
    b"http://[::1]:80/": OK,
    b"http://other.test/": OK,
    b"http://gw.test/monitoring/status?q=1": OK,
    b"http://gw.test//": MISSING,
}
"""Targets that the grammar, or an interoperable server, takes; bad escapes are data to us."""

LENIENT: Final = {b"/%41%zz", b"/%", b"/%4", b"/%00", b"/..", b"/../../etc/passwd", b"/%2e%2e/x"}
"""A server may as well refuse these (RFC 3986 §2.1, §6.2.2.3)."""

BAD: Final = (
    b"*",
    b"*/",
    b"*/x",
    b"**",
    b"/#",
    b"/#fragment",
    b"/?q#fragment",
    b"#",
    b"x",
    b"x/y",
    b"monitoring/status",
    b"?q",
    b"gw.test:80",
    b"gw.test",
    b":80",
    b"http:",
    b"http:/",
    b"http://",
    b"http:///",
    b"http:///path",
    b"http://?q",
    b"http://:80/",
    b"http:gw.test/",
    b"http:/gw.test/",
    b"http://gw.test:port/",
    b"http://gw.test:80:80/",
    b"http://gw.test:-1/",
    b"http://[::1/",
    b"http://::1/",
    b"http://[::g]/",
    b"http://[]/",
    b"http://gw%zz.test/",
    b"http://gw.test/#f",
    b"http://gw.test#f",
    b"http://user@gw.test/",
    b"http://user:secret@gw.test/",
    b"http://gw<.test/",
    b"http://gw\\.test/",
    b"http://gw test/",
    b"ftp://gw.test/",
    b"file:///etc/passwd",
    b"javascript:alert(1)",
    b"mailto:a@gw.test",
    b"htt p://gw.test/",
    b"://gw.test/",
    b"\\",
    b"\\\\gw\\share",
    b"[::1]",
    b"@/",
)


def bad(target: bytes) -> Case:
    """A target that must be refused; other servers may know it as a path that they have not."""
    return Case(
        f"target/bad {target.decode()}",
        get(target),
        FORM,
        refused(400, 404, 405, 421, 501),
        (answered(400, 404, 405, 421),),
    )


def target_byte(byte: int, where: str, before: bytes) -> Case:
    """One byte that no URI has."""
    return Case(
        f"target/byte {shown(byte)} in the {where}",
        get(before + bytes([byte]) + b"x"),
        URI,
        refused(400),
    )


CASES: tuple[Case, ...] = (
    *(
        Case(
            f"target/{target.decode()}",
            get(target),
            FORM,
            outcome,
            (refused(400), answered(400)) if target in LENIENT else (),
        )
        for target, outcome in TAKEN.items()
    ),
    *(bad(target) for target in BAD),
    *(target_byte(byte, "path", b"/") for byte in (*range(9), 11, 12, *range(14, 32), 127)),
    *(target_byte(byte, "query", b"/?q=") for byte in (0, 1, 9, 11, 12, 27, 31, 127)),
    *(
        Case(
            f"target/byte {shown(byte)} in the path",
            get(b"/" + bytes([byte])),
            URI,
            refused(400),
            (answered(404, 200), answered(400)),
        )
        for byte in (128, 160, 233, 255)
    ),
    Case(
        "target/UTF-8 in the path",
        get("/caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()),
        URI,
        refused(400),
        (answered(404, 200), answered(400)),
    ),
    Case(
        "target/UTF-8 in the query",
        get("/?q=\N{SNOWMAN}".encode()),
        URI,
        refused(400),
        (OK, answered(400)),
    ),
    *(
        Case(
            f"target/{chr(byte)} in the path",
            get(b"/" + bytes([byte])),
            URI,
            MISSING,
            (refused(400), answered(400)),
        )
        for byte in b'"<>\\^`{|}[]'
    ),
    Case(
        "target/asterisk for OPTIONS",
        get(b"*", method=b"OPTIONS"),
        "RFC 9112 §3.2.4",
        answered(204, 200),
    ),
    Case(
        "target/asterisk for HEAD",
        get(b"*", method=b"HEAD"),
        "RFC 9112 §3.2.4",
        refused(400, 404, 405),
        (answered(400, 404, 405),),
        methods=("HEAD",),
    ),
    Case(
        "target/asterisk for POST",
        get(b"*", method=b"POST"),
        "RFC 9112 §3.2.4",
        refused(400, 404, 405),
        (answered(400, 404, 405),),
    ),
    Case(
        "target/OPTIONS absolute",
        get(b"http://gw.test", method=b"OPTIONS"),
        "RFC 9112 §3.2.4",
        answered(204, 200),
    ),
    Case(
        "target/absolute without Host",
        get(b"http://gw.test/", host=b""),
        "RFC 9112 §3.2",
        refused(400),
        (answered(400),),
    ),
    Case(
        "target/absolute with a bad Host",
        get(b"http://gw.test/", host=b"Host: a b\r\n"),
        "RFC 9112 §3.2",
        refused(400),
        (answered(400),),
    ),
    Case(
        "target/absolute with another Host",
        get(b"http://gw.test/", host=b"Host: other\r\n"),
        "RFC 9112 §3.2.2",
        OK,
        (refused(400), answered(400)),
    ),
    Case(
        "target/absolute POST",
        b"POST http://gw.test/stations/corpus/produce/single HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 2\r\n\r\nhi",
        "RFC 9112 §3.2.2",
        served(b"hi"),
    ),
    Case(
        "target/path in the query of an absolute target",
        b"POST http://gw.test?x=/stations/corpus/produce/single HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 2\r\n\r\nhi",
        "RFC 3986 §3.2",
        answered(405, 404, 200),
        (refused(400, 405),),
    ),
    Case(
        "target/path in the query of an absolute target, GET",
        get(b"http://gw.test?x=/nothing"),
        "RFC 3986 §3.2",
        OK,
    ),
    Case(
        "target/query POST",
        b"POST /stations/corpus/produce/single?x=1 HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 2\r\n\r\nhi",
        FORM,
        served(b"hi"),
    ),
    Case(
        "target/escaped POST",
        b"POST /stations/c%6Frpus/produce/single HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 2\r\n\r\nhi",
        URI,
        served(b"hi"),
    ),
    Case("target/plain POST", post(b"Content-Length: 2", body=b"hi"), FORM, served(b"hi")),
)
