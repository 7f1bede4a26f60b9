"""Cases: the chunked body. Sizes, extensions, line ends, the last chunk, trailers.

SOURCE: RFC 9112 §7.1, §7.1.1, §7.1.2; RFC 9110 §6.5.1.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import Case, Outcome, post, refused, served, shown

RULE: Final = "RFC 9112 §7.1"
EXTENSION: Final = "RFC 9112 §7.1.1"
TRAILER: Final = "RFC 9110 §6.5.1"
HELLO: Final = served(b"hello")
REFUSED: Final = refused(400, 413)
NOTHING: Final = Outcome((), (), closes=True)
END: Final = b"0\r\n\r\n"


def chunked(name: str, body: bytes, outcome: Outcome, *others: Outcome, source: str = RULE) -> Case:
    """A chunked POST with this body, as it stands on the wire."""
    return Case(
        f"chunk/{name}", post(b"Transfer-Encoding: chunked", body=body), source, outcome, others
    )


GOOD: Final[dict[str, tuple[bytes, bytes]]] = {
    "one": (b"5\r\nhello\r\n" + END, b"hello"),
    "two": (b"2\r\nhe\r\n3\r\nllo\r\n" + END, b"hello"),
    "one of each byte": (b"".join(b"1\r\n%c\r\n" % c for c in b"hello") + END, b"hello"),
    "hexadecimal in lower case": (b"a\r\n0123456789\r\n" + END, b"0123456789"),
    "hexadecimal in upper case": (b"A\r\n0123456789\r\n" + END, b"0123456789"),
    "mixed case": (
        b"1a\r\n" + b"x" * 26 + b"\r\n1B\r\n" + b"y" * 27 + b"\r\n" + END,
        b"x" * 26 + b"y" * 27,
    ),
    "leading zero": (b"05\r\nhello\r\n" + END, b"hello"),
    "many leading zeros": (b"0000000005\r\nhello\r\n" + END, b"hello"),
    "long last chunk": (b"5\r\nhello\r\n0000\r\n\r\n", b"hello"),
    "data of line ends": (b"4\r\n\r\n\r\n\r\n" + END, b"\r\n\r\n"),
    "data that looks like the end": (b"5\r\n0\r\n\r\n\r\n" + END, b"0\r\n\r\n"),
    "data that is a request": (
        b"26\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n\r\n" + END,
        b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
    ),
}

EXTENSIONS: Final = (
    b";a",
    b";a=b",
    b";a=b;c=d",
    b';a="b c"',
    b';a="\\""',
    b";a=b;c;d",
    b';a=""',
    b";a-b_c=1",
    b';a=";x"',
    b';a="\x80"',
)
SPACED: Final = (b" ;a", b"; a", b";a =b", b";a= b", b"\t;a", b" ; a = b")
"""Bad white space, which a recipient must parse; a strict server may still refuse it."""

ODD_EXTENSIONS: Final = (b";", b";;", b";a=b=c", b';a="b', b";a b")
EMPTY_EXTENSIONS: Final = (b";=", b";=b", b";a=")
"""No extension by the grammar; the parser below takes them, and no two parsers frame them apart."""

BAD_SIZES: Final = (
    b"",
    b" 5",
    b"+5",
    b"-5",
    b"-0",
    b"0x5",
    b"x5",
    b"5h",
    b"5x",
    b"g",
    b"5.0",
    b"5,",
    b"5 5",
    b"#5",
    b'"5"',
    b"5_0",
    b"\t5",
    b"\x005",
    b"5\x00",
    b"5\x0b",
    b"\xef\xbc\x95",
    b"5:",
    b"5=",
    b"FFFFFFFFFFFFFFFFF",
    b"10000000000000005",
    b"f" * 40,
)
SPACED_SIZES: Final = (b"5 ", b"5\t", b"5  ")
HUGE_SIZES: Final = (
    b"FFFFFFFFFFFFFFFF",
    b"FFFFFFFFFFFFFFFE",
    b"8000000000000000",
    b"7FFFFFFFFFFFFFFF",
    b"7fffffff",
    b"80000000",
    b"ffffffff",
    b"100000005",
    b"10000000",
)

BROKEN: Final = {
    "no line end behind the data": b"5\r\nhello" + END,
    "LF behind the data": b"5\r\nhello\n" + END,
    "CR behind the data": b"5\r\nhello\r" + END,
    "two CR behind the data": b"5\r\nhello\r\r\n" + END,
    "bytes behind the data": b"5\r\nhelloXX\r\n" + END,
    "size too small": b"4\r\nhello\r\n" + END,
    "size too large": b"7\r\nhello\r\n" + END,
    "spaces behind the data": b"5\r\nhello  \r\n" + END,
    "CR behind the size": b"5\rhello\r\n" + END,
    "two CR behind the size": b"5\r\r\nhello\r\n" + END,
    "CR and a byte behind the size": b"5\rXhello\r\n" + END,
    "empty line before the size": b"\r\n5\r\nhello\r\n" + END,
    "empty line between": b"2\r\nhe\r\n\r\n3\r\nllo\r\n" + END,
    "minus zero at the end": b"5\r\nhello\r\n-0\r\n\r\n",
    "letters at the end": b"5\r\nhello\r\nend\r\n\r\n",
    "no size at the end": b"5\r\nhello\r\n\r\n\r\n",
    "not chunked at all": b"hello world, this is a plain body\r\n\r\n",
    "last chunk with a bare CR": b"5\r\nhello\r\n0\r\rX",
    "trailer with a bare CR": b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
    "trailer without a colon": b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
    "trailer with an empty name": b"5\r\nhello\r\n0\r\n: v\r\n\r\n",
    "trailer with a space in its name": b"5\r\nhello\r\n0\r\nX Y: v\r\n\r\n",
    "trailer with a space before the colon": b"5\r\nhello\r\n0\r\nX : v\r\n\r\n",
    "trailer folded": b"5\r\nhello\r\n0\r\nX: v\r\n w\r\n\r\n",
    "trailer with NUL": b"5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
    "trailer with a control byte": b"5\r\nhello\r\n0\r\nX: \x07\r\n\r\n",
    "trailer that is a request": b"5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\nHost: evil\r\n\r\n",
}

LINE_FEEDS: Final = {
    "LF behind the size": b"5\nhello\r\n" + END,
    "LF in an extension": b"5;a\nhello\r\n" + END,
    "LF everywhere": b"5\nhello\n0\n\n",
    "LF behind the last size": b"5\r\nhello\r\n0\n\r\n",
    "LF at the end": b"5\r\nhello\r\n0\r\n\n",
    "LF in a trailer": b"5\r\nhello\r\n0\r\nX: v\n\r\n",
}
"""A bare LF ends a line for some recipients (RFC 9112 §2.2), which smuggles between two of them."""

TRAILERS: Final = {
    "plain": b"X-Trailer: late",
    "Host": b"Host: evil.test",
    "two Hosts": b"Host: a\r\nHost: b",
    "Content-Length": b"Content-Length: 99",
    "Transfer-Encoding": b"Transfer-Encoding: chunked",
    "bad Transfer-Encoding": b"Transfer-Encoding: x",
    "Authorization": b"Authorization: Bearer stolen",
    "Connection": b"Connection: close",
    "Upgrade": b"Connection: Upgrade\r\nUpgrade: h2c",
    "Expect": b"Expect: 100-continue",
    "Nats-Rollup": b"Nats-Rollup: all",
    "Nats-Msg-Id": b"Nats-Msg-Id: forged",
    "Content-Encoding": b"Content-Encoding: gzip",
    "empty value": b"X-Trailer:",
    "fifty": b"\r\n".join(b"X-%d: v" % n for n in range(50)),
}


FRAMING: Final = ("Content-Length", "Transfer-Encoding")
"""The parser below refuses these; a recipient may as well drop them."""


def trailer_outcome(name: str) -> Outcome:
    """What fastgw does with trailers of that kind."""
    if name.endswith(FRAMING):
        return refused(400)
    # WHY: the parser below obeys a Connection in the trailers, so the connection ends, and says so.
    return served(b"hello", closes=True) if name in ("Connection", "Upgrade") else HELLO


def trailer_names(lines: bytes) -> tuple[bytes, ...]:
    """Names that must not become fields; Host and Content-Length may be there from the head."""
    names = {line.split(b":")[0].lower() for line in lines.split(b"\r\n")}
    return tuple(sorted(names - {b"host", b"content-length", b"transfer-encoding"}))


CASES: tuple[Case, ...] = (
    *(chunked(name, body, served(data)) for name, (body, data) in GOOD.items()),
    *(
        chunked(
            f"extension {text.decode('latin-1')!a}",
            b"5%b\r\nhello\r\n0%b\r\n\r\n" % (text, text),
            HELLO,
            source=EXTENSION,
        )
        for text in EXTENSIONS
    ),
    *(
        chunked(
            f"extension {text.decode()!r}",
            b"5%b\r\nhello\r\n" % text + END,
            refused(400),
            HELLO,
            source=EXTENSION,
        )
        for text in SPACED
    ),
    *(
        chunked(
            f"odd extension {text.decode()!r}",
            b"5%b\r\nhello\r\n" % text + END,
            refused(400),
            HELLO,
            source=EXTENSION,
        )
        for text in ODD_EXTENSIONS
    ),
    *(
        chunked(
            f"empty extension {text.decode()!r}",
            b"5%b\r\nhello\r\n" % text + END,
            HELLO,
            refused(400),
            source=EXTENSION,
        )
        for text in EMPTY_EXTENSIONS
    ),
    *(
        chunked(
            f"byte {shown(byte)} in an extension",
            b"5;a%cb\r\nhello\r\n" % byte + END,
            refused(400),
            source=EXTENSION,
        )
        for byte in (0, 1, 8, 11, 12, 13, 27, 31, 127)
    ),
    chunked("folded extension", b'5;a="\r\n b"\r\nhello\r\n' + END, refused(400), source=EXTENSION),
    chunked(
        "CR in a quoted extension", b'5;a="\rb"\r\nhello\r\n' + END, refused(400), source=EXTENSION
    ),
    *(
        chunked(f"bad size {size.decode('latin-1')!a}", size + b"\r\nhello\r\n" + END, REFUSED)
        for size in BAD_SIZES
    ),
    *(
        chunked(f"size {size.decode()!r}", size + b"\r\nhello\r\n" + END, refused(400), HELLO)
        for size in SPACED_SIZES
    ),
    *(
        Case(
            f"chunk/size {size.decode()}",
            post(b"Transfer-Encoding: chunked", body=size + b"\r\nhello\r\n" + END),
            RULE,
            REFUSED,
            (NOTHING,),
            is_cut=True,
        )
        for size in HUGE_SIZES
    ),
    chunked("size of fifty digits", b"0" * 49 + b"5\r\nhello\r\n" + END, HELLO, refused(400)),
    *(chunked(name, body, refused(400)) for name, body in BROKEN.items()),
    *(chunked(name, body, refused(400), HELLO) for name, body in LINE_FEEDS.items()),
    *(
        Case(
            f"chunk/trailer {name}",
            post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n" + lines + b"\r\n\r\n"),
            TRAILER,
            trailer_outcome(name),
            (refused(400), HELLO),
            dropped=trailer_names(lines),
        )
        for name, lines in TRAILERS.items()
    ),
)
