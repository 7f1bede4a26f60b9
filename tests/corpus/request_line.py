"""Cases: the request line. Method, spaces, version, line end, empty lines before it.

SOURCE: RFC 9112 §2.2, §2.3, §3; RFC 9110 §2.5, §9.1, §15.6.2.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, Outcome, answered, get, post, refused, served, shown

LINE: Final = "RFC 9112 §3"
VERSION: Final = "RFC 9112 §2.3"
METHOD: Final = "RFC 9110 §9.1"
ENDS: Final = "RFC 9112 §2.2"

OK: Final = answered(200)
UNKNOWN: Final = (
    refused(400, 405, 501),
    answered(400, 404, 405, 501),
    answered(200, 204),
    refused(200),
)
"""A method that nobody knows: 501 is recommended, every refusal is allowed (RFC 9110 §9.1); an
application that takes any method is as good."""


def line(name: str, first: bytes, outcome: Outcome, *others: Outcome, source: str = LINE) -> Case:
    """A request with `first` as its first line, CR LF included."""
    return Case(f"line/{name}", first + HOST + b"\r\n", source, outcome, others)


BROKEN: Final = {
    "two spaces after the method": b"GET  / HTTP/1.1\r\n",
    "two spaces before the version": b"GET /  HTTP/1.1\r\n",
    "tab after the method": b"GET\t/ HTTP/1.1\r\n",
    "tab before the version": b"GET /\tHTTP/1.1\r\n",
    "vertical tab after the method": b"GET\x0b/ HTTP/1.1\r\n",
    "form feed before the version": b"GET /\x0cHTTP/1.1\r\n",
    "carriage return after the method": b"GET\r/ HTTP/1.1\r\n",
    "carriage return before the version": b"GET /\rHTTP/1.1\r\n",
    "space and tab before the version": b"GET / \tHTTP/1.1\r\n",
    "space before the method": b" GET / HTTP/1.1\r\n",
    "tab before the method": b"\tGET / HTTP/1.1\r\n",
    "space behind the version": b"GET / HTTP/1.1 \r\n",
    "tab behind the version": b"GET / HTTP/1.1\t\r\n",
    "word behind the version": b"GET / HTTP/1.1 x\r\n",
    "no spaces": b"GET/HTTP/1.1\r\n",
    "no target": b"GET HTTP/1.1\r\n",
    "empty target": b"GET  HTTP/1.1\r\n",
    "no method": b"/ HTTP/1.1\r\n",
    "empty method": b" / HTTP/1.1\r\n",
    "method alone": b"GET\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\n",
    "NUL first": b"\0GET / HTTP/1.1\r\n",
    "byte order mark first": b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
    "a colon": b"GET: / HTTP/1.1\r\n",
    "a response": b"HTTP/1.1 200 OK\r\n",
    "two carriage returns at the end": b"GET / HTTP/1.1\r\r\n",
    "bare carriage return at the end": b"GET / HTTP/1.1\r",
    "header line first": b"Host: x\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP": b"EHLO mail.test\r\n",
}

LENIENT: Final = {
    "two spaces after the method",
    "two spaces before the version",
    "tab after the method",
    "tab before the version",
    "vertical tab after the method",
    "form feed before the version",
    "carriage return after the method",
    "carriage return before the version",
    "space and tab before the version",
    "space before the method",
    "tab before the method",
    "space behind the version",
    "tab behind the version",
    "two carriage returns at the end",
}
"""A recipient may take any white space for the one space (RFC 9112 §3); strict ones do not."""

VERSIONS_REFUSED: Final = {
    "HTTP/0.9": (505, 400),
    "HTTP/0.0": (400, 505),
    "HTTP/2.0": (505, 400),
    "HTTP/2": (400, 505),
    "HTTP/3.0": (400, 505),
    "HTTP/9.9": (400, 505),
    "HTTP/1": (400, 505),
    "HTTP/1.": (400,),
    "HTTP/.1": (400,),
    "HTTP/": (400,),
    "HTTP": (400,),
    "HTTP/1.1.1": (400,),
    "HTTP/1.10": (400, 505),
    "HTTP/11.1": (400, 505),
    "HTTP/01.1": (400, 505),
    "HTTP/1.01": (400, 505),
    "HTTP/1,1": (400,),
    "HTTP/1:1": (400,),
    "HTTP/+1.1": (400,),
    "HTTP/-1.1": (400,),
    "HTTP/1.-1": (400,),
    "HTTP/0x1.1": (400,),
    "HTTP/1.1x": (400,),
    "HTTP/1.a": (400,),
    "HTTP/a.1": (400,),
    "HTTP/ 1.1": (400,),
    "HTTP /1.1": (400,),
    "HTTP\\1.1": (400,),
    "http/1.1": (400, 505),
    "Http/1.1": (400, 505),
    "HTPP/1.1": (400,),
    "XHTTP/1.1": (400,),
    "HTTPS/1.1": (400,),
    "RTSP/1.0": (400,),
    "ICE/1.0": (400,),
    "SIP/2.0": (400,),
    "HTTP/1.\N{SUPERSCRIPT ONE}": (400,),
}

METHODS_NOT_SERVED: Final = [
    "DELETE",
    "PATCH",
    "PUT",
    "POST",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "SEARCH",
    "REPORT",
    "MERGE",
    "BIND",
    "LINK",
    "UNLINK",
    "PURGE",
    "SUBSCRIBE",
    "NOTIFY",
    "M-SEARCH",
    "ACL",
]

METHODS_UNKNOWN: Final = [
    "get",
    "Get",
    "gET",
    "post",
    "FOO",
    "BREW",
    "GETX",
    "G",
    "GE",
    "SECRET",
    "PRIX",
    "X-CUSTOM",
    "!#$%&'*+-.^_`|~",
    "123",
    "ANNOUNCE",
    "DESCRIBE",
    "SETUP",
    "PLAY",
    "TEARDOWN",
]

NOT_TOKENS: Final = b'"(),/:;<=>?@[\\]{}'

CASES: tuple[Case, ...] = (
    line("GET", b"GET / HTTP/1.1\r\n", OK),
    Case("line/HEAD", get(method=b"HEAD"), METHOD, OK, methods=("HEAD",)),
    Case("line/OPTIONS", get(method=b"OPTIONS"), METHOD, answered(204, 200)),
    Case("line/POST", post(b"Content-Length: 2", body=b"hi"), METHOD, served(b"hi")),
    *(
        line(name, first, refused(400), *((OK,) if name in LENIENT else ()))
        for name, first in BROKEN.items()
    ),
    *(
        line(
            f"version {version}",
            b"GET / %b\r\n" % version.encode(),
            refused(*statuses),
            source=VERSION,
        )
        for version, statuses in VERSIONS_REFUSED.items()
    ),
    line("version 1.2", b"GET / HTTP/1.2\r\n", refused(400, 505), OK, source="RFC 9110 §2.5"),
    line("version 1.9", b"GET / HTTP/1.9\r\n", refused(400, 505), OK, source="RFC 9110 §2.5"),
    line("no version", b"GET /\r\n", refused(400), source=VERSION),
    line("no version, a space", b"GET / \r\n", refused(400), source=VERSION),
    line("SOURCE of ICE", b"SOURCE / ICE/1.0\r\n", refused(400, 405, 501), source=VERSION),
    line("OPTIONS of RTSP", b"OPTIONS / RTSP/1.0\r\n", refused(400), source=VERSION),
    line("DESCRIBE of RTSP", b"DESCRIBE / RTSP/1.0\r\n", refused(400, 405, 501), source=VERSION),
    *(
        Case(
            f"line/method {method}",
            get(method=method.encode()),
            METHOD,
            answered(405, 404, 501, 200),
            (refused(405, 501, 400, 404, 200),),
        )
        for method in METHODS_NOT_SERVED
    ),
    *(
        Case(f"line/method {method}", get(method=method.encode()), METHOD, UNKNOWN[0], UNKNOWN[1:])
        for method in METHODS_UNKNOWN
    ),
    *(
        line(
            f"byte {shown(byte)} in the method",
            b"GE%cT / HTTP/1.1\r\n" % byte,
            refused(400, 405, 501),
        )
        for byte in (*range(1, 10), 11, 12, *range(14, 32), *NOT_TOKENS, 127, 128, 255)
    ),
    line("NUL in the method", b"GE\0T / HTTP/1.1\r\n", refused(400)),
    line("method of 100 letters", b"A" * 100 + b" / HTTP/1.1\r\n", *UNKNOWN),
    Case(
        "line/CONNECT authority",
        get(b"gw.test:80", method=b"CONNECT"),
        "RFC 9110 §9.3.6",
        refused(405, 400, 501),
        (answered(404, 405, 501),),
    ),
    Case(
        "line/CONNECT path",
        get(b"/", method=b"CONNECT"),
        "RFC 9110 §9.3.6",
        refused(405, 400, 501),
        (answered(404, 405, 501),),
    ),
    Case(
        "line/CONNECT without a port",
        get(b"gw.test", method=b"CONNECT"),
        "RFC 9110 §9.3.6",
        refused(405, 400, 501),
        (answered(404, 405, 501),),
    ),
    Case(
        "line/CONNECT with a body",
        get(b"gw.test:80", b"Content-Length: 3", method=b"CONNECT") + b"abc",
        "RFC 9110 §9.3.6",
        refused(405, 400, 501),
    ),
    Case(
        "line/preface of HTTP 2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "RFC 9113 §3.4",
        refused(400, 405, 501, 505),
    ),
    Case("line/one empty line first", b"\r\n" + get(), ENDS, OK),
    Case("line/five empty lines first", b"\r\n" * 5 + get(), ENDS, OK, (refused(400),)),
    Case("line/bare LF first", b"\n" + get(), ENDS, OK, (refused(400),)),
    Case("line/line of a space first", b" \r\n" + get(), ENDS, refused(400)),
    Case("line/bare CR first", b"\r" + get(), ENDS, OK, (refused(400),)),
    line("bare LF at the end", b"GET / HTTP/1.1\n", refused(400), OK, source=ENDS),
    Case(
        "line/bare LF everywhere", b"GET / HTTP/1.1\nHost: gw.test\n\n", ENDS, refused(400), (OK,)
    ),
)
