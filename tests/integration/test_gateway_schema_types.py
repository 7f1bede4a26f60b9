"""Schemas of every type on a running gateway: what they let in, keep out, and store."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.wire.gateway import Gateway, serving, wait_until
from tests.wire.raw_http import Response, build

REFUSED = "Schema validation has failed: "
EVENT = {
    "type": "object",
    "properties": {"id": {"type": "integer", "minimum": 1}, "name": {"type": "string"}},
    "required": ["id"],
}
PROTO = 'syntax = "proto3"; message Order { int32 id = 1; string name = 2; }'
AVRO = {
    "type": "record",
    "name": "Order",
    "fields": [{"name": "id", "type": "int"}, {"name": "name", "type": "string"}],
}
SDL = "type Query { order(id: Int!): Order } type Order { id: Int name: String }"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("types") / "data") as running:
        yield running


def admin(gateway: Gateway, method: str, target: str, body: Any = None) -> Response:
    data = json.dumps(body).encode() if body is not None else b""
    headers = gateway.auth(Content_Type="application/json")
    return gateway.ask(target, data, method=method, headers=headers)


def make(gateway: Gateway, name: str, kind: str, text: object) -> None:
    body = {"type": kind, "text": text if isinstance(text, str) else json.dumps(text)}
    response = admin(gateway, "PUT", f"/schemas/{name}", body)
    assert response.status in (200, 201), response


def station(gateway: Gateway, name: str, **settings: object) -> None:
    response = admin(gateway, "PUT", f"/stations/{name}", settings)
    assert response.status in (200, 201), response


def single(gateway: Gateway, name: str, body: bytes, kind: str = "application/json") -> Response:
    headers = gateway.auth(Content_Type=kind)
    return gateway.ask(f"/stations/{name}/produce/single", body, headers=headers)


def in_force(gateway: Gateway, name: str, bad: bytes, kind: str = "application/json") -> Response:
    """Wait until the station refuses `bad`; return the refusal."""
    found: list[Response] = []

    def is_refused() -> bool:
        found[:] = [single(gateway, name, bad, kind)]
        return found[0].status == 400

    wait_until(is_refused, 5, "the schema in force")
    return found[0]


def test_json_lets_the_good_in_and_keeps_the_bad_out(gateway: Gateway) -> None:
    make(gateway, "event", "json", EVENT)
    station(gateway, "events", schema="event")
    refusal = in_force(gateway, "events", b'{"id":0}')
    assert refusal.json()["error"].startswith(REFUSED)
    assert "id" in refusal.json()["error"]
    assert single(gateway, "events", b'{"id":1}').status == 200
    assert single(gateway, "events", b'{"id": 2.0}').status == 200
    for bad in (b"", b"x", b"[1]", b'{"name":"x"}', b'{"id":1,"name":2}', b'{"id":"1"}', b"\xff"):
        assert single(gateway, "events", bad).status == 400, bad
    assert single(gateway, "events", b"x", "application/x-protobuf").status == 415
    assert [m.data for m in gateway.stored("events")] == [b'{"id":1}', b'{"id": 2.0}']


def test_json_batch_tells_every_failure_in_order(gateway: Gateway) -> None:
    make(gateway, "event2", "json", EVENT)
    station(gateway, "batches", schema="event2")
    in_force(gateway, "batches", b"{}")
    body = b'[{"id":1},{"id":0},{"id":2},{}]'
    headers = gateway.auth(Content_Type="application/json")
    response = gateway.ask("/stations/batches/produce/batch?results=true", body, headers=headers)
    told = response.json()
    assert (response.status, told["sent"], told["fail"]) == (400, 2, 2)
    assert all(text.startswith(REFUSED) for text in told["errors"])
    assert [min(result) for result in told["results"]] == ["seq", "error", "seq", "error"]
    assert [m.data for m in gateway.stored("batches")] == [b'{"id":1}', b'{"id":2}']


def test_dead_letters_are_kept_with_reason_and_sender(gateway: Gateway) -> None:
    make(gateway, "event3", "json", EVENT)
    station(gateway, "morgue")
    station(gateway, "watched", schema="event3", dead_letter="morgue")
    in_force(gateway, "watched", b'{"id":0}')
    headers = gateway.auth(X_Source="tests")
    gateway.ask("/stations/watched/produce/single", b'{"id":-1}', headers=headers)
    wait_until(lambda: len(gateway.stored("morgue")) >= 2, 5, "two dead letters")
    letter = gateway.stored("morgue")[-1]
    assert letter.data == b'{"id":-1}'
    assert letter.header("Fastgw-Dead-Letter-Station") == "watched"
    assert "id" in (letter.header("Fastgw-Dead-Letter-Reason") or "")
    assert letter.header("Fastgw-Dead-Letter-Schema-Version") == "1"
    assert letter.header("Fastgw-Dead-Letter-User") == "root"
    assert letter.header("Fastgw-Dead-Letter-Client") == "127.0.0.1"
    assert letter.header("X-Source") == "tests"
    assert letter.header("Authorization") is None
    assert gateway.stored("watched") == []


def test_switched_under_traffic_drops_no_request(gateway: Gateway) -> None:
    make(gateway, "switch", "json", {"type": "object"})
    station(gateway, "switched", schema="switch")
    in_force(gateway, "switched", b"[]")
    statuses: list[int] = []
    ended = threading.Event()

    def send() -> None:
        data = build("/stations/switched/produce/single", b'{"a":1}', headers=gateway.auth())
        with gateway.wire() as wire:
            while not ended.is_set():
                wire.send(data)
                statuses.append(wire.expect().status)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        wait_until(lambda: statuses and statuses[-1] == 200)
        make(gateway, "switch", "json", {"type": "object", "required": ["b"]})
        wanted = {"name": "switch", "version": 2}
        assert admin(gateway, "PUT", "/stations/switched/schema", wanted).status == 200
        wait_until(lambda: statuses[-1] == 400, 5, "the new version in force")
        assert admin(gateway, "DELETE", "/stations/switched/schema").status in (200, 204)
        wait_until(lambda: statuses[-1] == 200, 5, "the schema detached")
    finally:
        ended.set()
        sender.join(10)
    assert set(statuses) == {200, 400}
    assert sum(a != b for a, b in pairwise(statuses)) == 2, "swapped in whole, once each way"
    assert len(gateway.stored("switched")) == statuses.count(200)


def test_text_that_does_not_compile_is_refused_with_its_reason(gateway: Gateway) -> None:
    for kind, text in (
        ("json", '{"type":"objekt"}'),
        ("json", '{"$ref":"http://127.0.0.1:1/x.json"}'),
        ("protobuf", "message {"),
        ("avro", '{"type":"record","name":"R"}'),
        ("graphql", "type Query {"),
    ):
        response = admin(gateway, "PUT", "/schemas/broken", {"type": kind, "text": text})
        assert (response.status, response.header("error-code")) == (400, "bad-schema")
        assert len(response.json()["error"]) > 10


def test_protobuf_takes_wire_bytes_and_transcodes_json(gateway: Gateway) -> None:
    make(gateway, "order-proto", "protobuf", PROTO)
    station(gateway, "protos", schema="order-proto")
    kind = "application/x-protobuf"
    in_force(gateway, "protos", b"\x0a", kind)
    assert single(gateway, "protos", b"\x08\x07\x12\x01a", kind).status == 200
    assert single(gateway, "protos", b'{"id":7,"name":"a"}').status == 200
    assert single(gateway, "protos", b'{"id":"x"}').status == 400
    assert [m.data for m in gateway.stored("protos")] == [b"\x08\x07\x12\x01a"] * 2


@pytest.mark.parametrize(("kind", "text"), [("protobuf", PROTO), ("avro", json.dumps(AVRO))])
def test_long_json_is_judged_aside_and_stored(gateway: Gateway, kind: str, text: str) -> None:
    make(gateway, f"long-{kind}", kind, text)
    station(gateway, f"longs-{kind}", schema=f"long-{kind}")
    in_force(gateway, f"longs-{kind}", b'{"id":"x"}')
    name = "x" * 100_000
    body = json.dumps({"id": 7, "name": name}).encode()
    assert single(gateway, f"longs-{kind}", body).status == 200
    assert single(gateway, f"longs-{kind}", body.replace(b"7", b'"x"', 1)).status == 400
    (message,) = gateway.stored(f"longs-{kind}")
    assert name.encode() in message.data


def test_avro_takes_both_encodings(gateway: Gateway) -> None:
    make(gateway, "order-avro", "avro", AVRO)
    station(gateway, "avros", schema="order-avro")
    in_force(gateway, "avros", b'{"id":1}')
    assert single(gateway, "avros", b'{"id":7,"name":"a"}').status == 200
    assert single(gateway, "avros", b"\x0e\x02a", "avro/binary").status == 200
    assert single(gateway, "avros", struct.pack("<Q", 2**63), "avro/binary").status == 400
    assert len(gateway.stored("avros")) == 2


def test_graphql_takes_documents_of_its_schema(gateway: Gateway) -> None:
    make(gateway, "order-graphql", "graphql", SDL)
    station(gateway, "graphs", schema="order-graphql")
    in_force(gateway, "graphs", b"{ nothing }", "application/graphql")
    for _ in range(2):
        good = single(gateway, "graphs", b"{ order(id: 7) { name } }", "application/graphql")
        assert good.status == 200, good
    body = b'{"query":"query($i: Int!) { order(id: $i) { id } }","variables":{"i":1}}'
    assert single(gateway, "graphs", body).status == 200
    assert single(gateway, "graphs", b"{ order { name } }", "application/graphql").status == 400


def test_graphql_batch_awaits_every_verdict(gateway: Gateway) -> None:
    make(gateway, "many-graphql", "graphql", SDL)
    station(gateway, "many", schema="many-graphql")
    in_force(gateway, "many", b"{ nothing }", "application/graphql")
    queries = [{"query": f"{{ order(id: {n}) {{ {f} }} }}"} for n in range(9) for f in ("id", "x")]
    headers = gateway.auth(Content_Type="application/json")
    response = gateway.ask(
        "/stations/many/produce/batch", json.dumps(queries).encode(), headers=headers
    )
    assert response.status == 400
    assert (response.json()["sent"], response.json()["fail"]) == (9, 9)
    assert len(gateway.stored("many")) == 9


def test_hostile_bodies_are_refused_and_harm_nobody(gateway: Gateway) -> None:
    make(gateway, "hostile", "json", EVENT | {"additionalProperties": {"type": "number"}})
    station(gateway, "hostiles", schema="hostile")
    in_force(gateway, "hostiles", b"{}")
    for bad in (
        b'{"id":' + b"[" * 100_000,
        b'{"id":1,"x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"id":1,"x":1e400}',
        b'{"id":' + b"9" * 5000 + b"}x",
        b'{"' + b"k" * 1_000_000 + b'":"x","id":1}',
        b'{"id":1,"x":"\xff"}',
    ):
        assert single(gateway, "hostiles", bad).status == 400, bad[:40]
    assert single(gateway, "hostiles", b'{"id":1}').status == 200
    assert len(gateway.stored("hostiles")) == 1


def test_second_start_keeps_schemas_in_force(tmp_path: Any) -> None:
    gateway = Gateway(tmp_path / "data").start()
    try:
        make(gateway, "kept", "json", EVENT)
        station(gateway, "keeper", schema="kept")
        in_force(gateway, "keeper", b"{}")
        assert gateway.stop() == 0
        gateway.start()
        assert single(gateway, "keeper", b"{}").status == 400, "from the first request on"
        assert single(gateway, "keeper", b'{"id":1}').status == 200
    finally:
        assert gateway.stop() == 0
