"""Cases: Content-Length. Digits only, one value, never beside Transfer-Encoding.

SOURCE: RFC 9110 §8.6; RFC 9112 §6.1, §6.2, §6.3.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, answered, get, post, refused, served

LENGTH: Final = "RFC 9110 §8.6"
BOTH: Final = "RFC 9112 §6.1"
CHUNKS: Final = b"5\r\nhello\r\n0\r\n\r\n"
STAYS: Final = answered(400)
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"

GOOD: Final = (b"5", b"05", b"000005", b" 5", b"\t5", b"5 ", b"5\t ", b"0" * 15 + b"5")

BAD: Final = {
    "empty": b"",
    "blank": b" ",
    "plus": b"+5",
    "minus": b"-5",
    "minus zero": b"-0",
    "fraction": b"5.0",
    "exponent": b"5e0",
    "hexadecimal": b"0x5",
    "octal": b"0o5",
    "letter behind": b"5a",
    "letters": b"five",
    "space inside": b"5 5",
    "comma": b",",
    "comma behind": b"5,",
    "comma before": b",5",
    "list of others": b"5, 6",
    "list of others without a space": b"5,6",
    "list of zero and five": b"0, 5",
    "semicolon": b"5;",
    "quotes": b'"5"',
    "underscore": b"1_0",
    "brackets": b"(5)",
    "NUL behind": b"5\0",
    "vertical tab behind": b"5\x0b",
    "form feed before": b"\x0c5",
    "full-width digit": "\N{FULLWIDTH DIGIT FIVE}".encode(),
    "Arabic digit": "\N{ARABIC-INDIC DIGIT FIVE}".encode(),
    "superscript": b"\xb9",
    "folded": b"5\r\n 0",
    "bare CR behind": b"5\r",
    "not a number": b"NaN",
    "infinity": b"inf",
    "2 ** 64": b"18446744073709551616",
    "2 ** 64 + 5": b"18446744073709551621",
    "thirty digits": b"9" * 30,
    "five hundred digits": b"9" * 500,
}

HUGE: Final = {
    "2 ** 31": b"2147483648",
    "2 ** 32 + 5": b"4294967301",
    "2 ** 63 - 1": b"9223372036854775807",
    "2 ** 63": b"9223372036854775808",
    "2 ** 64 - 1": b"18446744073709551615",
    "ten gigabytes": b"10000000000",
}

CASES: tuple[Case, ...] = (
    *(
        Case(
            f"length/value {value.decode()!r}",
            post(b"Content-Length:" + value, body=b"hello"),
            LENGTH,
            served(b"hello"),
        )
        for value in GOOD
    ),
    Case("length/zero", post(b"Content-Length: 0"), LENGTH, served(b"")),
    Case("length/zeros", post(b"Content-Length: 000"), LENGTH, served(b"")),
    Case("length/none", post(), "RFC 9112 §6.3", served(b""), (answered(411),)),
    Case(
        "length/name in upper case",
        post(b"CONTENT-LENGTH:5", body=b"hello"),
        LENGTH,
        served(b"hello"),
    ),
    Case(
        "length/two hundred zeros",
        post(b"Content-Length: " + b"0" * 200 + b"5", body=b"hello"),
        LENGTH,
        refused(413, 400),
        (served(b"hello"), STAYS),
    ),
    *(
        Case(
            f"length/{name}",
            post(b"Content-Length: " + value, body=b"hello"),
            LENGTH,
            refused(400, 413),
            # SOURCE: RFC 9112 §2.2, a recipient may put a space for a bare CR.
            (served(b"hello"),) if value.endswith(b"\r") else (),
        )
        for name, value in BAD.items()
    ),
    *(
        Case(
            f"length/{name}",
            post(b"Content-Length: " + value, body=b"hello"),
            "RFC 9110 §15.5.14",
            refused(413, 400),
            is_cut=True,
        )
        for name, value in HUGE.items()
    ),
    Case(
        "length/list of the same",
        post(b"Content-Length: 5, 5", body=b"hello"),
        LENGTH,
        refused(400),
        (served(b"hello"),),
    ),
    Case(
        "length/twice the same",
        post(*[b"Content-Length: 5"] * 2, body=b"hello"),
        LENGTH,
        refused(400),
        (served(b"hello"),),
    ),
    Case(
        "length/twice the same, apart",
        post(b"Content-Length: 5", b"X: 1", b"content-length: 5", body=b"hello"),
        LENGTH,
        refused(400),
        (served(b"hello"),),
    ),
    Case(
        "length/twice, 5 and 05",
        post(b"Content-Length: 5", b"Content-Length: 05", body=b"hello"),
        LENGTH,
        refused(400),
        (served(b"hello"),),
    ),
    Case(
        "length/twice, 5 and 6",
        post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"),
        LENGTH,
        refused(400),
    ),
    Case(
        "length/twice, 6 and 5",
        post(b"Content-Length: 6", b"Content-Length: 5", body=b"hello!"),
        LENGTH,
        refused(400),
    ),
    Case(
        "length/twice, 0 and 5",
        post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
        LENGTH,
        refused(400),
    ),
    Case(
        "length/twice, empty and 5",
        post(b"Content-Length:", b"Content-Length: 5", body=b"hello"),
        LENGTH,
        refused(400),
    ),
    Case(
        "length/twice, 5 and empty",
        post(b"Content-Length: 5", b"Content-Length:", body=b"hello"),
        LENGTH,
        refused(400),
    ),
    Case(
        "length/space before the colon",
        post(b"Content-Length : 5", body=b"hello"),
        "RFC 9112 §5.1",
        refused(400),
    ),
    Case(
        "length/1.0",
        post(b"Content-Length: 5", body=b"hello", version=b"1.0"),
        LENGTH,
        served(b"hello", closes=True),
    ),
    Case(
        "length/GET with a body",
        get(b"/", b"Content-Length: 5") + b"hello",
        "RFC 9110 §9.3.1",
        answered(200),
        (refused(400), answered(400)),
    ),
    Case(
        "length/HEAD with a body",
        get(b"/", b"Content-Length: 5", method=b"HEAD") + b"hello",
        "RFC 9110 §9.3.2",
        answered(200),
        (refused(400), answered(400)),
        methods=("HEAD",),
    ),
    Case(
        "length/OPTIONS with a body",
        get(b"/", b"Content-Length: 5", method=b"OPTIONS") + b"hello",
        "RFC 9110 §9.3.7",
        answered(204, 200),
    ),
    Case(
        "length/DELETE with a body",
        get(b"/", b"Content-Length: 5", method=b"DELETE") + b"hello",
        "RFC 9110 §9.3.5",
        answered(405, 200, 404),
        (refused(405, 400),),
    ),
    Case(
        "length/body that is a request",
        post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
        "RFC 9112 §6.3",
        served(SMUGGLED),
    ),
    Case(
        "length/body of line ends",
        post(b"Content-Length: 4", body=b"\r\n\r\n"),
        "RFC 9112 §6.3",
        served(b"\r\n\r\n"),
    ),
    Case(
        "length/body of all bytes",
        post(b"Content-Length: 256", body=bytes(range(256))),
        "RFC 9112 §6.3",
        served(bytes(range(256))),
    ),
    *(
        Case(
            f"length/beside Transfer-Encoding {name}",
            post(*lines, body=body),
            BOTH,
            refused(400),
            (served(b"hello", closes=True),),
        )
        for name, lines, body in (
            ("behind it", (b"Transfer-Encoding: chunked", b"Content-Length: 5"), CHUNKS),
            ("before it", (b"Content-Length: 5", b"Transfer-Encoding: chunked"), CHUNKS),
            ("with the right size", (b"Content-Length: 15", b"Transfer-Encoding: chunked"), CHUNKS),
            ("zero", (b"Content-Length: 0", b"Transfer-Encoding: chunked"), CHUNKS),
            ("in lower case", (b"content-length: 5", b"transfer-encoding: chunked"), CHUNKS),
        )
    ),
    *(
        Case(
            f"length/beside Transfer-Encoding {name}",
            post(*lines, body=b"hello"),
            BOTH,
            refused(400, 501),
        )
        for name, lines in (
            ("identity", (b"Content-Length: 5", b"Transfer-Encoding: identity")),
            ("gzip", (b"Content-Length: 5", b"Transfer-Encoding: gzip")),
            ("unknown", (b"Transfer-Encoding: x", b"Content-Length: 5")),
            (
                "with a space before the colon",
                (b"Content-Length: 5", b"Transfer-Encoding : chunked"),
            ),
            ("mangled", (b"Content-Length: 5", b"Transfer-Encoding: xchunked")),
        )
    ),
    Case(
        "length/beside an empty Transfer-Encoding",
        post(b"Content-Length: 5", b"Transfer-Encoding:", body=b"hello"),
        BOTH,
        refused(400, 501),
        (served(b"hello"),),
    ),
    Case(
        "length/1.0 beside Transfer-Encoding",
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=CHUNKS, version=b"1.0"),
        BOTH,
        refused(400),
    ),
    Case(
        "length/before Host",
        b"POST /stations/corpus/produce/single HTTP/1.1\r\n"
        b"Content-Length: 5\r\n" + HOST + b"\r\nhello",
        LENGTH,
        served(b"hello"),
    ),
)
