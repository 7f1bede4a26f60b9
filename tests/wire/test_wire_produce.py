"""Produce single: the body verbatim, which headers follow it, its id, its subject, its station."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.wire.raw_http import build, chunked

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway

STORED = b'{"error":null,"success":true}'

BODIES = {
    "json": b'{ "a" : 1.0 , "b":"\\u00e9" }',
    "not json": b"just, text }{",
    "binary": bytes(range(256)) * 3,
    "empty": b"",
    "crlf": b"\r\n\r\nPUB x 1\r\n",
    "a request": b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
    "100 KiB": b"0123456789abcdef" * 6400,
}
TYPES = [
    None,
    "application/json",
    "application/json; charset=utf-8",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "application/x-protobuf",
    "application/octet-stream",
    "avro/bytes",
    "application/cloudevents+json",
    "nonsense",
]


@pytest.mark.parametrize("kind", BODIES)
def test_single_stores_the_body_verbatim(gateway: Gateway, station: str, kind: str) -> None:
    response = gateway.produce(station, BODIES[kind])
    assert response.body == STORED
    assert response.header("nats-stream") == station
    assert response.header("nats-sequence") == "1"
    assert response.header("nats-duplicate") is None
    assert response.header("content-type") == "application/json"
    (message,) = gateway.stored(station)
    assert message.data == BODIES[kind]
    assert message.subject == station


def test_single_stores_a_chunked_body_verbatim(gateway: Gateway, station: str) -> None:
    head = build(
        f"/stations/{station}/produce/single",
        None,
        headers=gateway.auth(Transfer_Encoding="chunked"),
    )
    for body in BODIES.values():
        responses = gateway.exchange(head + chunked(body, 1000))
        assert [response.status for response in responses] == [200]
    assert [message.data for message in gateway.stored(station)] == list(BODIES.values())


@pytest.mark.parametrize("content_type", TYPES)
def test_single_any_content_type(gateway: Gateway, station: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    gateway.produce(station, b'{"not json', headers)
    (message,) = gateway.stored(station)
    assert message.data == b'{"not json'
    assert message.header("Content-Type") == content_type


def test_single_sequences_rise(gateway: Gateway, station: str) -> None:
    numbers = [gateway.produce(station, b"%d" % n).header("nats-sequence") for n in range(5)]
    assert numbers == ["1", "2", "3", "4", "5"]


FORWARDED = [
    ("X-Debezium-Op", "Yw=="),
    ("x-lower-case", "kept as sent"),
    ("X-Repeated", "first"),
    ("X-Repeated", "second"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "congo=t61rcWkgMzE"),
    ("baggage", "userId=alice"),
    ("ce-id", "A234-1234"),
    ("ce-subject", 'x "q" 100%'),
    ("X-Obs-Text", "caf\xe9"),
    ("X-Empty", ""),
    ("X-Long", "v" * 2000),
    ("X-Colons", "a: b: c"),
    ("Natsy", "no prefix of the broker's"),
]
DROPPED = [
    ("X-API-Key", "fgw_secret"),
    ("Cookie", "session=secret"),
    ("Proxy-Authorization", "Basic secret"),
    ("Proxy-Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("Trailer", "X-Trailing"),
    ("X-Named-By-Connection", "hop by hop"),
    ("Nats-Rollup", "all"),
    ("nats-rollup", "sub"),
    ("NATS-ROLLUP", "all"),
    ("Nats-Expected-Last-Sequence", "4711"),
    ("Nats-Expected-Stream", "other"),
    ("Nats-Expected-Last-Msg-Id", "x"),
    ("Nats-TTL", "1s"),
    ("Nats-Schedule", "@at 2030-01-01T00:00:00Z"),
    ("Nats-Schedule-Target", "elsewhere"),
    ("Nats-Batch-Id", "b"),
    ("Nats-Incr", "1"),
    ("Nats-Trace-Only", "true"),
    ("Nats-Anything-New", "x"),
]


@pytest.mark.parametrize("is_new", [False, True], ids=["station there", "station made"])
def test_single_headers_kept_in_order_and_dropped(
    gateway: Gateway, station: str, is_new: bool
) -> None:
    if not is_new:
        gateway.produce(station, b"first")
    headers = [
        ("Authorization", f"Bearer {gateway.token()}"),
        ("Connection", "keep-alive, X-Named-By-Connection"),
        *FORWARDED,
        *DROPPED,
    ]
    response = gateway.ask(f"/stations/{station}/produce/single", b"second", headers=headers)
    assert response.status == 200
    *before, message = gateway.stored(station)
    assert [other.data for other in before] == ([] if is_new else [b"first"])
    names = {name for name, _ in FORWARDED}
    assert [pair for pair in message.headers if pair[0] in names] == FORWARDED
    lower = {name.lower() for name, _ in message.headers}
    gone = {name.lower() for name, _ in DROPPED} | {"authorization", "connection"}
    assert not lower & (gone | {"content-length", "transfer-encoding", "expect", "upgrade"})


def test_single_secrets_reach_no_message(gateway: Gateway, station: str) -> None:
    token = gateway.token()
    target = f"/stations/{station}/produce/single?authorization={token}"
    assert gateway.ask(target, b"x", headers={"Cookie": "c"}).status == 200
    (message,) = gateway.stored(station)
    assert token not in repr(message)


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\r\n b", b"a\0b", b"a\r\nNats-Rollup: all"])
def test_single_control_bytes_never_reach_the_broker(
    gateway: Gateway, station: str, value: bytes
) -> None:
    gateway.produce(station, b"first")
    plain = build(f"/stations/{station}/produce/single", b"x", headers=gateway.auth(X_Evil="@@"))
    gateway.exchange(plain.replace(b"@@", value))
    messages = gateway.stored(station)
    assert messages[0].data == b"first"
    for message in messages[1:]:
        assert message.header("Nats-Rollup") is None
        assert not any(set(text) & set("\r\n\0") for _, text in message.headers)


@pytest.mark.parametrize(
    "name", ["Nats-Msg-Id", "nats-msg-id", "Idempotency-Key", "msg-id", "webhook-id"]
)
@pytest.mark.parametrize("is_new", [False, True], ids=["station there", "station made"])
def test_single_message_id_stores_once(
    gateway: Gateway, station: str, name: str, is_new: bool
) -> None:
    if not is_new:
        gateway.produce(station, b"zero")
    first = gateway.produce(station, b"one", {name: "order-4711"})
    again = gateway.produce(station, b"one", {name: "order-4711"})
    other = gateway.produce(station, b"two", {name: "order-4712"})
    assert first.header("nats-duplicate") is None
    assert again.header("nats-duplicate") == "true"
    assert again.body == STORED
    assert again.header("nats-sequence") == first.header("nats-sequence")
    datas = [message.data for message in gateway.stored(station)]
    assert datas == ([b"one", b"two"] if is_new else [b"zero", b"one", b"two"])
    assert other.header("nats-sequence") == str(len(datas))


def test_single_message_id_first_name_wins(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"x", {"webhook-id": "w", "Idempotency-Key": "i", "Nats-Msg-Id": "n"})
    again = gateway.produce(station, b"x", {"Nats-Msg-Id": "n", "webhook-id": "other"})
    assert again.header("nats-duplicate") == "true"
    assert gateway.produce(station, b"x", {"webhook-id": "w"}).header("nats-duplicate") is None


def test_single_message_id_too_long_is_400(gateway: Gateway, station: str) -> None:
    target = f"/stations/{station}/produce/single"
    response = gateway.ask(target, b"x", headers=gateway.auth(Nats_Msg_Id="i" * 3000))
    assert response.status == 400
    assert gateway.stored(station) == []


def test_single_subject_suffix(gateway: Gateway, station: str) -> None:
    gateway.produce(station, b"1", {"Fastgw-Subject": "eu.de"})
    target = f"/stations/{station}/produce/single?subject=us.ca"
    assert gateway.ask(target, b"2", headers=gateway.auth()).status == 200
    subjects = [message.subject for message in gateway.stored(station)]
    assert subjects == [f"{station}.eu.de", f"{station}.us.ca"]


@pytest.mark.parametrize(
    "query", ["", "a=b", "n=%C3%A9", "n=%FF", "n=%00", "n=%zz", "&&&", "=", "a=1;b=2", "n=+%20"]
)
def test_single_other_query_fields_are_nobodys_business(
    gateway: Gateway, station: str, query: str
) -> None:
    """Webhook senders append what they like; only the documented names count."""
    for target in (f"?{query}", f"?{query}&authorization={gateway.token()}"):
        headers = {} if "authorization" in target else gateway.auth()
        response = gateway.ask(f"/stations/{station}/produce/single{target}", b"x", headers=headers)
        assert response.status == 200, (target, response.body)
    assert [message.subject for message in gateway.stored(station)] == [station] * 2


@pytest.mark.parametrize(
    "suffix", ["*", "a.*", ">", "a.>", ".", "a.", ".a", "a..b", "a b", "a%09b", "a%00", "a%0d%0ab"]
)
def test_single_bad_subject_suffix_is_400(gateway: Gateway, station: str, suffix: str) -> None:
    target = f"/stations/{station}/produce/single?subject={suffix.replace(' ', '%20')}"
    response = gateway.ask(target, b"x", headers=gateway.auth())
    assert (response.status, response.header("error-code")) == (400, "bad-subject")
    assert response.json()["success"] is False
    if "%" not in suffix:
        target = f"/stations/{station}/produce/single"
        response = gateway.ask(target, b"x", headers=gateway.auth(Fastgw_Subject=suffix))
        assert response.status == 400
    assert gateway.stored(station) == []


def test_single_long_subject_is_400_and_the_link_lives(gateway: Gateway, station: str) -> None:
    headers = gateway.auth(Fastgw_Subject="s" * 5000)
    response = gateway.ask(f"/stations/{station}/produce/single", b"x", headers=headers)
    assert response.status == 400
    gateway.produce(station, b"x")


BAD_NAMES = [
    "*",
    "%3E",
    "a%2A",
    "a%20b",
    "a%0D%0Ab",
    "a%00b",
    "%00",
    "a%2Fb",
    ".a",
    "a.",
    "-a",
    "a_",
    "a$b",
    "$JS.API",
    "_INBOX.x",
    "a" * 129,
    "%C3%A9",
    "a%2",
    "a%zz",
    "a:b",
    "a#b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("action", ["produce/single", "produce/batch", "consume/batch"])
def test_bad_station_name_is_400(gateway: Gateway, name: str, action: str) -> None:
    with gateway.wire() as wire:
        wire.send(build(f"/stations/{name}/{action}", b"[1]", headers=gateway.auth()))
        response = wire.expect()
        assert response.status in (400, 404) if name == "a%2Fb" else response.status == 400
        assert response.json()["success"] is False
        if response.header("connection") != "close":
            wire.send(build("/", None, method="GET"))
            assert wire.expect().status == 200


@pytest.mark.parametrize("name", ["a", "Z9", "b.c.d", "e-b_c.D", "0" * 128, "a--b", "f..b"])
def test_good_station_name_is_served(gateway: Gateway, name: str) -> None:
    target = f"/stations/{name}/produce/single"
    response = gateway.ask(target, b"x", headers=gateway.auth())
    # WHY: ".." would be an empty subject token, which the broker refuses, though each byte is fine.
    expected = 400 if ".." in name else 200
    assert response.status == expected
    if expected == 200:
        assert response.header("nats-stream") == name.replace(".", "#")


def test_body_above_the_brokers_limit_is_413_and_the_link_lives(
    gateway: Gateway, station: str
) -> None:
    limit = 1 << 20
    target = f"/stations/{station}/produce/single"
    over = gateway.exchange(build(target, b"x" * (limit + 1), headers=gateway.auth()))
    assert [response.status for response in over] == [413]
    # The body alone fits, its headers beside it do not.
    tight = gateway.exchange(build(target, b"x" * limit, headers=gateway.auth(X_More="y" * 500)))
    assert [response.status for response in tight] == [413]
    assert gateway.stored(station) == []
    gateway.produce(station, b"x" * (limit - 4096))
    assert len(gateway.stored(station)[0].data) == limit - 4096


def test_wait_false_is_refused_where_no_station_allows_it(gateway: Gateway, station: str) -> None:
    for action, wish in (("single", "wait=false"), ("batch", "atomic=true")):
        target = f"/stations/{station}/produce/{action}?{wish}"
        response = gateway.ask(target, b"[1]", headers=gateway.auth())
        assert response.status == 400
        assert wish in response.json()["error"]
    assert gateway.stored(station) == []


def test_encoded_body_is_stored_plain(gateway: Gateway, station: str) -> None:
    target = f"/stations/{station}/produce/single"
    packed = gzip.compress(b"plain")
    headers = gateway.auth(Content_Encoding="gzip")
    assert gateway.ask(target, packed, headers=headers).status == 200
    cut = gateway.ask(target, packed[:-1], headers=headers)
    assert (cut.status, cut.header("error-code")) == (400, "bad-encoding")
    (message,) = gateway.stored(station)
    assert (message.data, message.header("Content-Encoding")) == (b"plain", None)


@pytest.mark.parametrize("coding", ["br", "x", "gzip, deflate"])
def test_encoded_body_is_415_not_stored_packed(gateway: Gateway, station: str, coding: str) -> None:
    target = f"/stations/{station}/produce/single"
    response = gateway.ask(target, b"\x1f\x8b", headers=gateway.auth(Content_Encoding=coding))
    assert (response.status, response.header("error-code")) == (415, "media-type-unsupported")
    assert gateway.stored(station) == []
    gateway.produce(station, b"plain", {"Content-Encoding": "identity"})
