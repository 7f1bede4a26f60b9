"""Cases: the Host header, which every HTTP/1.1 request has exactly once.

SOURCE: RFC 9112 §3.2, RFC 9110 §7.2, RFC 3986 §3.2.2.
"""

from __future__ import annotations

from typing import Final

from tests.corpus.case import HOST, Case, answered, get, refused, shown

RULE: Final = "RFC 9112 §3.2"
OK: Final = answered(200)
REFUSED: Final = refused(400, 421)
STAYS: Final = answered(400, 421)
"""The framing is known, so another server may keep the connection."""

GOOD: Final = (
    b"a",
    b"GW.TEST",
    b"gw.test:4444",
    b"gw.test:80",
    b"gw.test:",
    b"gw.test:0",
    b"gw.test:65535",
    b"127.0.0.1",
    b"127.0.0.1:80",
    b"999.1.1.1",
    b"[::1]",
    b"[::1]:80",
    b"[::1]:",
    b"[2001:db8::7]",
    b"[::ffff:192.0.2.1]",
    b"xn--caf-dma.test",
    b"a_b",
    b"-a-",
    b"a.",
    b"a~b",
    b"%41.test",
    b"%e2%98%83",
    b"0.0.0.0=5000",
    b"!$&'()*+,;=",
    b"a,b",
    b"  gw.test",
    b"\tgw.test",
    b"gw.test ",
    b"gw.test\t \t",
)

CHOSEN: Final = {
    "empty": b"",
    "blank": b" \t ",
    "future address": b"[v1.fe:x]",
    "zone": b"[fe80::1%25eth0]",
    "port of six digits": b"gw.test:123456",
    "port above 65535": b"gw.test:70000",
    "port alone": b":80",
}
"""The grammar takes them; no client of a gateway means them, and a server may refuse them."""

BAD: Final = (
    b"a b",
    b"a\tb",
    b"a/",
    b"a/b",
    b"/",
    b"a?b",
    b"a#b",
    b"a@b",
    b"user:secret@gw.test",
    b"http://gw.test",
    b"gw.test:port",
    b"gw.test:80a",
    b"gw.test:8 0",
    b"gw.test: 80",
    b"gw.test :80",
    b"gw.test:80:80",
    b"gw.test:-1",
    b"gw.test:+80",
    b"gw.test:0x50",
    b"gw.test::",
    b"::1",
    b"[::1",
    b"::1]",
    b"[]",
    b"[]:80",
    b"[::1]x",
    b"[::1]80",
    b"[::1]:x",
    b"[::g]",
    b"[gw.test]",
    b"[[::1]]",
    b"a[b]",
    b"%",
    b"%4",
    b"%zz",
    b"a%",
    b'"gw.test"',
    b"<gw.test>",
    b"{gw.test}",
    b"gw\\test",
    b"a|b",
    b"a^b",
    b"a`b",
    b"\xe9.test",
    b"a, b",
    b"a b, c",
)

CASES: tuple[Case, ...] = (
    *(
        Case(
            f"host/{host.decode().replace(chr(9), '(tab)')}",
            get(host=b"Host: " + host + b"\r\n"),
            RULE,
            OK,
        )
        for host in GOOD
    ),
    *(
        Case(
            f"host/{name}",
            get(host=b"Host: " + host + b"\r\n"),
            RULE,
            OK if name in ("port above 65535",) else REFUSED,
            (REFUSED, STAYS, OK),
        )
        for name, host in CHOSEN.items()
    ),
    *(
        Case(
            f"host/bad {host.decode('latin-1').replace(chr(9), '(tab)')}",
            get(host=b"Host: " + host + b"\r\n"),
            RULE,
            REFUSED,
            (STAYS,),
        )
        for host in BAD
    ),
    *(
        Case(
            f"host/byte {shown(byte)}", get(host=b"Host: a%cb\r\n" % byte), RULE, REFUSED, (STAYS,)
        )
        for byte in (0, 1, 8, 11, 12, 14, 27, 31, 127, 128, 255)
    ),
    Case("host/none", get(host=b""), RULE, REFUSED, (STAYS,)),
    Case("host/none, other headers", get(b"/", b"Accept: */*", host=b""), RULE, REFUSED, (STAYS,)),
    Case("host/two", get(b"/", b"Host: other.test"), RULE, REFUSED, (STAYS,)),
    Case("host/twice the same", get(b"/", b"Host: gw.test"), RULE, REFUSED, (STAYS,)),
    Case(
        "host/two, apart", get(b"/", b"Accept: */*", b"host: other.test"), RULE, REFUSED, (STAYS,)
    ),
    Case("host/two, one empty", get(b"/", b"Host:"), RULE, REFUSED, (STAYS,)),
    Case("host/three", get(b"/", b"Host: b", b"Host: c"), RULE, REFUSED, (STAYS,)),
    Case(
        "host/folded", get(host=b"Host: gw\r\n .test\r\n"), "RFC 9112 §5.2", refused(400), (STAYS,)
    ),
    Case(
        "host/space before the colon",
        get(host=b"Host : gw.test\r\n"),
        "RFC 9112 §5.1",
        refused(400),
        (STAYS,),
    ),
    Case("host/name in lower case", get(host=b"host: gw.test\r\n"), "RFC 9110 §5.1", OK),
    Case("host/name in upper case", get(host=b"HOST:gw.test\r\n"), "RFC 9110 §5.1", OK),
    Case("host/last", get(host=b"Accept: */*\r\nX: 1\r\n" + HOST), RULE, OK),
    Case("host/another name alone", get(host=b"X-Host: gw.test\r\n"), RULE, REFUSED, (STAYS,)),
    Case("host/1.0 without", b"GET / HTTP/1.0\r\n\r\n", RULE, answered(200, closes=True)),
    Case(
        "host/1.0 kept alive without",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        RULE,
        OK,
        (answered(200, closes=True),),
    ),
    Case("host/1.0 with", b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", RULE, answered(200, closes=True)),
    Case("host/1.0 with two", b"GET / HTTP/1.0\r\n" + HOST * 2 + b"\r\n", RULE, REFUSED),
    Case("host/1.0 with a bad one", b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", RULE, REFUSED),
)
