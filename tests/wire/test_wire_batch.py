"""Produce batch: which messages a body holds, byte for byte, and how each one is accounted for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.wire.raw_http import build, chunked

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Response

STORED = b'{"error":null,"success":true}'
JSON = "application/json"
NDJSON = "application/x-ndjson"


def batch(
    gateway: Gateway,
    station: str,
    body: bytes,
    kind: str | None = JSON,
    query: str = "",
    **more: str,
) -> Response:
    headers = gateway.auth(**more) | ({} if kind is None else {"Content-Type": kind})
    return gateway.ask(f"/stations/{station}/produce/batch{query}", body, headers=headers)


def datas(gateway: Gateway, station: str) -> list[bytes]:
    return [message.data for message in gateway.stored(station)]


ELEMENTS = [
    b"1", b"-0", b"1.50", b"1e400", b"123456789012345678901234567890", b"null", b"true",
    b"false", b'""', b'"\\u00e9\\n"', b'"]"', b'"a,b"', b'"\\""', b'"\\\\"', b"{}", b"[]",
    b"[1, [2 ,3]]",
    b'{ "b":1 , "a" : [ { } ] }', b'{"a":1,"a":2}', "\"é€😀\"".encode(), b'{"k":"}{]["}',
]  # fmt: skip


def test_batch_elements_keep_their_own_bytes(gateway: Gateway, station: str) -> None:
    body = b" [\n" + b" ,\t".join(ELEMENTS) + b"\r\n] "
    response = batch(gateway, station, body)
    assert (response.status, response.body) == (200, STORED)
    assert response.header("nats-stream") == station
    assert response.header("nats-sequence") == str(len(ELEMENTS))
    assert datas(gateway, station) == ELEMENTS


@pytest.mark.parametrize(
    "kind", [JSON, "Application/JSON", "application/json; charset=utf-8", "application/json;x=y"]
)
def test_batch_json_with_any_parameters(gateway: Gateway, station: str, kind: str) -> None:
    assert batch(gateway, station, b"[1,2]", kind).status == 200
    assert datas(gateway, station) == [b"1", b"2"]


@pytest.mark.parametrize(
    "kind", [NDJSON, "application/jsonl", "application/x-ndjson; charset=utf-8"]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n"])
def test_batch_lines(gateway: Gateway, station: str, kind: str, end: bytes, last: bytes) -> None:
    lines = [element for element in ELEMENTS if b"\n" not in element]
    response = batch(gateway, station, end.join(lines) + last, kind)
    assert (response.status, response.body) == (200, STORED)
    assert datas(gateway, station) == lines


@pytest.mark.parametrize(
    "kind",
    [
        "application/cloudevents-batch+json",
        "application/cloudevents-batch+json; charset=UTF-8",
        "application/cloudevents+json",
    ],
)
def test_batch_cloudevents(gateway: Gateway, station: str, kind: str) -> None:
    events = [
        json.dumps({"specversion": "1.0", "id": str(n), "source": "/s", "type": "t"}).encode()
        for n in range(3)
    ]
    response = batch(gateway, station, b"[" + b",".join(events) + b"]", kind)
    assert (response.status, response.body) == (200, STORED)
    assert datas(gateway, station) == events
    for message in gateway.stored(station):
        # SOURCE: CloudEvents NATS binding, a structured event is named by its Content-Type.
        told = message.header("Content-Type") or ""
        assert told.startswith("application/cloudevents+json"), message.headers


def test_batch_of_a_thousand_keeps_its_order(gateway: Gateway, station: str) -> None:
    elements = [b'{"n":%d}' % n for n in range(1000)]
    response = batch(gateway, station, b"[" + b",".join(elements) + b"]")
    assert response.header("nats-sequence") == "1000"
    assert datas(gateway, station) == elements


def test_batch_results_are_in_order(gateway: Gateway, station: str) -> None:
    response = batch(gateway, station, b"[1,2,3]", query="?results=true")
    assert response.status == 200
    expected = {"error": None, "success": True, "results": [{"seq": 1}, {"seq": 2}, {"seq": 3}]}
    assert response.json() == expected


def test_batch_ids_are_numbered(gateway: Gateway, station: str) -> None:
    first = batch(gateway, station, b"[1,2,3]", Nats_Msg_Id="chunk-7")
    again = batch(gateway, station, b"[1,2,3]", Nats_Msg_Id="chunk-7")
    assert first.status == again.status == 200
    messages = gateway.stored(station)
    assert [message.data for message in messages] == [b"1", b"2", b"3"]
    ids = [message.header("Nats-Msg-Id") for message in messages]
    assert ids == ["chunk-7.0", "chunk-7.1", "chunk-7.2"]


def test_batch_headers_stand_on_each_message(gateway: Gateway, station: str) -> None:
    batch(gateway, station, b"[1,2]", X_Source="here", Nats_Rollup="all", Cookie="secret")
    messages = gateway.stored(station)
    assert len(messages) == 2
    for message in messages:
        assert message.header("X-Source") == "here"
        assert not {"Nats-Rollup", "Cookie", "Authorization"} & {n for n, _ in message.headers}


def test_batch_subject_suffix(gateway: Gateway, station: str) -> None:
    assert batch(gateway, station, b"[1,2]", query="?subject=x.y").status == 200
    assert {message.subject for message in gateway.stored(station)} == {f"{station}.x.y"}


def test_batch_empty_is_stored_as_nothing(gateway: Gateway, station: str) -> None:
    response = batch(gateway, station, b"[]")
    assert (response.status, response.body) == (200, STORED)
    assert gateway.stored(station) == []


BROKEN = [
    b"", b" ", b"{}", b'"x"', b"1", b"null", b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]",
    b"[1],",
    b"[1]]", b"[1] x", b"[01]", b"[1.]", b"[.5]", b"[1e]", b"[+1]", b"[tru]", b"[nul", b"['a']",
    b'["a]', b'["\\x"]', b'["\\u12"]', b'["\n"]', b'["\x00"]', b'[{"a"}]', b'[{"a":}]',
    b'[{"a":1,}]',
    b"[{a:1}]", b'["\xff"]', b'["\xc0\xaf"]', b'["\xed\xa0\x80"]', b"\xef\xbb\xbf[1]", b"[NaN]",
    b"[Infinity]", b"[1]\x00", b"[/*c*/1]", b"[" * 100_000, b"[" * 514 + b"]" * 514,
]  # fmt: skip


def test_batch_broken_body_is_400_and_nothing_is_stored(gateway: Gateway, station: str) -> None:
    headers = gateway.auth() | {"Content-Type": JSON}
    with gateway.wire() as wire:
        for body in BROKEN:
            wire.send(build(f"/stations/{station}/produce/batch", body, headers=headers))
            response = wire.expect()
            assert response.status == 400, body[:40]
            assert response.json()["success"] is False, body[:40]
            assert response.header("error-code") in ("bad-json", "bad-batch"), body[:40]
    assert gateway.stored(station) == []


@pytest.mark.parametrize("body", [b'1\n{"a":\n3', b"1\n2 2\n", b"1\n[2,\n3]", b"x", b'"\xff"\n1'])
def test_batch_broken_line_is_400_and_nothing_is_stored(
    gateway: Gateway, station: str, body: bytes
) -> None:
    response = batch(gateway, station, body, NDJSON)
    assert response.status == 400
    assert gateway.stored(station) == []


def test_batch_depth_of_512_is_served(gateway: Gateway, station: str) -> None:
    element = b"[" * 512 + b"]" * 512
    assert batch(gateway, station, b"[" + element + b"]").status == 200
    assert datas(gateway, station) == [element]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_batch_other_content_type_is_read_as_json(
    gateway: Gateway, station: str, kind: str | None
) -> None:
    """`curl -d` and browsers name a type that the body is not."""
    assert batch(gateway, station, b"[1,2]", kind).status == 200
    assert batch(gateway, station, b"1\n2", kind).status == 400
    assert datas(gateway, station) == [b"1", b"2"]


def test_batch_envelopes_are_unpacked_or_refused_never_stored_whole(
    gateway: Gateway, station: str
) -> None:
    body = b'[{"message":{"a":1},"headers":{"H":"v"}}]'
    response = batch(gateway, station, body, "application/vnd.fastgw.batch+json")
    assert response.status in (200, 415)
    assert datas(gateway, station) == ([b'{"a":1}'] if response.status == 200 else [])


def test_batch_count_limit_is_413(gateway: Gateway, station: str) -> None:
    assert batch(gateway, station, b"[" + b"1," * 10_000 + b"1]").status == 413
    assert gateway.stored(station) == []


def test_batch_bytes_limit_is_413(gateway: Gateway, station: str) -> None:
    headers = gateway.auth() | {"Content-Type": JSON}
    target = f"/stations/{station}/produce/batch"
    size = (8 << 20) + 1
    for request in (
        build(target, b"[" + b" " * (size - 2) + b"]", headers=headers),
        build(target, None, headers=headers | {"Transfer-Encoding": "chunked"})
        + chunked(b" " * size, 65536),
    ):
        responses = gateway.exchange(request)
        assert [response.status for response in responses] == [413]
    assert gateway.stored(station) == []


def test_batch_element_above_the_limit_does_not_stop_the_rest(
    gateway: Gateway, station: str
) -> None:
    big = b'"' + b"x" * (1 << 20) + b'"'
    response = batch(gateway, station, b"[1," + big + b",3]", query="?results=true")
    assert response.status in (400, 413)
    answer = response.json()
    assert (answer["sent"], answer["fail"], answer["success"]) == (2, 1, False)
    assert len(answer["errors"]) == 1
    assert [set(result) for result in answer["results"]] == [{"seq"}, {"error"}, {"seq"}]
    assert datas(gateway, station) == [b"1", b"3"]


def test_batch_failed_answer_has_the_documented_keys(gateway: Gateway, station: str) -> None:
    big = b'"' + b"x" * (1 << 20) + b'"'
    response = batch(gateway, station, b"[" + big + b"]")
    assert list(response.json()) == ["errors", "fail", "sent", "success"]


def test_batch_chunked_body(gateway: Gateway, station: str) -> None:
    headers = gateway.auth(Transfer_Encoding="chunked") | {"Content-Type": JSON}
    head = build(f"/stations/{station}/produce/batch", None, headers=headers)
    responses = gateway.exchange(head + chunked(b'[1,{"a":2},"x"]', 2))
    assert [response.status for response in responses] == [200]
    assert datas(gateway, station) == [b"1", b'{"a":2}', b'"x"']
