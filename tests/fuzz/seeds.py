"""Where the fuzzers start: inputs of each target, and the words of each format.

What enters: the corpora under tests/corpus, when they are there, and the seeds written here.
What leaves: for each target a tuple of inputs in the target's own form (choice bytes in front).
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from typing import TYPE_CHECKING, Final

from tests.unit.dialogue import BATCH, HEAD, request

if TYPE_CHECKING:
    from collections.abc import Callable

CASE_BYTES_MAX: Final = 4000

JSON_WORDS: Final = (
    b"[", b"]", b"{", b"}", b'"', b"\\u00e9", b"\\ud800", b"\\", b"null", b"true", b"false", b"-0",
    b"1e5", b"0.5", b"1E-400", b"\xef\xbb\xbf", b"\xc3\xa9", b"\xff", b"NaN", b"[[[[[[[[[[[[[[[[",
    b'{"a":', b",\n", b"\r\n", b"123456789012345678901234567890", b'"name":', b'"age":',
)  # fmt: skip
HTTP_WORDS: Final = (
    b"\r\n", b"\r\n\r\n", b"\n", b"GET ", b"POST ", b"OPTIONS * ", b"CONNECT ", b"HEAD ", b"PRI * ",
    b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b"http://gateway", b"?subject=a.b",
    b"?results=true", b"?wait=false", b"?access_token=good", b"Host: a\r\n", b"Host: [::1]:80\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive, X-A\r\n", b"Connection: Upgrade\r\n",
    b"Upgrade: h2c\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: ", b"Trailer: X\r\n", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b";ext=1", b"Expect: 100-continue\r\n", b"Authorization: Bearer good\r\n",
    b"Nats-Msg-Id: 1\r\n", b"Nats-Rollup: all\r\n", b"Nats-TTL: 5\r\n", b"Fastgw-Subject: a\r\n",
    b"nats-expected-last-msg-id: 7\r\n", b"Idempotency-Key: k\r\n", b"Content-Type: text/plain\r\n",
    b"Content-Type: application/x-ndjson\r\n", b"Content-Encoding: gzip\r\n", b"Origin: null\r\n",
    b"/stations/orders/produce/single", b"/stations/silent/produce/batch", b"%2f",
    b"traceparent: 0",
    b"application/cloudevents-batch+json", b"X-A: ", b"\xe9", b"\0", b"\x7f",
)  # fmt: skip
USUAL_WORDS: Final = (
    b"POST /stations/orders/produce/single HTTP/1.1\r\n", b"Host: gateway\r\n", b"\r\n ", b"\r\n\t",
    b"POST /stations/picky/produce/batch HTTP/1.1\r\n", b"X-API-Key: a\r\n", b"Origin: http://a\r\n",
    b"Connection: keep-alive\r\n", b"Proxy-Connection: close\r\n", b"Content-Length: 05 \r\n",
    b"X-Signature: good hello\r\n", b"Cookie: a\r\n", b"X-A:\t1 \r\n", b"X-A:\r\n",
    b"TE: trailers\r\n",
)  # fmt: skip
BROKER_WORDS: Final = (
    b"\r\n", b"\n", b"MSG ", b"HMSG ", b"msg ", b"PING\r\n", b"PONG\r\n", b"+OK\r\n",
    b"INFO {}\r\n",
    b"-ERR 'x'\r\n", b"@0", b"@1", b"@2", b"@c.2", b" 1 ", b" 2 ", b" 0\r\n\r\n", b" 12 12\r\n",
    b"NATS/1.0\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 404 No Messages\r\n\r\n", b"a: b\r\n",
    b'{"stream":"orders","seq":1}', b'{"error":{"code":400}}', b'"duplicate":true', b"-",
    b"$JS.ACK.orders.group.1.1.1.1700000000123456789.0", b"999999999999999999", b"-1", b"\xff",
    b"-ERR 'Permissions Violation for Publish to \"orders\"'\r\n",
    b"-ERR 'Permissions Violation for Subscription to \"@*\"'\r\n",
    b'{"stream":"orders","seq":20,"batch":"x","count":20}', b'"err_code":10201', b'"count":20',
    b"$JS.API.CONSUMER.MSG.NEXT.orders.group",
)  # fmt: skip
WORDS: Final[dict[str, tuple[bytes, ...]]] = {
    "http": HTTP_WORDS,
    "headers": HTTP_WORDS,
    "usual": HTTP_WORDS + USUAL_WORDS,
    "broker": BROKER_WORDS,
    "batch": JSON_WORDS,
    "schema": JSON_WORDS,
    "avro": (b"\0", b"\1", b"\2", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", b"\x80", b"\6abc"),
    "proxy": (
        b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"1.2.3.4 ", b"::1 ", b"65535", b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\0\x0c", b"\x21\x21\0\x24", b"\x20\0\0\0",
    ),
    "inflate": (b"gzip", b"deflate", b"\x1f\x8b\x08\0", b"\x78\x9c", b"\0\0\xff\xff"),
}  # fmt: skip

AVRO: Final = (
    b"", b"\0", b"\x02", b"\xfe\xff\xff\xff\x0f", b"\x06abc", b"\x04\x02\x04\0",
    b"\x03\x04\x02\x04\0",
    b"abc\x02\0\x02\x01\0" + b"\0" * 8, b"abc\0\x02abc\x02\0\0" + b"\0" * 8 + b"\0" * 9,
    b"\x02\x02a\x02\x04xy\0", b"\xc3\x01" + b"\0" * 8 + b"\x02", b"\0\0\0\0\x01\x02",
)  # fmt: skip
V2: Final = b"\r\n\r\n\0\r\nQUIT\n"
PROXY: Final = (
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 ::1 ::ffff:1.2.3.4 0 80\r\n", b"PROXY UNKNOWN a b c\r\nx", b"PROXY UNKNOWN\r\n",
    V2 + b"\x21\x11\0\x0c" + bytes(range(12)) + b"GET", V2 + b"\x20\0\0\0x",
    V2 + b"\x21\x21\0\x24" + bytes(range(36)), V2 + b"\x21\x31\0\xd8" + b"s" * 216,
    V2 + b"\x21\x11\0\x13" + bytes(range(12)) + b"\x04\0\x04abcd" + b"POST", b"GET / HTTP/1.1\r\n",
)  # fmt: skip


def coded() -> list[bytes]:
    """Bodies in each coding, in two members, cut short, and with much behind little."""
    raw = zlib.compressobj(wbits=-15)
    whole = gzip.compress(b"hello" * 9, mtime=0)
    return [
        whole, whole * 2, whole[:-3], whole + b"\0" * 4, zlib.compress(b"hello" * 9),
        raw.compress(b"hello") + raw.flush(), gzip.compress(b"0" * 200_000, mtime=0),
        b"\x28\xb5\x2f\xfd\x04\x00\x29\x00\x00hello\x90\x1f\xf4\x01",
    ]  # fmt: skip


def requests() -> list[bytes]:
    """Connections of our own: each kind of request, whole, pipelined and broken."""
    single = request()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    lines = BATCH.replace(b"application/json", b"application/x-ndjson")
    return [
        single,
        single * 3,
        request(b"x" * 3000),
        request(extra=b"Connection: close\r\n") + b"GET / HTTP/1.1\r\n",
        request(extra=upgrade) + single,
        request(extra=b"Expect: 100-continue\r\n"),
        request(extra=b"Nats-Rollup: all\r\nX-A: 1\r\nConnection: x-a\r\nNats-Msg-Id: 7\r\n"),
        chunked + b"5\r\nhello\r\n0\r\n\r\n" + single,
        chunked + b"3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\nHost: b\r\n\r\n",
        chunked.replace(b"Transfer", upgrade + b"Transfer") + b"5\r\nhello\r\n0\r\n\r\n" + single,
        request(b'[1,{"a":[2]},"x"]', head=BATCH) + single,
        request(b"[" + b",".join([b"1"] * 30) + b"]", head=BATCH) + single,
        request(b'1\n{"a":2}\n\n"x"\r\n', head=lines.replace(b" HTTP", b"?results=true HTTP")),
        request(head=HEAD.replace(b" HTTP", b"?subject=a.b&x=%ff HTTP")),
        request(head=HEAD.replace(b"/stations/orders", b"http://gateway/stations/%6frders")),
        request(head=HEAD.replace(b"orders", b"picky"), extra=b"nats-ttl: 5\r\nX-B: 2\r\n"),
        request(head=HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"), extra=b"Connection: keep-alive\r\n"),
        b"\r\n\r\nGET /monitoring/status HTTP/1.1\r\nHost: a\r\n\r\n" + single,
        b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + single,
        b"POST /auth HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + single,
        b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 40 + b"\r\n",
    ]


def usual() -> list[bytes]:
    """Requests as most clients send them, whole, one behind the other, and cut short."""
    bare = HEAD.replace(b"Authorization: Bearer good\r\n", b"")
    fields = (
        b"", b"Connection: keep-alive\r\n", b"Cookie: a=b\r\nTE: trailers\r\n",
        b"X-A:\t1 \r\nx-b:\r\n",
        b"Content-Type: application/json\r\nOrigin: http://gateway\r\n", b"Nats-Msg-Id: 7\r\n",
        b"X-Signature: good hello\r\n", b"Content-Encoding: gzip\r\n", b"X-1: 1\r\n" * 22,
        b"traceparent: 00-a\r\nIdempotency-Key: k\r\nFastgw-Subject: eu\r\n",
    )  # fmt: skip
    whole = [request(head=head, extra=extra) for head in (HEAD, bare) for extra in fields]
    stations = [
        request(head=HEAD.replace(b"orders", name)) for name in (b"picky", b"silent", b"no")
    ]
    batch = request(b"[1,2]", head=BATCH)
    lines = whole + stations + [batch, HEAD + b"\r\n", whole[0].replace(b"5\r\n", b" 05 \r\n")]
    last = HEAD + b"Content-Length: 9\r\n\r\nhel"
    return (
        lines + [one + batch + one for one in lines] + [request(b"x" * 2500), lines[0] * 20 + last]
    )


def bodies() -> list[bytes]:
    """JSON texts, good and bad."""
    return [
        b"[]", b'[1,{"a":[true,null]},"\\u00e9\\n"]', b"1\n2\n\n[3]\r\n", b"[1,]", b"[01]",
        b'"a\x01"',         b'{"name":"ann","age":7,"tags":["a","b"],"price":1.5}', b"[NaN]",
        b"\xef\xbb\xbf[1]",
        b"[" * 520 + b"]" * 520, b"[" * 511 + b"]" * 511, b'["\xff"]', b'["\xc3\xa9"]',
        b"[1e5,-0.0]",         b'"2026-11-23T10:00:00Z"', b'"ab-12"', b"100", b'{"a":1.0}',
    ]  # fmt: skip


def from_broker() -> list[bytes]:
    """What a broker says: acks of each shape, deliveries, statuses, errors, nonsense."""
    ack = b'MSG @%d 1 %d\r\n{"stream":"orders","seq":%d}\r\n'
    js_ack = b"$JS.ACK.orders.group.1.1.1.1700000000123456789.0"
    return [
        b"".join(ack % (number, 27, number + 1) for number in range(5)),
        b'MSG @0 1 44\r\n{"stream":"orders","seq":3,"duplicate": true}\r\nPING\r\nPONG\r\n',
        b'MSG @1 1 57\r\n{"error":{"code":503,"err_code":10077,"description":"x"}}\r\n',
        b"HMSG @2 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n+OK\r\n",
        b"MSG orders 2 " + js_ack + b" 5\r\nhello\r\n" + b"MSG o 2 " + js_ack + b" 1\r\n\xff\r\n",
        b"HMSG orders 2 " + js_ack + b' 24 26\r\nNATS/1.0\r\nA: 1\r\nA: "\r\n\r\nhi\r\n',
        b"HMSG @c.2 2 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n",
        b"HMSG @c.2 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
        b'INFO {"max_payload":1048576}\r\n-ERR \'Stale Connection\'\r\n',
        b"-ERR 'Permissions Violation for Publish to \"orders\"'\r\n",
        b"-ERR 'Permissions Violation for Publish to \"orders\"'\r\nPONG\r\n" + ack % (0, 27, 1),
        b'MSG @5 1 51\r\n{"stream":"orders","seq":20,"batch":"x","count":20}\r\n',
        b'MSG @5 1 37\r\n{"error":{"code":400,"err_code":10201}}\r\n' + ack % (5, 27, 1),
        b"MSG @0 1 999999999999999999\r\nx", b"MSG\r\n", b"HMSG a 1 5 2\r\n", b"NONSENSE\r\n",
        b"MSG a 1 1\r\nxyz" + b"A" * 70000,
    ]  # fmt: skip


def corpus() -> list[bytes]:
    """The cases of tests/corpus, with our station and a credential, when the checkout has them."""
    try:
        cases = importlib.import_module("tests.corpus").CASES
    except ImportError:
        return []
    credential = b"Host: gw.test\r\nAuthorization: Bearer good\r\n"
    return [
        case.raw.replace(b"/stations/corpus/", b"/stations/orders/").replace(
            b"Host: gw.test\r\n", credential, 1
        )
        for case in cases
        if len(case.raw) < CASE_BYTES_MAX
    ]


def seeds(target: str) -> tuple[bytes, ...]:
    """The inputs that a run of `target` starts with."""
    fields = [block.split(b"\r\n\r\n")[0].partition(b"\r\n")[2] for block in requests()]
    made: dict[str, Callable[[], list[bytes]]] = {
        "http": lambda: spread(requests(), (0, 6, 9, 0x1F, 0x47)) + spread(corpus(), (0,)),
        "headers": lambda: [
            bytes([kind]) + lines.replace(b"\r\n", b"\n")
            for kind in range(8)
            for lines in fields[kind::4]
        ],
        "usual": lambda: spread(usual(), (0, 1, 2, 3, 0x45)) + spread(requests(), (0, 0x46)),
        "broker": lambda: spread(from_broker(), (0, 1, 0x3E)),
        "batch": lambda: [bytes([kind]) + body for kind in (0, 1) for body in bodies()],
        "schema": lambda: [bytes([kind]) + body for kind in range(8) for body in bodies()],
        "avro": lambda: [bytes([kind]) + body for kind in range(5) for body in AVRO],
        "proxy": lambda: spread(list(PROXY), (0, 1, 2)),
        "inflate": lambda: [bytes([kind]) + body for kind in range(4) for body in coded()],
    }
    return tuple(made[target]())


def spread(streams: list[bytes], choices: tuple[int, ...]) -> list[bytes]:
    """Each stream behind each of the choices, with a number that differs."""
    return [
        bytes([choice, (37 * number) % 256]) + stream
        for choice in choices
        for number, stream in enumerate(streams)
    ]
