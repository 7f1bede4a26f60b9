"""Who may come in: rates, addresses, origins, signatures, certificates, codings."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from typing import Any

import pytest

from fastgw import _core
from fastgw.config_types import RateConfig
from fastgw.errors import ClientFault
from tests.unit.dialogue import HEAD, Dialogue, parse_frames, request
from tests.unit.test_core_http import sweep_until

SINGLE = b"POST /stations/orders/produce/single HTTP/1.1\r\nHost: g\r\n"


def bare(body: bytes = b"hello", extra: bytes = b"", head: bytes = SINGLE) -> bytes:
    """A request without credentials."""
    return head + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


# --- rates ----------------------------------------------------------------------------------------


def test_address_that_asks_more_than_its_rate_gets_429_with_the_time_to_wait() -> None:
    dialogue = Dialogue(rates=RateConfig(address_requests_per_s=0.01, burst_s=200))
    client, other = dialogue.client(), dialogue.client("192.0.2.8")
    client.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n" * 2)
    client.send(request())
    (answer,) = client.answers()[-1:]
    assert (answer.status, answer.headers["Error-Code"]) == (429, "rate-limited")
    assert 90 <= int(answer.headers["Retry-After"]) <= 100
    assert dialogue.frames() == []
    other.send(request())
    assert len(dialogue.frames()) == 1


def test_address_is_counted_over_its_connections_and_an_ipv6_network() -> None:
    dialogue = Dialogue(rates=RateConfig(address_requests_per_s=0.01, burst_s=100))
    for address, wanted in (
        ("2001:db8::1", 204), ("2001:db8::ffff", 429), ("2001:db8:0:1::1", 204),
        ("::ffff:192.0.2.9", 204), ("192.0.2.9", 429),
    ):  # fmt: skip
        client = dialogue.client(address)
        client.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert [a.status for a in client.answers()] == [wanted], address


def test_user_is_counted_over_its_connections_and_bytes_are_paid_behind() -> None:
    dialogue = Dialogue(rates=RateConfig(user_bytes_per_s=10))
    one, two = dialogue.client(), dialogue.client()
    one.send(request(b"x" * 1000))
    assert len(dialogue.frames()) == 1
    two.send(request(b"y"))
    (answer,) = two.answers()
    assert (answer.status, answer.json()["error"]) == (
        429, "ann has asked more than its rate; try again",
    )  # fmt: skip
    assert 95 <= int(answer.headers["Retry-After"]) <= 100
    assert dialogue.frames() == []


def test_key_has_the_rate_of_keys() -> None:
    dialogue = Dialogue(rates=RateConfig(key_requests_per_s=1e-9, user_requests_per_s=1e9))
    dialogue.principal = _core.Principal("key:k", 1, _core.PRODUCE, key="k")
    client = dialogue.client()
    client.send(request() + request())
    answers = [*client.answers()]
    assert len(dialogue.frames()) == 1 and answers == []
    assert dialogue.principal.key == "k"


def test_rate_comes_back_with_time() -> None:
    dialogue = Dialogue(rates=RateConfig(address_requests_per_s=20, burst_s=0.05))
    client = dialogue.client()
    ask = b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n"
    client.send(ask + ask)
    assert [a.status for a in client.answers()] == [204, 429]
    statuses: list[int] = []

    def is_let_in() -> bool:
        client.send(ask)
        statuses.extend(a.status for a in client.answers())
        return 204 in statuses

    sweep_until(dialogue, is_let_in)


def test_rates_of_more_names_than_the_bound_forget_the_idlest() -> None:
    dialogue = Dialogue(rates=RateConfig(address_requests_per_s=1e-6, burst_s=1e6))
    first = dialogue.client("10.0.0.1")
    first.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert [a.status for a in first.answers()] == [204]
    for number in range(66_000):
        connection = dialogue.ingress.protocol(
            client=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        )
        connection.connection_made(dialogue.broker)  # type: ignore[arg-type]
        connection.connection_lost(None)
    again = dialogue.client("10.0.0.1")
    again.send(b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n")
    assert [a.status for a in again.answers()] == [429]


# --- connections of one address -------------------------------------------------------------------


def test_connections_of_one_address_are_bounded_and_come_free_again() -> None:
    dialogue = Dialogue(connections_per_address_max=2)
    one, _ = dialogue.client(), dialogue.client()
    assert not dialogue.ingress.has_room_for("192.0.2.7")
    assert dialogue.ingress.has_room_for("192.0.2.8")
    third = dialogue.client()
    (answer,) = third.answers()
    assert answer.status == 503 and "2 connections of one address" in answer.json()["error"]
    assert third.transport.is_eof_sent
    third.protocol.connection_lost(None)
    one.protocol.connection_lost(None)
    assert dialogue.ingress.has_room_for("192.0.2.7")
    fourth = dialogue.client()
    fourth.send(request())
    assert len(dialogue.frames()) == 1


def test_connections_of_this_machine_are_not_counted_by_address() -> None:
    dialogue = Dialogue(connections_per_address_max=1)
    clients = [dialogue.client("127.0.0.1") for _ in range(3)]
    clients[-1].send(request())
    assert len(dialogue.frames()) == 1
    proxied = [dialogue.client("127.0.0.1", client="192.0.2.1") for _ in range(2)]
    assert [a.status for a in proxied[1].answers()] == [503]


def test_address_that_a_proxy_told_is_the_clients() -> None:
    dialogue = Dialogue()
    dialogue.ingress.allow_anonymous(dialogue.principal, any_host=True)
    client = dialogue.client("127.0.0.1", client="198.51.100.3")
    client.send(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n")
    assert dialogue.dispatched[0].client == "198.51.100.3"


# --- slow bodies ----------------------------------------------------------------------------------


def test_body_that_drips_is_408_and_a_brisk_one_of_the_same_length_is_not() -> None:
    dialogue = Dialogue(body_rate_bytes_min=1_000_000, body_rate_grace_ms=100)
    client = dialogue.client()
    client.send(request(b"hello" * 100)[:-400])
    sweep_until(dialogue, lambda: bool(client.transport.written))
    (answer,) = client.answers()
    assert answer.status == 408 and "less than 1000000 bytes/s" in answer.json()["error"]
    dialogue = Dialogue(body_rate_bytes_min=1, body_rate_grace_ms=100)
    client = dialogue.client()
    client.send(request(b"hello" * 100)[:-4])
    seen = dialogue.ingress.stats()["requests"]
    sweeps = iter(range(60))
    sweep_until(dialogue, lambda: next(sweeps) > 50)
    client.send(b"ello"[-4:])
    assert len(dialogue.frames()) == seen == 1


# --- origins --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"Origin: https://shop.example\r\n", None),
        (b"", 403),
        (b"Origin: https://evil.example\r\n", 403),
        (b"Origin: https://shop.example.evil\r\n", 403),
        (b"Origin: null\r\n", 403),
    ],
)
def test_key_bound_to_origins_is_for_them_alone(origin: bytes, status: int | None) -> None:
    dialogue = Dialogue()
    dialogue.principal = _core.Principal(
        "key:web", 1, _core.PRODUCE, origins=("https://shop.example",), key="web"
    )
    client = dialogue.client()
    client.send(request(extra=origin))
    assert [a.status for a in client.answers()] == ([] if status is None else [status])
    assert len(dialogue.frames()) == (status is None)


# --- signatures -----------------------------------------------------------------------------------


class Judge:
    """A verifier that takes the signature "good <body>"."""

    header_names = frozenset({b"x-signature"})

    def __init__(self) -> None:
        self.seen: list[tuple[dict[bytes, bytes], bytes]] = []

    def verify(self, headers: dict[bytes, bytes], body: bytes, now: float, /) -> None:
        self.seen.append((headers, body))
        if body == b"defect":
            raise ZeroDivisionError
        if headers[b"x-signature"] != b"good " + body:
            raise ClientFault("unauthorized", "the signature is wrong")


def signed_dialogue() -> tuple[Dialogue, Judge]:
    dialogue, judge = Dialogue(), Judge()
    dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", verifier=judge))
    return dialogue, judge


def test_signed_request_is_stored_and_its_headers_go_on() -> None:
    dialogue, judge = signed_dialogue()
    client = dialogue.client()
    client.send(bare(extra=b"X-Signature: good hello\r\nX-More: 1\r\n"))
    (frame,) = dialogue.frames()
    assert frame.payload == b"hello" and (b"X-Signature", b"good hello") in frame.headers
    assert judge.seen == [({b"x-signature": b"good hello"}, b"hello")]
    client.send(bare(b'["a"]', b'X-Signature: good ["a"]\r\n', SINGLE.replace(b"single", b"batch")))
    assert [frame.payload for frame in dialogue.frames()] == [b'"a"']


@pytest.mark.parametrize(
    "extra",
    [
        b"X-Signature: bad\r\n",
        b"X-Signature: good hello\r\nX-Signature: good hello\r\n",
        b"X-Other: good hello\r\n",
        b"",
        b"X-Signature: good hello\r\nAuthorization: Bearer wrong\r\n",
        b"X-Signature: good hello\r\nX-API-Key: wrong\r\n",
    ],
)
def test_request_without_a_good_signature_is_401(extra: bytes) -> None:
    dialogue, _ = signed_dialogue()
    client = dialogue.client()
    client.send(bare(extra=extra))
    (answer,) = client.answers()
    assert (answer.status, answer.json()["message"]) == (401, "Unauthorized")
    assert answer.json().get("error") in (None, "the signature is wrong")
    assert dialogue.frames() == []


def test_signed_station_still_takes_credentials_and_never_lets_the_nameless_in() -> None:
    dialogue, judge = signed_dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    assert [a.status for a in client.answers()] == [200] and judge.seen == []
    dialogue.ingress.allow_anonymous(_core.Principal("anonymous", 1, 7), any_host=True)
    client.send(bare())
    assert [a.status for a in client.answers()] == [401]


def test_signature_is_no_way_to_consume() -> None:
    dialogue, _ = signed_dialogue()
    client = dialogue.client()
    head = b"POST /stations/orders/consume/batch HTTP/1.1\r\nHost: g\r\n"
    client.send(bare(b"{}", b"X-Signature: good {}\r\n", head))
    assert [a.status for a in client.answers()] == [401]
    assert dialogue.consumed == []


def test_defect_of_a_verifier_is_500_and_counted() -> None:
    dialogue, _ = signed_dialogue()
    client = dialogue.client()
    client.send(bare(b"defect", b"X-Signature: x\r\n"))
    assert [a.status for a in client.answers()] == [500]
    assert dialogue.defects[0].startswith("a signature check failed")


# --- certificates ---------------------------------------------------------------------------------


def test_certificate_names_the_user_of_requests_without_credentials() -> None:
    dialogue = Dialogue()
    asked: list[tuple[str, bytes] | None] = []

    def identify(found: _core.Request) -> _core.Principal | None:
        asked.append(found.credential_sent)
        return dialogue.principal if found.credential_sent == ("certificate", b"ann") else None

    dialogue.identify = identify
    certificate = {"subject": ((("commonName", "ann"),),)}

    def name_of(seen: dict[str, Any]) -> str | None:
        return str(seen["subject"][0][0][1])

    client = dialogue.client(certificate=certificate, name_of=name_of)
    client.send(bare() + bare())
    assert len(dialogue.frames()) == 2
    assert asked == [("certificate", b"ann")]
    dialogue.ingress.forget_user("ann")
    client.send(bare())
    assert asked == [("certificate", b"ann")] * 2
    dialogue.ingress.forget_everyone()
    assert dialogue.ingress.stats()["tokens_cached"] == 0
    plain = dialogue.client(name_of=name_of)
    plain.send(bare())
    assert [a.status for a in plain.answers()] == [401]


# --- what a listener is for -----------------------------------------------------------------------


def test_listener_for_admin_knows_no_station() -> None:
    dialogue = Dialogue()
    client = dialogue.client(serves="admin")
    client.send(request())
    assert client.answers() == [] and dialogue.frames() == []
    assert [(one.path, one.serves) for one in dialogue.dispatched] == [
        ("/stations/orders/produce/single", "admin")
    ]


# --- codings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", [b"gzip", b"x-gzip", b"GZIP", b"deflate"])
def test_coded_body_is_stored_plain_and_without_the_coding(coding: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    body = zlib.compress(b"hello") if coding == b"deflate" else gzip.compress(b"hello")
    client.send(request(body, extra=b"Content-Encoding: %s\r\n" % coding))
    (frame,) = dialogue.frames()
    assert frame.payload == b"hello"
    assert b"content-encoding" not in {name.lower() for name, _ in frame.headers}


async def test_coded_body_that_is_none_is_400_and_a_bomb_413() -> None:
    dialogue = Dialogue(body_bytes_max=1000)
    client = dialogue.client()
    coded = b"Content-Encoding: gzip\r\n"
    client.send(request(b"hello", extra=coded))
    client.send(request(gzip.compress(b"\0" * 1001), extra=coded))
    answers = client.answers()
    async with asyncio.timeout(10):
        while len(answers) < 2:
            await asyncio.sleep(0.005)
            answers += client.answers()
    assert [(a.status, a.headers["Error-Code"]) for a in answers] == [
        (400, "bad-encoding"), (413, "body-too-large"),
    ]  # fmt: skip
    assert dialogue.frames() == []


def test_long_coded_body_is_inflated_off_the_loop_and_keeps_its_place() -> None:
    async def run() -> None:
        dialogue = Dialogue()
        client = dialogue.client()
        body = b"".join(b"%d," % number for number in range(60_000))
        client.send(request(gzip.compress(body), extra=b"Content-Encoding: gzip\r\nX-A: 1\r\n"))
        client.send(request(b"next"))
        payloads = {}
        async with asyncio.timeout(10):
            while len(payloads) < 2:
                for frame in dialogue.frames():
                    payloads[frame.payload] = frame
                await asyncio.sleep(0.005)
        assert set(payloads) == {body, b"next"}
        assert (b"X-A", b"1") in payloads[body].headers
        dialogue.store(payloads[b"next"], 2)
        assert client.answers() == []
        dialogue.store(payloads[body], 1)
        assert [a.headers["Nats-Sequence"] for a in client.answers()] == ["1", "2"]
        long = gzip.compress(b"\0" * 2_000_000)
        client.send(request(long, extra=b"Content-Encoding: gzip\r\n"))
        answers = client.answers()
        async with asyncio.timeout(10):
            while len(answers) < 1:
                await asyncio.sleep(0.005)
                answers = client.answers()
        assert [a.status for a in answers] == [413]

    asyncio.run(run())


# --- the request line, wherever it stands ---------------------------------------------------------

GET = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"


@pytest.mark.parametrize(
    "line", [b"GET  /healthz HTTP/1.1", b"GET /healthz  HTTP/1.1", b"GET /healthz RTSP/1.0"]
)
@pytest.mark.parametrize(
    "before",
    [
        b"", b"\r\n", GET, GET + b"\r\n", GET + GET, bare(b"x" * 40), bare(GET),
        SINGLE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_loose_request_line_is_400_behind_any_message_at_any_split(
    line: bytes, before: bytes
) -> None:
    # WHY the decoy: a line that is right, elsewhere, must not pass for the one that is not.
    data = before + line + b"\r\nHost: g\r\n\r\n"
    if b"chunked" not in before:
        data += GET
    for cut in range(len(data)):
        dialogue = Dialogue()
        dialogue.ingress.allow_anonymous(dialogue.principal, any_host=True)
        client = dialogue.client()
        client.send(data[:cut])
        client.send(data[cut:])
        for frame in dialogue.frames():
            dialogue.store(frame, 1)
        dialogue.run_turns()
        for asked in dialogue.dispatched:
            asked.respond(200, b"{}")
        answers = client.answers()
        assert answers[-1].status == 400, (cut, answers)
        assert [a.status for a in answers[:-1]] == [200] * (len(answers) - 1)


@pytest.mark.parametrize("gap", [b"", b"\r\n", b"\r\n\r\n"])
def test_strict_request_lines_are_served_at_any_split(gap: bytes) -> None:
    data = gap.join([b"", bare(b"\r\n\r\n" * 5), GET, bare(GET), GET])
    for cut in range(len(data)):
        dialogue = Dialogue()
        dialogue.ingress.allow_anonymous(dialogue.principal, any_host=True)
        client = dialogue.client()
        client.send(data[:cut])
        client.send(data[cut:])
        for frame in dialogue.frames():
            dialogue.store(frame, 1)
        for asked in dialogue.dispatched:
            asked.respond(200, b"{}")
        assert [a.status for a in client.answers()] == [200] * 4, cut


# --- the handshake of CloudEvents -----------------------------------------------------------------


def test_handshake_of_cloudevents_is_granted_on_produce_paths() -> None:
    client = Dialogue().client()
    ask = b"WebHook-Request-Origin: eventemitter.example.com\r\nWebHook-Request-Rate: 120\r\n\r\n"
    for path in (b"/stations/orders/produce/single", b"/stations/nobody/produce/batch"):
        client.send(b"OPTIONS " + path + b" HTTP/1.1\r\nHost: g\r\n" + ask)
        (answer,) = client.answers()
        assert answer.status == 200 and answer.body == b""
        assert answer.headers["WebHook-Allowed-Origin"] == "eventemitter.example.com"
        assert (answer.headers["Allow"], answer.headers["WebHook-Allowed-Rate"]) == ("POST", "*")
    client.send(b"OPTIONS /stations/orders/consume/batch HTTP/1.1\r\nHost: g\r\n" + ask)
    client.send(
        b"OPTIONS /stations/orders/produce/single HTTP/1.1\r\nHost: g\r\n"
        b"WebHook-Request-Origin: " + b"x" * 256 + b"\r\n\r\n"
    )
    assert [a.status for a in client.answers()] == [204, 204]


# --- what fuzzing and the corpus have found -------------------------------------------------------


@pytest.mark.parametrize("text", [b'{"stream":"\xefrders","seq":1}', b"[" * 5000, b"{}", b"\xff"])
def test_ack_that_cannot_be_read_costs_its_own_request_only(text: bytes) -> None:
    dialogue = Dialogue()
    client, other = dialogue.client(), dialogue.client("192.0.2.8")
    client.send(request())
    other.send(request())
    first, second = dialogue.frames()
    dialogue.ack(first, text)
    dialogue.store(second, 2)
    assert [a.status for a in client.answers()] == [503]
    assert [a.status for a in other.answers()] == [200]


def test_trailer_that_closes_makes_its_message_the_last() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
    client.send(head + b"Connection: close\r\n\r\n" + GET)
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert client.transport.is_eof_sent


@pytest.mark.parametrize("name", [b"a\\r\\nX: y", b"a\\u007fb", b"a\\tb"])
def test_ack_that_names_a_stream_with_a_control_byte_is_not_believed(name: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request())
    (frame,) = dialogue.frames()
    dialogue.ack(frame, b'{"stream":"%s","seq":1}' % name)
    (answer,) = client.answers()
    assert answer.status == 503 and "X" not in answer.headers


def test_reader_that_stalls_is_let_go_whatever_it_sends() -> None:
    dialogue = Dialogue(idle_timeout_ms=200)
    client = dialogue.client()
    client.protocol.pause_writing()
    ask = b"OPTIONS / HTTP/1.1\r\nHost: g\r\n\r\n"

    def is_gone() -> bool:
        if not client.transport.is_closed:
            client.send(ask)
        return client.transport.is_closed

    sweep_until(dialogue, is_gone)


def test_head_that_breaks_is_answered_without_a_body() -> None:
    client = Dialogue().client()
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length:(5\r\n\r\n")
    client.dialogue.run_turns()
    head, _, body = client.transport.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and body == b""


def test_close_wins_over_keep_alive_in_any_order() -> None:
    for options in (b"keep-alive, close", b"close, keep-alive"):
        for version in (b"1.0", b"1.1"):
            client = Dialogue().client()
            ask = b"OPTIONS / HTTP/%s\r\nHost: g\r\nConnection: %s\r\n\r\n" % (version, options)
            client.send(ask + ask)
            assert [a.headers["Connection"] for a in client.answers()] == ["close"]


@pytest.mark.parametrize("host", [b":80", b":"])
def test_host_without_a_name_is_400(host: bytes) -> None:
    client = Dialogue().client()
    client.send(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
    client2 = Dialogue().client()
    client2.send(b"GET http://%s/ HTTP/1.1\r\nHost: g\r\n\r\n" % host)
    assert [a.status for a in client.answers() + client2.answers()] == [400, 400]


# --- everyone may come in, but no foreign web page ------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin", "is_served"),
    [
        (b"localhost:4444", b"", True),
        (b"127.0.0.1:4444", b"", True),
        (b"[::1]:4444", b"", True),
        (b"127.0.0.1:4444", b"http://127.0.0.1:4444", True),
        (b"127.0.0.1:4444", b"https://evil.example", False),
        (b"127.0.0.1:4444", b"http://127.0.0.1:8080", False),
        (b"127.0.0.1:4444", b"null", False),
        (b"gateway.example:4444", b"", True),
        (b"127.evil.example:4444", b"http://127.evil.example:4444", False),
        (b"evil.example:4444", b"http://evil.example:4444", False),
        (b"localhost.evil.example", b"http://localhost.evil.example", False),
    ],
)
def test_nameless_access_is_not_for_foreign_web_pages(
    host: bytes, origin: bytes, is_served: bool
) -> None:
    dialogue = Dialogue()
    dialogue.ingress.allow_anonymous(dialogue.principal)
    client = dialogue.client()
    extra = b"Origin: %s\r\n" % origin if origin else b""
    client.send(bare(extra=extra, head=SINGLE.replace(b"Host: g", b"Host: " + host)))
    assert len(dialogue.frames()) == is_served
    assert [a.status for a in client.answers()] == ([] if is_served else [403])


def test_nameless_access_has_a_rate_and_may_allow_any_host() -> None:
    dialogue = Dialogue(rates=RateConfig(user_requests_per_s=1e-6))
    dialogue.ingress.allow_anonymous(dialogue.principal, any_host=True)
    client = dialogue.client()
    client.send(bare())
    (frame,) = dialogue.frames()
    dialogue.store(frame, 1)
    client.send(bare())
    assert [a.status for a in client.answers()] == [200, 429]


# --- one reader of credentials --------------------------------------------------------------------

CERTIFICATE = {"subject": ((("commonName", "ann"),),)}


@pytest.mark.parametrize(
    ("query", "extra", "sent"),
    [
        (b"", b"", ("certificate", b"ann")),
        (b"?authorization=", b"", ("query", b"")),
        (b"?access_token=", b"", ("query", b"")),
        (b"?access_token=a&authorization=b", b"", ("query", b"")),
        (b"?access_token=a&access_token=a", b"", ("query", b"")),
        (b"?x=1&access_token=%61%20", b"", ("query", b"a ")),
        (b"?access_token=a", b"X-API-Key: k\r\n", ("key", b"k")),
        (b"?access_token=a", b"X-API-Key:\r\n", ("key", b"")),
        (b"?access_token=a", b"Authorization:\r\nX-API-Key: k\r\n", ("authorization", b"")),
        (b"?Access_Token=a", b"", ("certificate", b"ann")),
    ],
)
def test_credential_is_cached_by_the_very_bytes_that_identify_sees(
    query: bytes, extra: bytes, sent: tuple[str, bytes]
) -> None:
    dialogue = Dialogue()
    seen: list[tuple[str, bytes] | None] = []

    def identify(asked: _core.Request) -> _core.Principal | None:
        seen.append(asked.credential_sent)
        return dialogue.principal

    dialogue.identify = identify  # type: ignore[method-assign]
    head = SINGLE.replace(b"single", b"single" + query)
    client = dialogue.client(certificate=CERTIFICATE, name_of=lambda _: "ann")
    client.send(bare(extra=extra, head=head) * 2)
    assert (seen, len(dialogue.frames())) == ([sent], 2)
    # A stranger who sends the same bytes has the same credential; one who sends none has none.
    stranger = dialogue.client("192.0.2.99")
    stranger.send(bare(extra=extra, head=head))
    if sent[0] == "certificate":
        assert [a.status for a in stranger.answers()] == [401]
    else:
        assert (len(seen), len(dialogue.frames())) == (1, 1)


@pytest.mark.parametrize("name", [b"Authorization", b"X-API-Key"])
def test_credential_that_is_there_twice_is_400(name: bytes) -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(bare(extra=name + b": Bearer good\r\n" + name + b": Bearer good\r\n"))
    (answer,) = client.answers()
    assert (answer.status, answer.headers["Error-Code"]) == (400, "bad-header")
    assert dialogue.frames() == []


def test_nameless_access_is_closed_to_web_pages_with_any_credential() -> None:
    dialogue = Dialogue()
    dialogue.ingress.allow_anonymous(dialogue.principal)
    client = dialogue.client()
    foreign = SINGLE.replace(b"Host: g", b"Host: localhost\r\nOrigin: https://evil.example")
    client.send(bare(extra=b"Authorization: Bearer good\r\n", head=foreign))
    client.send(bare(head=foreign.replace(b"single", b"single?access_token=x")))
    assert [a.status for a in client.answers()] == [403, 403]


def test_nameless_reading_is_for_a_host_that_is_this_machine() -> None:
    dialogue = Dialogue()
    dialogue.ingress.allow_anonymous(dialogue.principal)
    client = dialogue.client()
    for host in (b"localhost:1", b"127.0.0.1", b"[::1]:8", b"evil.example"):
        client.send(b"GET /users HTTP/1.1\r\nHost: %s\r\n\r\n" % host)
    *local, foreign = dialogue.dispatched
    assert [dialogue.ingress.find_principal(asked) for asked in local] == [dialogue.principal] * 3
    with pytest.raises(ClientFault, match="no foreign web page"):
        dialogue.ingress.find_principal(foreign)


# --- floods of pipelined requests -----------------------------------------------------------------

PING = b"GET /ping HTTP/1.1\r\nHost: g\r\n\r\n"


def answer_dispatched(dialogue: Dialogue) -> int:
    asked, dialogue.dispatched[:] = list(dialogue.dispatched), []
    for one in asked:
        one.respond(200, b"{}")
    return len(asked)


@pytest.mark.parametrize("ends", [False, True])
def test_flood_in_one_read_is_parsed_as_its_answers_go_out(ends: bool) -> None:
    dialogue = Dialogue(pipelined_max=8)
    client = dialogue.client()
    client.send(PING * 5000)
    if ends:
        assert client.protocol.eof_received()
    per_slice = 4096 // len(PING) + 1
    found = 0
    for _ in range(5000):
        dialogue.run_turns()
        assert len(dialogue.dispatched) <= per_slice
        if not answer_dispatched(dialogue):
            break
        found += len(client.answers())
    assert found == 5000
    assert client.transport.is_closed == ends
    assert ends or not client.transport.is_reading_paused


def test_flood_that_comes_while_reading_is_paused_keeps_its_order() -> None:
    dialogue = Dialogue(pipelined_max=1)
    client = dialogue.client()
    data = b"".join(PING.replace(b"ping", b"%d" % number) for number in range(2000))
    client.send(data[:40_000])
    client.send(data[40_000:])
    paths: list[str] = []
    while True:
        dialogue.run_turns()
        paths += [one.path for one in dialogue.dispatched]
        if not answer_dispatched(dialogue):
            break
        client.answers()
    assert paths == [f"/{number}" for number in range(2000)]


def test_kept_bytes_of_floods_are_bounded_over_all_connections() -> None:
    dialogue = Dialogue(pipelined_max=1)
    first, second = dialogue.client(), dialogue.client("192.0.2.8")
    first.send(PING * (32 * 1024 * 1024 // len(PING)))
    second.send(PING * 40_000)
    answer_dispatched(dialogue)
    *_, last = second.answers()
    assert (last.status, last.headers["Connection"]) == (503, "close")
    first.protocol.connection_lost(None)
    third = dialogue.client("192.0.2.9")
    third.send(PING * 40_000)
    dialogue.run_turns()
    assert answer_dispatched(dialogue) > 0
    assert {a.status for a in third.answers()} == {200}


def test_handlers_share_a_turn_and_producers_do_not_wait_for_them() -> None:
    dialogue = Dialogue()
    slow: list[_core.Request] = []

    def handle(asked: _core.Request) -> None:
        slow.append(asked)
        end = time.monotonic() + 0.001
        while time.monotonic() < end:
            pass

    dialogue.dispatch = handle
    for _ in range(50):
        dialogue.client().send(PING)
    producer = dialogue.client()
    producer.send(request())
    assert len(slow) < 10
    dialogue.loop.ready.pop(0)()
    assert len(slow) < 20 and len(parse_frames(dialogue.broker.take())) == 1
    dialogue.run_turns()
    assert len(slow) == 50
