"""Cases: bounds. Each has its status, and reaching it ends the connection.

SOURCE: RFC 9110 §15.5.14, §15.5.15; RFC 6585 §5; RFC 9112 §3, §7.1.1. The sizes are fastgw's
defaults: request line 8 KiB, head 16 KiB, 100 fields, 64 KiB beside a chunked body.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, answered, get, post, refused, served

LINE: Final = "RFC 9112 §3"
HEAD: Final = "RFC 6585 §5"
BODY: Final = "RFC 9110 §15.5.14"
CHUNK: Final = "RFC 9112 §7.1.1"
OK: Final = answered(200)
TOO_LONG: Final = refused(414, 400, 431)
TOO_LARGE: Final = refused(431, 400, 413)
HELLO: Final = served(b"hello")


def fields(count: int, size: int = 1) -> tuple[bytes, ...]:
    """Header lines with values of `size` bytes."""
    return tuple(b"X-%d: %b" % (n, b"v" * size) for n in range(count))


def chunked(body: bytes) -> bytes:
    """A chunked POST."""
    return post(b"Transfer-Encoding: chunked", body=body)


CASES: tuple[Case, ...] = (
    Case("limit/target of 8000", get(b"/?" + b"a" * 7998), LINE, OK, (TOO_LONG,)),
    Case("limit/target of 9000", get(b"/?" + b"a" * 8998), "RFC 9110 §15.5.15", TOO_LONG),
    Case(
        "limit/target of 30000",
        get(b"/" + b"a" * 30000),
        "RFC 9110 §15.5.15",
        TOO_LONG,
        (refused(431),),
    ),
    Case(
        "limit/target that never ends",
        b"GET /" + b"a" * 30000,
        "RFC 9110 §15.5.15",
        TOO_LONG,
        is_cut=True,
    ),
    Case(
        "limit/method of 30000",
        b"A" * 30000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
        LINE,
        refused(400, 405, 414, 431, 501),
    ),
    Case(
        "limit/version of 30000",
        b"GET / HTTP/1." + b"1" * 30000 + b"\r\n" + HOST + b"\r\n",
        LINE,
        refused(400, 414, 431, 505),
    ),
    Case(
        "limit/spaces of 20000",
        b"GET" + b" " * 20000 + b"/ HTTP/1.1\r\n" + HOST + b"\r\n",
        LINE,
        refused(400, 414, 431),
        (OK,),
    ),
    Case("limit/value of 8000", get(b"/", b"X: " + b"v" * 8000), HEAD, OK, (TOO_LARGE,)),
    Case("limit/value of 17000", get(b"/", b"X: " + b"v" * 17000), HEAD, TOO_LARGE),
    Case("limit/value of 100000", get(b"/", b"X: " + b"v" * 100_000), HEAD, TOO_LARGE),
    Case("limit/value of spaces", get(b"/", b"X: " + b" " * 100_000), HEAD, TOO_LARGE),
    Case(
        "limit/value that never ends",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"v" * 60000,
        HEAD,
        TOO_LARGE,
        is_cut=True,
    ),
    Case("limit/name of 17000", get(b"/", b"X" * 17000 + b": v"), HEAD, TOO_LARGE),
    Case(
        "limit/name that never ends",
        b"GET / HTTP/1.1\r\n" + HOST + b"X" * 60000,
        HEAD,
        TOO_LARGE,
        is_cut=True,
    ),
    Case("limit/99 fields", get(b"/", *fields(99)), HEAD, OK),
    Case("limit/101 fields", get(b"/", *fields(100)), HEAD, TOO_LARGE, (OK,)),
    Case("limit/2000 fields", get(b"/", *fields(2000)), HEAD, TOO_LARGE),
    Case("limit/20 fields of 1000", get(b"/", *fields(20, 1000)), HEAD, TOO_LARGE, (OK,)),
    Case("limit/Host of 17000", get(host=b"Host: " + b"a" * 17000 + b"\r\n"), HEAD, TOO_LARGE),
    Case(
        "limit/body of 64 KiB",
        post(b"Content-Length: 65536", body=b"x" * 65536),
        BODY,
        served(b"x" * 65536),
    ),
    Case(
        "limit/length above the bound",
        post(b"Content-Length: 99999999", body=b"x" * 100),
        BODY,
        refused(413),
        is_cut=True,
    ),
    Case(
        "limit/chunk above the bound",
        chunked(b"5F5E0FF\r\n" + b"x" * 100),
        BODY,
        refused(400, 413),
        is_cut=True,
    ),
    Case(
        "limit/expect above the bound",
        post(b"Expect: 100-continue", b"Content-Length: 99999999"),
        BODY,
        refused(413, 417),
        is_cut=True,
    ),
    Case(
        "limit/extension of 1000",
        chunked(b"5;a=" + b"e" * 1000 + b"\r\nhello\r\n0\r\n\r\n"),
        CHUNK,
        HELLO,
        (refused(400, 413, 431),),
    ),
    Case(
        "limit/extension of 100000",
        chunked(b"5;a=" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/extension without a value of 100000",
        chunked(b"5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/extension of a last chunk",
        chunked(b"5\r\nhello\r\n0;a=" + b"e" * 100_000 + b"\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/extensions of many chunks",
        chunked((b"1;a=" + b"e" * 2000 + b"\r\nx\r\n") * 60 + b"0\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/trailer of 100000",
        chunked(b"5\r\nhello\r\n0\r\nX: " + b"t" * 100_000 + b"\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/trailers of 100000",
        chunked(b"5\r\nhello\r\n0\r\n" + b"X: t\r\n" * 17000 + b"\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/size of many zeros",
        chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"),
        CHUNK,
        refused(400, 413, 431),
    ),
    Case(
        "limit/chunks of one byte",
        chunked(b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n"),
        CHUNK,
        served(b"x" * 3000),
    ),
    Case(
        "limit/many empty lines first",
        b"\r\n" * 2000 + get(),
        "RFC 9112 §2.2",
        OK,
        (refused(400, 431),),
    ),
)
