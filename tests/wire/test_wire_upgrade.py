"""`Upgrade` is ignored, and the body behind it arrives: JDK's HttpClient asks for h2c each time.

The parser below reports such a message complete before its body; what then follows would become
the next request. Each case is sent whole, byte by byte, and at every split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.raw_http import build, chunked

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway

JDK = {
    "Connection": "Upgrade, HTTP2-Settings",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade": "h2c",
    "User-Agent": "Java-http-client/17.0.15",
}
# The body is a request of its own: served, it would be smuggled.
BODY = b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n"
FRAMINGS = ["length", "chunked"]
UPGRADES = {
    "jdk": JDK,
    "websocket": {"Connection": "Upgrade", "Upgrade": "websocket"},
    "lower": {"connection": "upgrade", "upgrade": "h2c"},
}


def request(gateway: Gateway, station: str, framing: str, headers: dict[str, str]) -> bytes:
    target = f"/stations/{station}/produce/single"
    fields = headers | {"Authorization": f"Bearer {gateway.token()}", "X-Kept": "yes"}
    if framing == "length":
        return build(target, BODY, headers=fields)
    fields["Transfer-Encoding"] = "chunked"
    return build(target, None, headers=fields) + chunked(BODY, 10)


def check(gateway: Gateway, station: str, count: int) -> None:
    messages = gateway.stored(station)
    assert [message.data for message in messages] == [BODY] * count
    for message in messages:
        assert message.header("X-Kept") == "yes"
        names = {name.lower() for name, _ in message.headers}
        assert not names & {"upgrade", "http2-settings", "connection"}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("kind", UPGRADES)
def test_upgrade_body_arrives_whole_and_byte_by_byte(
    gateway: Gateway, station: str, framing: str, kind: str
) -> None:
    data = request(gateway, station, framing, UPGRADES[kind])
    for mode in ("whole", "bytes"):
        responses = gateway.exchange(data, mode)
        assert [response.status for response in responses] == [200]
        assert responses[0].header("upgrade") is None
    check(gateway, station, 2)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_upgrade_body_arrives_at_every_split(gateway: Gateway, station: str, framing: str) -> None:
    data = request(gateway, station, framing, JDK)
    behind = build("/monitoring/status", None, method="GET")
    for split in range(1, len(data)):
        responses = gateway.exchange(data + behind, split=split)
        assert [response.status for response in responses] == [200, 200], split
        assert responses[1].body == b'{"status":"ok"}', split
    check(gateway, station, len(data) - 1)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("mode", ["whole", "bytes"])
def test_upgrade_several_pipelined(gateway: Gateway, station: str, framing: str, mode: str) -> None:
    data = request(gateway, station, framing, JDK) * 5
    responses = gateway.exchange(data, "bytes" if mode == "bytes" else "whole")
    assert [response.status for response in responses] == [200] * 5
    check(gateway, station, 5)


def test_upgrade_without_a_body_is_served(gateway: Gateway) -> None:
    get = build("/", None, method="GET", headers=JDK)
    responses = gateway.exchange(get + get)
    assert [response.status for response in responses] == [200, 200]


def test_upgrade_with_expect_gets_100_and_the_body(gateway: Gateway, station: str) -> None:
    data = request(gateway, station, "length", JDK | {"Expect": "100-continue"})
    with gateway.wire() as wire:
        wire.send(data[: -len(BODY)])
        assert wire.socket.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(BODY)
        assert wire.expect().status == 200
    check(gateway, station, 1)


def test_upgrade_body_above_the_limit_is_413(gateway: Gateway, station: str) -> None:
    headers = JDK | gateway.auth(Content_Length=str(64 << 20))
    data = build(f"/stations/{station}/produce/single", None, headers=headers)
    responses = gateway.exchange(data + b"x" * 1000)
    assert [response.status for response in responses] == [413]
    assert gateway.stored(station) == []


def test_upgrade_refused_head_keeps_body_out_of_the_next_request(gateway: Gateway) -> None:
    data = build("/nothing", BODY, headers=JDK)
    responses = gateway.exchange(data + build("/", None, method="GET"))
    statuses = [response.status for response in responses]
    assert statuses in ([401, 200], [401])
