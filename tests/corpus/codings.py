"""Cases: Transfer-Encoding, in all the ways of writing it that two servers may read differently.

SOURCE: RFC 9112 §6.1, §6.3, §7; RFC 9110 §5.6.1.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import Case, answered, get, post, refused, served

RULE: Final = "RFC 9112 §6.1"
LISTS: Final = "RFC 9110 §5.6.1"
CHUNKS: Final = b"5\r\nhello\r\n0\r\n\r\n"
SERVED: Final = served(b"hello")
REFUSED: Final = refused(400, 501)
NOT_IMPLEMENTED: Final = refused(501, 400)

GOOD: Final = (
    b" chunked",
    b"chunked",
    b" Chunked",
    b" CHUNKED",
    b" cHuNkEd",
    b"\tchunked",
    b" chunked ",
)

EMPTY_ELEMENTS: Final = {
    b"chunked,": REFUSED,
    b",chunked": NOT_IMPLEMENTED,
    b"chunked, ": REFUSED,
    b", chunked": NOT_IMPLEMENTED,
    b"chunked,,": REFUSED,
    b" ,chunked,": REFUSED,
}
"""A recipient should skip empty elements; a server behind proxies had better refuse them."""

TABS_BEHIND: Final = (b" chunked\t", b"  \t chunked \t ")
"""White space that the grammar allows; the parser below refuses a tab there, which harms nobody."""

BAD: Final = (
    b"",
    b" ",
    b"chunked, identity",
    b"chunked, chunked",
    b"chunked,chunked",
    b"chunked, gzip",
    b"chunked, x",
    b"chunked\x00",
    b"\x00chunked",
    b"chunked\x0b",
    b"\x0bchunked",
    b"\x0cchunked",
    b"chunked\x0c",
    b"\x1fchunked",
    b"chunked\x7f",
    b"chunked\r",
    b"\r\n chunked",
    b"chunked\r\n ",
    b"chunked\n",
    b"chunked, trailers",
)
"""The framing is broken."""

UNKNOWN: Final = (
    b",",
    b"identity",
    b"Identity",
    b"identity, chunked",
    b"chunked chunked",
    b"gzip",
    b"deflate",
    b"compress",
    b"br",
    b"x",
    b"gzip, chunked",
    b"gzip,chunked",
    b"x, chunked",
    b"chunked;q=1",
    b"chunked;",
    b"chunked; a=b",
    b"chunked ;a=b",
    b";chunked",
    b'"chunked"',
    b"'chunked'",
    b"chunke",
    b"chunkedd",
    b"xchunked",
    b"x-chunked",
    b"chunked-x",
    b"chunk",
    b"chu nked",
    b"c,hunked",
    b"\xa0chunked",
    b"chunked\xa0",
    b"\xffchunked",
    b"ch\xc3\xbcnked",
    "chun\N{KELVIN SIGN}ed".encode(),
    b"chunked/1",
    b"chunked=1",
    b"=chunked",
    b":chunked",
    b"[chunked]",
    b"trailers",
    b"5",
)
"""Some coding that is not implemented, as far as one can tell."""


def coded(value: bytes) -> bytes:
    """A POST in two chunks under this value."""
    return post(b"Transfer-Encoding: " + value, body=CHUNKS)


TWO: Final = {
    "chunked twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked and identity": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "identity and chunked": (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
    "gzip and chunked": (b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
    "chunked and gzip": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"),
    "chunked and x": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
    "x and chunked": (b"Transfer-Encoding: x", b"transfer-encoding: chunked"),
    "apart": (b"Transfer-Encoding: chunked", b"X: 1", b"TRANSFER-ENCODING: x"),
}

CASES: tuple[Case, ...] = (
    *(
        Case(
            f"coding/value {value.decode()!r}",
            post(b"Transfer-Encoding:" + value, body=CHUNKS),
            RULE,
            SERVED,
        )
        for value in GOOD
    ),
    Case(
        "coding/name in lower case", post(b"transfer-encoding: chunked", body=CHUNKS), RULE, SERVED
    ),
    Case(
        "coding/name in upper case", post(b"TRANSFER-ENCODING: chunked", body=CHUNKS), RULE, SERVED
    ),
    Case(
        "coding/empty body",
        post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        RULE,
        served(b""),
    ),
    *(
        Case(f"coding/empty element {value.decode()!r}", coded(value), LISTS, outcome, (SERVED,))
        for value, outcome in EMPTY_ELEMENTS.items()
    ),
    *(
        Case(
            f"coding/tab behind {value.decode()!r}",
            post(b"Transfer-Encoding:" + value, body=CHUNKS),
            RULE,
            REFUSED,
            (SERVED,),
        )
        for value in TABS_BEHIND
    ),
    *(
        Case(f"coding/bad {value.decode('latin-1')!a}", coded(value), RULE, REFUSED).or_else(
            # SOURCE: RFC 9112 §2.2, a recipient may put a space for a bare CR.
            *((SERVED,) if value.endswith(b"\r") else ())
        )
        for value in BAD
    ),
    *(
        Case(f"coding/unknown {value.decode('latin-1')!a}", coded(value), RULE, NOT_IMPLEMENTED)
        for value in UNKNOWN
    ),
    *(
        Case(
            f"coding/two headers: {name}",
            post(*lines, body=CHUNKS),
            "RFC 9112 §6.3",
            NOT_IMPLEMENTED if name.endswith("and chunked") else REFUSED,
        )
        for name, lines in TWO.items()
    ),
    Case(
        "coding/two headers: chunked and empty",
        post(b"Transfer-Encoding: chunked", b"Transfer-Encoding:", body=CHUNKS),
        LISTS,
        REFUSED,
        (SERVED,),
    ),
    Case(
        "coding/two headers: empty and chunked",
        post(b"Transfer-Encoding:", b"Transfer-Encoding: chunked", body=CHUNKS),
        LISTS,
        REFUSED,
        (SERVED,),
    ),
    Case(
        "coding/space before the colon",
        post(b"Transfer-Encoding : chunked", body=CHUNKS),
        "RFC 9112 §5.1",
        refused(400),
    ),
    Case(
        "coding/folded",
        post(b"Transfer-Encoding:", b" chunked", body=CHUNKS),
        "RFC 9112 §5.2",
        refused(400),
    ),
    Case(
        "coding/folded behind another",
        post(b"X: y", b" Transfer-Encoding: chunked", body=CHUNKS),
        "RFC 9112 §5.2",
        refused(400),
    ),
    Case(
        "coding/1.0",
        post(b"Transfer-Encoding: chunked", body=CHUNKS, version=b"1.0"),
        RULE,
        refused(400),
        (served(b"hello", closes=True),),
    ),
    Case(
        "coding/1.0 kept alive",
        post(b"Transfer-Encoding: chunked", b"Connection: keep-alive", body=CHUNKS, version=b"1.0"),
        RULE,
        refused(400),
        (served(b"hello", closes=True),),
    ),
    Case(
        "coding/1.0 identity",
        post(b"Transfer-Encoding: identity", version=b"1.0"),
        RULE,
        NOT_IMPLEMENTED,
    ),
    Case(
        "coding/GET with a chunked body",
        get(b"/", b"Transfer-Encoding: chunked") + CHUNKS,
        "RFC 9110 §9.3.1",
        answered(200),
        (refused(400), answered(400)),
    ),
    Case(
        "coding/GET chunked, empty",
        get(b"/", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        "RFC 9110 §9.3.1",
        answered(200),
        (refused(400), answered(400)),
    ),
    Case(
        "coding/GET of identity", get(b"/", b"Transfer-Encoding: identity"), RULE, NOT_IMPLEMENTED
    ),
    Case(
        "coding/HEAD with a chunked body",
        get(b"/", b"Transfer-Encoding: chunked", method=b"HEAD") + CHUNKS,
        "RFC 9110 §9.3.2",
        answered(200),
        (refused(400), answered(400)),
        methods=("HEAD",),
    ),
    Case(
        "coding/TE is another header",
        post(b"TE: chunked", b"Content-Length: 5", body=b"hello"),
        "RFC 9110 §10.1.4",
        SERVED,
    ),
)
