"""Damaged requests by the hundred: each ends in a defined answer, and what is stored was answered.

The damage is random with a fixed seed, so that a failure can be repeated.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fastgw.errors import KINDS
from tests.wire.raw_http import build, chunked

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.wire.gateway import Gateway

CASES_COUNT = 250
STATUSES = {200, 204, 405} | {kind.status for kind in KINDS.values()}
ALPHABET = b"\r\n\0 \t:;,/?#%*>.-+\"'{}[]\\\x7f\x80\xff09azAZ"


def flip(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(len(data))] = dice.choice(ALPHABET)


def drop(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(data))
    del data[start : start + dice.randint(1, 8)]


def insert(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    data[at:at] = bytes(dice.choice(ALPHABET) for _ in range(dice.randint(1, 8)))


def repeat(data: bytearray, dice: random.Random) -> None:
    start = dice.randrange(len(data))
    data[start:start] = data[start : start + dice.randint(1, 60)]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip, drop, insert, repeat]


def requests_of(gateway: Gateway, station: str) -> list[bytes]:
    single = f"/stations/{station}/produce/single"
    headers = gateway.auth(X_Mine="yes", Content_Type="application/json")
    jdk = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAAA"}
    return [
        build(f"{single}?subject=a.b", b'{"a":1}', headers=headers),
        build(single, None, headers=headers | {"Transfer-Encoding": "chunked"})
        + chunked(b'{"a":1}', 3),
        build(single, b'{"a":1}', headers=headers | jdk),
        build(f"/stations/{station}/produce/batch?results=true", b'[1,{"a":2}]', headers=headers),
        build(
            f"/stations/{station}/consume/batch",
            b'{"consumer_name":"c","batch_max_wait_time_ms":1}',
            headers=headers,
        ),
        build("/auth/authenticate", b'{"username":"","account_id":"1"}', headers=headers),
    ]


@pytest.mark.parametrize("kind", range(6))
def test_damaged_requests_end_in_a_defined_answer(
    gateway: Gateway, station: str, kind: int
) -> None:
    gateway.produce(station, b"first")
    dice = random.Random(kind)
    whole = requests_of(gateway, station)[kind]
    behind = build("/monitoring/status", None, method="GET")
    for number in range(CASES_COUNT):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            dice.choice(DAMAGES)(data, dice)
        responses = gateway.exchange(bytes(data) + behind)
        shown = (kind, number, bytes(data))
        assert len(responses) <= 4, shown
        for response in responses:
            assert response.status in STATUSES, shown
            assert response.status != 500, shown
            if response.status >= 400:
                assert isinstance(response.json(), dict), shown
        if len(responses) > 1:
            # A refusal whose framing is unknown must be the last word.
            assert all(r.header("connection") != "close" for r in responses[:-1]), shown
    for message in gateway.stored(station):
        assert message.subject == station or message.subject.startswith(f"{station}.")
        assert message.header("Nats-Rollup") is None
    gateway.produce(station, b"after")
