"""Stations with a policy of their own: which headers pass, and which `Nats-` wishes are granted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.gateway import Gateway, ask_broker, run_fastgw, serving, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.raw_http import Response


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("stations") / "data") as running:
        yield running


def station(gateway: Gateway, *arguments: str) -> str:
    done = run_fastgw("station", *arguments, "--data", str(gateway.data))
    assert done.returncode == 0, done.stderr
    return done.stdout


def produce(gateway: Gateway, name: str, body: bytes = b"x", **headers: str) -> Response:
    auth = gateway.auth(**headers)
    return gateway.ask(f"/stations/{name}/produce/single", body, headers=auth)


def names(gateway: Gateway, name: str) -> set[str]:
    return {key for message in gateway.stored(name) for key, _ in message.headers}


def test_headers_none_forwards_only_the_id(gateway: Gateway) -> None:
    station(gateway, "add", "plain", "--headers", "none")
    assert produce(gateway, "plain", X_Mine="1", Nats_Msg_Id="id", traceparent="00-a").status == 200
    # The trace context is always copied, and the id is the broker's.
    assert names(gateway, "plain") <= {"Nats-Msg-Id", "traceparent"}
    assert "Nats-Msg-Id" in names(gateway, "plain")


def test_headers_globs_choose(gateway: Gateway) -> None:
    station(gateway, "add", "chosen", "--headers", "X-GitHub-*", "--headers", "content-type")
    headers = {"X-GitHub-Event": "push", "X-Other": "1", "Content-Type": "text/plain"}
    auth = gateway.auth() | headers | {"traceparent": "00-b"}
    assert gateway.ask("/stations/chosen/produce/single", b"x", headers=auth).status == 200
    assert names(gateway, "chosen") == {"X-GitHub-Event", "Content-Type", "traceparent"}


def test_headers_globs_cannot_let_the_brokers_own_through(gateway: Gateway) -> None:
    station(gateway, "add", "greedy", "--headers", "*")
    assert produce(gateway, "greedy", b"1").status == 200
    assert produce(gateway, "greedy", b"2", Nats_Rollup="all", Cookie="c").status == 200
    assert [message.data for message in gateway.stored("greedy")] == [b"1", b"2"]
    assert not names(gateway, "greedy") & {"Nats-Rollup", "Cookie", "Authorization"}


def test_expected_sequence_where_allowed_is_409(gateway: Gateway) -> None:
    station(gateway, "add", "strict", "--allow-header", "Nats-Expected-Last-Sequence")
    assert produce(gateway, "strict", Nats_Expected_Last_Sequence="0").status == 200
    response = produce(gateway, "strict", Nats_Expected_Last_Sequence="0")
    assert response.status == 409
    assert response.header("error-code") == "sequence-differs"
    assert response.json()["success"] is False
    assert produce(gateway, "strict", nats_expected_last_sequence="1").status == 200
    assert len(gateway.stored("strict")) == 2


def test_full_stream_is_503_with_retry_after(gateway: Gateway) -> None:
    station(gateway, "add", "full")
    info = ask_broker(gateway, "STREAM.INFO.full", {})
    config = info["config"] | {"max_msgs": 2, "discard": "new"}
    assert "error" not in ask_broker(gateway, "STREAM.UPDATE.full", config)
    assert [produce(gateway, "full").status for _ in range(2)] == [200, 200]
    response = produce(gateway, "full")
    assert (response.status, response.header("error-code")) == (503, "stream-full")
    assert int(response.header("retry-after") or 0) >= 1
    headers = gateway.auth(Content_Type="application/json")
    batch = gateway.ask("/stations/full/produce/batch", b"[1,2]", headers=headers)
    assert batch.status == 503
    assert (batch.json()["sent"], batch.json()["fail"]) == (0, 2)


def test_message_above_the_streams_limit_is_413(gateway: Gateway) -> None:
    station(gateway, "add", "narrow")
    info = ask_broker(gateway, "STREAM.INFO.narrow", {})
    ask_broker(gateway, "STREAM.UPDATE.narrow", info["config"] | {"max_msg_size": 500})
    response = produce(gateway, "narrow", b"x" * 1000)
    assert (response.status, response.header("error-code")) == (413, "message-too-large")
    headers = gateway.auth(Content_Type="application/json")
    body = b'[1,"' + b"x" * 1000 + b'",3]'
    batch = gateway.ask("/stations/narrow/produce/batch?results=true", body, headers=headers)
    assert batch.status == 400
    answer = batch.json()
    assert (answer["sent"], answer["fail"]) == (2, 1)
    assert [set(result) for result in answer["results"]] == [{"seq"}, {"error"}, {"seq"}]


def test_removed_station_is_made_anew_or_unknown_never_a_wrong_200(gateway: Gateway) -> None:
    assert produce(gateway, "gone", b"old").status == 200
    station(gateway, "rm", "gone", "--yes")

    def is_new() -> bool:
        response = produce(gateway, "gone", b"new")
        assert response.status in (200, 404, 503), response
        return response.status == 200

    wait_until(is_new, 5, "the station made anew")
    assert {message.data for message in gateway.stored("gone")} == {b"new"}


def test_stream_removed_behind_our_back_is_no_200(gateway: Gateway) -> None:
    assert produce(gateway, "lost").status == 200
    assert ask_broker(gateway, "STREAM.DELETE.lost", {}).get("success")
    response = produce(gateway, "lost")
    assert response.status in (404, 503)
    assert response.json()["success"] is False


def test_names_that_overlap_are_told(gateway: Gateway) -> None:
    assert produce(gateway, "over").status == 200
    response = produce(gateway, "over.lap")
    assert (response.status, response.header("error-code")) == (400, "bad-station")
    assert "over" in response.json()["error"]
