"""Stations with `ack = "fsync"` over HTTP: batches in the stream, an answer for each message."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.gateway import Gateway, ask_broker, run_fastgw, serving
from tests.wire.raw_http import Response, Wire, build

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PIPELINED = 50
"""Below `limits.pipelined_max`, so that one read brings them all."""

ALWAYS = {"FASTGW_NATS_SYNC_INTERVAL": "always"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("fsync") / "data", env=ALWAYS) as running:
        yield running


def put(gateway: Gateway, name: str, **settings: Any) -> Response:
    body = json.dumps(settings).encode()
    return gateway.ask(f"/stations/{name}", body, method="PUT", headers=gateway.auth())


def produce_at_once(
    gateway: Gateway, name: str, bodies: list[bytes], ids: list[str] | None = None
) -> list[Response]:
    """Send single messages in one piece on one connection; return their answers."""
    requests = [
        build(
            f"/stations/{name}/produce/single",
            body,
            headers=gateway.auth(**({"Nats_Msg_Id": ids[n]} if ids else {})),
        )
        for n, body in enumerate(bodies)
    ]
    with Wire(gateway.address) as wire:
        wire.send(b"".join(requests))
        return [wire.expect() for _ in bodies]


def batches(gateway: Gateway, name: str) -> Counter[str | None]:
    """Count the messages of each atomic batch; None stands for those that came alone."""
    return Counter(message.header("Nats-Batch-Id") for message in gateway.stored(name))


def test_messages_at_once_are_stored_by_batches_each_with_its_sequence(gateway: Gateway) -> None:
    made = put(gateway, "grouped", ack="fsync", headers="none")
    assert (made.status, made.json()["ack"]) == (201, "fsync")
    config = ask_broker(gateway, "STREAM.INFO.grouped", {})["config"]
    assert config["allow_atomic"] is True
    bodies = [b"%d" % n for n in range(PIPELINED)]
    answers = produce_at_once(gateway, "grouped", bodies)
    assert {answer.status for answer in answers} == {200}
    assert {answer.header("Nats-Stream") for answer in answers} == {"grouped"}
    sequences = [int(answer.header("Nats-Sequence") or 0) for answer in answers]
    assert sequences == [*range(1, PIPELINED + 1)]
    found = {message.seq: message for message in gateway.stored("grouped")}
    assert [found[seq].data for seq in sequences] == bodies
    assert max(count for name, count in batches(gateway, "grouped").items() if name) > 1
    assert {name for message in found.values() for name, _ in message.headers} <= {
        *("Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit")
    }
    taken = gateway.consume("grouped", batch_size=PIPELINED)
    assert [one["message"].encode() for one in taken] == bodies


def test_repeats_among_them_are_duplicates_and_the_rest_is_stored(gateway: Gateway) -> None:
    put(gateway, "repeated", ack="fsync")
    ids = [f"id-{n // 2}" for n in range(20)]
    answers = produce_at_once(gateway, "repeated", [b"x"] * 20, ids)
    assert {answer.status for answer in answers} == {200}
    assert [answer.header("Nats-Duplicate") for answer in answers] == [None, "true"] * 10
    assert len(gateway.stored("repeated")) == 10


def test_one_that_is_refused_takes_none_with_it(gateway: Gateway) -> None:
    put(gateway, "strict", ack="fsync", header_allow=["Nats-Expected-Last-Sequence"])
    path = "/stations/strict/produce/single"
    wrong = build(path, b"wrong", headers=gateway.auth(Nats_Expected_Last_Sequence="99"))
    good = [build(path, b"%d" % n, headers=gateway.auth()) for n in range(10)]
    with Wire(gateway.address) as wire:
        wire.send(b"".join([*good[:5], wrong, *good[5:]]))
        answers = [wire.expect() for _ in range(11)]
    assert [answer.status for answer in answers] == [200] * 5 + [409] + [200] * 5
    assert answers[5].header("Error-Code") == "sequence-differs"
    assert [message.data for message in gateway.stored("strict")] == [b"%d" % n for n in range(10)]


def test_batch_of_one_request_and_a_single_message(gateway: Gateway) -> None:
    put(gateway, "mixed", ack="fsync")
    body = json.dumps([*range(20)]).encode()
    headers = gateway.auth(Content_Type="application/json")
    answer = gateway.ask("/stations/mixed/produce/batch?results=true", body, headers=headers)
    assert answer.status == 200, answer
    assert [one["seq"] for one in answer.json()["results"]] == [*range(1, 21)]
    assert gateway.produce("mixed", b"alone").header("Nats-Sequence") == "21"
    counts = batches(gateway, "mixed")
    assert counts[None] == 1, "a message alone needs no batch"
    assert sum(counts.values()) == 21


def test_change_of_a_station_in_use_both_ways(gateway: Gateway) -> None:
    put(gateway, "turned")
    for ack, has_batches in (("stored", False), ("fsync", True), ("stored", False)):
        assert put(gateway, "turned", ack=ack).json()["ack"] == ack
        answers = produce_at_once(gateway, "turned", [b"%d" % n for n in range(20)])
        assert {answer.status for answer in answers} == {200}
        newest = gateway.stored("turned")[-20:]
        assert any(message.header("Nats-Batch-Id") for message in newest) is has_batches


def test_stream_that_takes_no_batches_any_more_still_stores(gateway: Gateway) -> None:
    put(gateway, "off", ack="fsync")
    config = ask_broker(gateway, "STREAM.INFO.off", {})["config"]
    ask_broker(gateway, "STREAM.UPDATE.off", config | {"allow_atomic": False})
    answers = produce_at_once(gateway, "off", [b"%d" % n for n in range(20)])
    assert {answer.status for answer in answers} == {200}
    sequences = [int(answer.header("Nats-Sequence") or 0) for answer in answers]
    assert sequences == [*range(1, 21)]
    assert set(batches(gateway, "off")) == {None}


def test_broker_that_answers_before_it_syncs_is_409_and_told_at_the_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, env=ALWAYS) as running:
        assert put(running, "a", ack="fsync").status == 201
    with serving(data) as running:
        refused = put(running, "b", ack="fsync")
        assert (refused.status, refused.header("Error-Code")) == (409, "conflict")
        assert b'set nats.sync_interval = \\"always\\"' in refused.body
        done = run_fastgw("station", "change", "a", "--ack", "fsync", "--data", str(data))
        assert done.returncode == 1
        assert 'set nats.sync_interval = "always" and start again' in done.stderr
        assert "station a: its ack fsync is not kept: the embedded broker" in running.log_text()
        assert running.produce("a", b"x").status == 200
