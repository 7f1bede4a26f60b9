"""The server pool and the waits between dials, without a socket."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fastgw.config_types import NatsConfig
from fastgw.nats.credentials import UserInfo
from fastgw.nats.servers import DISCOVERED_MAX, Backoff, Server, ServerPool, parse_server


def pool_of(*urls: str) -> ServerPool:
    return ServerPool([parse_server(url) for url in urls], random.Random(1))


def test_parse_server_each_form() -> None:
    assert parse_server("nats://h:1") == Server("h", 1, False, "h")
    assert parse_server("tls://h") == Server("h", 4222, True, "h")
    assert parse_server("[::1]:5") == Server("::1", 5, False, "::1")
    assert parse_server("nats://a:b%40c@h:1").userinfo == UserInfo("a", "b@c")
    assert parse_server("nats://token@h:1").userinfo == UserInfo("token", None)


def test_label_and_repr_hide_the_user() -> None:
    server = parse_server("tls://ada:sesame@[::1]:5")
    assert server.label == "tls://[::1]:5"
    assert "sesame" not in repr(server)
    assert "ada" not in repr(server)


def test_merge_takes_the_present_members_and_keeps_the_configured() -> None:
    pool = pool_of("tls://ada:pw@first.example:1")
    first = pool.servers[0]
    pool.merge(["10.0.0.2:2", "[::3]:3", "first.example:1", "no port:x"], first)
    second, third = pool.servers[1:]
    assert second == Server("10.0.0.2", 2, True, "first.example", UserInfo("ada", "pw"))
    assert third.address == ("::3", 3)
    pool.merge(None, first)
    pool.merge("nonsense", first)
    assert len(pool.servers) == 3, "an INFO without the key changes nothing"
    pool.merge(["10.0.0.4:4"], second)
    assert [server.address for server in pool.servers] == [("first.example", 1), ("10.0.0.4", 4)]
    assert pool.servers[1].tls_name == "first.example"


def test_merge_endless_list_is_bounded() -> None:
    pool = pool_of("nats://h:1")
    pool.merge([f"h:{port}" for port in range(2, 1000)], pool.servers[0])
    assert len(pool.servers) == 1 + DISCOVERED_MAX


def test_round_every_server_once_and_the_avoided_last() -> None:
    pool = pool_of(*(f"nats://h:{port}" for port in range(1, 9)))
    orders = {tuple(server.port for server in pool.round()) for _ in range(20)}
    assert len(orders) > 10
    assert all(sorted(order) == list(range(1, 9)) for order in orders)
    first, second = pool.servers[3], pool.servers[1]
    pool.put_off(first)
    assert all(pool.round()[-1] == first for _ in range(20))
    pool.put_off(second)
    assert all(pool.round()[-2:] == [first, second] for _ in range(20))
    pool.put_off(first)
    assert all(pool.round()[-2:] == [second, first] for _ in range(20))
    pool.forgive()
    assert len({pool.round()[-1] for _ in range(100)}) > 1


@given(st.integers(1, 60_000), st.integers(1, 600_000), st.integers(0, 2**32))
def test_backoff_waits_stay_between_their_bounds(low_ms: int, high_ms: int, seed: int) -> None:
    config = NatsConfig(reconnect_wait_ms_min=low_ms, reconnect_wait_ms_max=high_ms)
    backoff = Backoff(config, random.Random(seed))
    top = max(low_ms, high_ms) / 1000
    for number in range(1, 40):
        bound = min(top, low_ms / 1000 * 2.0**number)
        assert low_ms / 1000 <= backoff.next_s() <= max(bound, low_ms / 1000) + 1e-9


def test_backoff_grows_and_starts_over_after_reset() -> None:
    class Top(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    backoff = Backoff(NatsConfig(reconnect_wait_ms_min=50, reconnect_wait_ms_max=1000), Top())
    assert [backoff.next_s() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    backoff.reset()
    assert backoff.next_s() == 0.1
