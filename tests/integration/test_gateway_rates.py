"""How much a user, an API key and an address may ask of a real gateway, and when it may again."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest

from tests.wire.gateway import (
    ADMIN,
    CHANGE_S_MAX,
    PASSWORD,
    Gateway,
    free_port,
    serving,
    wait_until,
)
from tests.wire.raw_http import Wire, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.wire.raw_http import Response

BURST_S: Final = 10.0
USER_REQUESTS_PER_S: Final = 2.0
KEY_REQUESTS_PER_S: Final = 0.5
USER_BYTES_PER_S: Final = 20_000.0
KEY_BYTES_PER_S: Final = 10_000.0
ADDRESS_REQUESTS_PER_S: Final = 1.0
ADDRESS_BYTES_PER_S: Final = 10_000.0
PER_ADDRESS_MAX: Final = 4

LATE_S_MAX: Final = 5.0
"""LIMIT: how much later than told a busy test machine may see it work again."""


def check_refused(response: Response, rate_per_s: float = 0.0) -> int:
    """Check every promise of a 429; return the seconds it tells."""
    assert response.status == 429, response
    assert response.header("error-code") == "rate-limited"
    assert response.header("access-control-allow-origin") == "*"
    assert response.header("connection") is None, "the connection itself is well"
    answer = response.json()
    assert answer["success"] is False
    assert "has asked more than its rate" in answer["error"]
    told = response.all("retry-after")
    assert len(told) == 1
    seconds = int(told[0])
    assert seconds >= 1
    if rate_per_s:
        assert seconds <= math.ceil(1 / rate_per_s), "the next request may come after one interval"
    return seconds


def ask_until_refused(ask: Callable[[], Response], burst: int, rate_per_s: float) -> Response:
    """Use a bucket up; check that it held what it promised, and no more than it refilled."""
    start = time.monotonic()
    count = 0
    while (response := ask()).status != 429:
        assert response.status < 500, response
        count += 1
        refilled = (time.monotonic() - start) * rate_per_s
        assert count <= burst + refilled + 1, f"{count} of a burst of {burst}"
    assert count >= burst, f"refused after {count} of {burst}"
    return response


def check_used_up(ask: Callable[[], Response], burst: int, rate_per_s: float) -> None:
    """Check that who asks shares a bucket that was just used up: one of its own grants a burst.

    WHY not that the next one is refused: what was left, and what comes meanwhile, may make one;
    and a second one for what came since the refusal.
    """
    start = time.monotonic()
    granted = sum(ask().status != 429 for _ in range(burst))
    refilled = (time.monotonic() - start) * rate_per_s
    assert granted <= refilled + 2, f"{granted} of {burst}"


def works_again(ask: Callable[[], Response], told_s: int, status: int = 200) -> None:
    """Wait until it works, which is at the time told."""
    wait_until(lambda: ask().status == status, told_s + LATE_S_MAX, "it works again")


# --- users and keys -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Rates of users and keys; none of addresses."""
    env = {
        "FASTGW_RATE_USER_REQUESTS_PER_S": str(USER_REQUESTS_PER_S),
        "FASTGW_RATE_USER_BYTES_PER_S": str(USER_BYTES_PER_S),
        "FASTGW_RATE_KEY_REQUESTS_PER_S": str(KEY_REQUESTS_PER_S),
        "FASTGW_RATE_KEY_BYTES_PER_S": str(KEY_BYTES_PER_S),
        "FASTGW_RATE_BURST_S": str(BURST_S),
    }
    with serving(tmp_path_factory.mktemp("rates") / "data", env=env) as running:
        yield running


SECRET: Final = "the-password-of-a-user-1"


def administer(gateway: Gateway, path: str, body: object) -> Response:
    """Ask as the admin, whose own rate may want a wait."""
    found: list[Response] = []

    def is_answered() -> bool:
        found[:] = [
            gateway.ask(path, json.dumps(body).encode(), method="PUT", headers=gateway.auth())
        ]
        return found[0].status != 429

    wait_until(is_answered, 10, "the admin's turn")
    assert found[0].status in (200, 201), found[0]
    return found[0]


def make_user(gateway: Gateway, name: str) -> str:
    administer(gateway, f"/users/{name}", {"password": SECRET})
    login = {"username": name, "password": SECRET}
    wait_until(lambda: gateway.authenticate(login).status == 200, CHANGE_S_MAX, name)
    return gateway.token(name, SECRET)


def make_key(gateway: Gateway, name: str) -> str:
    text = administer(gateway, f"/keys/{name}", {}).json()["key"]
    assert isinstance(text, str)
    return text


def produce(gateway: Gateway, token: str, body: bytes = b"x", query: str = "") -> Response:
    headers = {} if query else {"Authorization": f"Bearer {token}"}
    return gateway.ask(f"/stations/rated/produce/single{query}", body, headers=headers)


def test_user_above_its_requests_is_429_until_the_time_told(gateway: Gateway) -> None:
    token = make_user(gateway, "many")
    burst = int(USER_REQUESTS_PER_S * BURST_S)
    refused = ask_until_refused(lambda: produce(gateway, token), burst, USER_REQUESTS_PER_S)
    told_s = check_refused(refused, USER_REQUESTS_PER_S)
    assert b"many has asked more" in refused.body
    works_again(lambda: produce(gateway, token), told_s)


def test_key_above_its_requests_is_429_and_asking_on_costs_nothing(gateway: Gateway) -> None:
    key = make_key(gateway, "busy")
    burst = int(KEY_REQUESTS_PER_S * BURST_S)
    refused = ask_until_refused(lambda: produce(gateway, key), burst, KEY_REQUESTS_PER_S)
    told_s = check_refused(refused, KEY_REQUESTS_PER_S)
    assert b"key:busy has asked more" in refused.body
    assert key.encode() not in refused.body
    # It is asked all the time meanwhile; a refusal that took from the bucket would never end.
    works_again(lambda: produce(gateway, key), told_s)


def test_key_counts_in_whatever_form_it_comes(gateway: Gateway) -> None:
    key = make_key(gateway, "forms")
    forms = [
        lambda: produce(gateway, key),
        lambda: produce(gateway, key, query=f"?authorization={key}"),
        lambda: produce(gateway, key, query=f"?access_token={key}"),
        lambda: gateway.ask(
            "/stations/rated/produce/single", b"x", headers={"X-API-Key": key}
        ),
    ]  # fmt: skip
    statuses = [forms[n % len(forms)]().status for n in range(12)]
    assert statuses[:5] == [200] * 5, "a burst of five"
    assert statuses.count(429) >= 5, statuses


def test_user_counts_over_its_tokens_connections_and_passwords(gateway: Gateway) -> None:
    make_user(gateway, "spread")
    login = {"username": "spread", "password": SECRET}
    tokens = [gateway.authenticate(login).json()["jwt"] for _ in range(3)]
    burst = int(USER_REQUESTS_PER_S * BURST_S)
    start = time.monotonic()
    statuses = [produce(gateway, tokens[n % 3]).status for n in range(burst * 2)]
    spent_s = time.monotonic() - start
    assert statuses.count(200) <= burst + spent_s * USER_REQUESTS_PER_S + 1
    assert 429 in statuses


def test_user_above_its_requests_does_not_slow_others(gateway: Gateway) -> None:
    loud, quiet = make_user(gateway, "loud"), make_user(gateway, "quiet")
    burst = int(USER_REQUESTS_PER_S * BURST_S)
    ask_until_refused(lambda: produce(gateway, loud), burst, USER_REQUESTS_PER_S)
    assert produce(gateway, quiet).status == 200
    assert gateway.ask("/healthz", None, method="GET").status == 200
    login = {"username": "loud", "password": SECRET}
    assert gateway.authenticate(login).status == 200, "who they are is no request of theirs"


def test_user_counts_batches_and_consumes_too(gateway: Gateway) -> None:
    token = make_user(gateway, "mixed")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    wait = b'{"consumer_name":"c","batch_max_wait_time_ms":1}'
    turn = 0

    def ask() -> Response:
        nonlocal turn
        turn += 1
        action, body = (("produce/batch", b"[1]"), ("consume/batch", wait))[turn % 2]
        return gateway.ask(f"/stations/rated/{action}", body, headers=headers)

    burst = int(USER_REQUESTS_PER_S * BURST_S)
    check_refused(ask_until_refused(ask, burst, USER_REQUESTS_PER_S), USER_REQUESTS_PER_S)


def test_first_message_of_a_new_station_is_counted_once(gateway: Gateway) -> None:
    """The request waits until its station is made, and goes on as the one that it was."""
    token = make_user(gateway, "founder")
    headers = {"Authorization": f"Bearer {token}"}
    body = b"b" * int(USER_BYTES_PER_S * (BURST_S + 2))
    first = gateway.ask("/stations/founded/produce/single", body, headers=headers)
    assert first.status == 200, "it was admitted before its station was made"
    check_refused(produce(gateway, token))


@pytest.mark.parametrize("kind", ["user", "key"])
def test_bytes_above_the_rate_are_429_for_as_long_as_told(gateway: Gateway, kind: str) -> None:
    rate = USER_BYTES_PER_S if kind == "user" else KEY_BYTES_PER_S
    credential = (make_user if kind == "user" else make_key)(gateway, "heavy")
    # One body may pass the bound, since its size is known behind the head; the next one waits.
    body = b"b" * int(rate * (BURST_S + 2))
    assert produce(gateway, credential, body).status == 200
    told_s = check_refused(produce(gateway, credential))
    assert 1 <= told_s <= 2, "two seconds' worth above the burst"
    works_again(lambda: produce(gateway, credential), told_s)


def test_pipelined_requests_above_the_rate_are_429_in_order(gateway: Gateway) -> None:
    key = make_key(gateway, "piped")
    one = build("/stations/rated/produce/single", b"x", headers={"Authorization": f"Bearer {key}"})
    responses = gateway.exchange(one * 30)
    statuses = [response.status for response in responses]
    assert len(statuses) == 30
    assert statuses[:5] == [200] * 5
    assert statuses.count(429) >= 20
    for response in responses[5:]:
        if response.status == 429:
            check_refused(response, KEY_REQUESTS_PER_S)


def test_refused_body_is_dropped_and_the_connection_serves_on(gateway: Gateway) -> None:
    key = make_key(gateway, "dropped")
    ask_until_refused(lambda: produce(gateway, key), 5, KEY_REQUESTS_PER_S)
    target = "/stations/rated/produce/single"
    with gateway.wire() as wire:
        wire.send(build(target, b"z" * 5000, headers={"X-API-Key": key}))
        check_refused(wire.expect(), KEY_REQUESTS_PER_S)
        wire.send(build("/healthz", None, method="GET"))
        assert wire.expect().status == 200


def test_user_that_administers_is_counted(gateway: Gateway) -> None:
    body = {"password": SECRET, "permissions": ["admin"]}
    administer(gateway, "/users/chief", body)
    login = {"username": "chief", "password": SECRET}
    wait_until(lambda: gateway.authenticate(login).status == 200, CHANGE_S_MAX, "chief")
    headers = {"Authorization": f"Bearer {gateway.token('chief', SECRET)}"}
    burst = int(USER_REQUESTS_PER_S * BURST_S)

    def ask() -> Response:
        return gateway.ask("/users/chief", None, method="GET", headers=headers)

    check_refused(ask_until_refused(ask, burst, USER_REQUESTS_PER_S), USER_REQUESTS_PER_S)


# --- addresses ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Rates of addresses, and a listener that a proxy on this machine speaks to."""
    folder = tmp_path_factory.mktemp("proxied")
    config = folder / "fastgw.toml"
    config.write_text(
        f'[[listeners]]\nlisten = "127.0.0.1:{free_port()}"\nproxy_from = ["127.0.0.1"]\n'
    )
    config.chmod(0o600)
    env = {
        "FASTGW_RATE_ADDRESS_REQUESTS_PER_S": str(ADDRESS_REQUESTS_PER_S),
        "FASTGW_RATE_ADDRESS_BYTES_PER_S": str(ADDRESS_BYTES_PER_S),
        "FASTGW_RATE_BURST_S": str(BURST_S),
        "FASTGW_LIMITS_CONNECTIONS_PER_ADDRESS_MAX": str(PER_ADDRESS_MAX),
    }
    with serving(folder / "data", ("--config", str(config)), env) as running:
        yield running


@pytest.fixture(scope="module")
def token(behind_proxy: Gateway) -> str:
    """A token, asked for as a client of its own address."""
    body = json.dumps({"username": ADMIN, "password": PASSWORD}).encode()
    response = ask_from(behind_proxy, "203.0.113.200", build("/auth/authenticate", body))
    assert response.status == 200, response
    found = response.json()["jwt"]
    assert isinstance(found, str)
    return found


def proxied(gateway: Gateway, client: str) -> Wire:
    """Connect as the proxy does on behalf of `client`."""
    told = json.loads((gateway.data / "gateway.json").read_bytes())
    parts = urlsplit(told["listeners"][1])
    assert parts.hostname and parts.port
    wire = Wire((parts.hostname, parts.port))
    family, here = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "192.0.2.1")
    wire.send(f"PROXY {family} {client} {here} 40000 443\r\n".encode())
    return wire


def ask_from(gateway: Gateway, client: str, data: bytes) -> Response:
    with proxied(gateway, client) as wire:
        wire.send(data)
        return wire.expect()


PROBE: Final = build("/healthz", None, method="GET")
ADDRESS_BURST: Final = int(ADDRESS_REQUESTS_PER_S * BURST_S)


def use_up(gateway: Gateway, client: str, data: bytes = PROBE) -> int:
    """Use up what an address may ask; return the seconds it is told to wait."""
    refused = ask_until_refused(
        lambda: ask_from(gateway, client, data), ADDRESS_BURST, ADDRESS_REQUESTS_PER_S
    )
    return check_refused(refused, ADDRESS_REQUESTS_PER_S)


def check_address_used_up(gateway: Gateway, client: str, data: bytes = PROBE) -> None:
    """Check that an address shares a bucket that was just used up."""
    check_used_up(lambda: ask_from(gateway, client, data), ADDRESS_BURST, ADDRESS_REQUESTS_PER_S)


@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8:7::1"])
def test_address_told_by_the_proxy_is_counted(behind_proxy: Gateway, client: str) -> None:
    told_s = use_up(behind_proxy, client)
    assert ask_from(behind_proxy, "198.51.100.250", PROBE).status == 200, "another address"
    works_again(lambda: ask_from(behind_proxy, client, PROBE), told_s)


def test_addresses_of_one_ipv6_network_are_one_client(behind_proxy: Gateway) -> None:
    use_up(behind_proxy, "2001:db8:8:1::1")
    check_address_used_up(behind_proxy, "2001:db8:8:1:ffff::2")
    assert ask_from(behind_proxy, "2001:db8:8:2::1", PROBE).status == 200
    use_up(behind_proxy, "198.51.100.8")
    # The same machine.
    check_address_used_up(behind_proxy, "::ffff:198.51.100.8")


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (10, build("/stations/rated/produce/single", b"x")),
        (11, build("/stations/rated/produce/single", b"x", headers={"X-API-Key": "fgw_wrong"})),
        (12, build("/nothing", None, method="GET")),
        (13, build("/auth/refreshToken", b'{"jwt_refresh_token":"wrong"}')),
        (14, build("/stations/rated/produce/single", None, method="OPTIONS")),
        (15, build("/stations/rated/produce/single", None, method="PUT")),
    ],
    ids=["no credential", "wrong key", "unknown path", "wrong refresh", "preflight", "method"],
)
def test_flood_without_a_credential_is_counted_by_address(
    behind_proxy: Gateway, number: int, data: bytes
) -> None:
    told_s = use_up(behind_proxy, f"198.51.100.{number}", data)
    assert told_s == 1
    other = ask_from(behind_proxy, f"198.51.100.{number + 100}", data)
    assert other.status in (204, 400, 401, 405), other


def test_flood_of_wrong_passwords_is_counted_before_a_hash_is_made(behind_proxy: Gateway) -> None:
    body = json.dumps({"username": "nobody", "password": "wrong"}).encode()
    client = "198.51.100.30"
    # Other requests use the rate up; the password then costs no hash and no wait in the throttle.
    use_up(behind_proxy, client)
    waits: list[float] = []
    for _ in range(5):
        start = time.monotonic()
        answer = ask_from(behind_proxy, client, build("/auth/authenticate", body))
        if answer.status == 429:
            check_refused(answer, ADDRESS_REQUESTS_PER_S)
            waits.append(time.monotonic() - start)
    # Not each: what was left of the burst, and what comes meanwhile, may make a request.
    assert waits
    assert min(waits) < 1.0


def test_flood_of_bytes_without_a_credential_is_counted(behind_proxy: Gateway) -> None:
    client, size = "198.51.100.31", 50_000
    data = build("/stations/rated/produce/single", b"x" * size)
    bytes_max = ADDRESS_BYTES_PER_S * BURST_S
    for _ in range(int(bytes_max) // size + 2):
        response = ask_from(behind_proxy, client, data)
        if response.status == 429:
            break
    check_refused(response)


def test_bytes_of_an_address_above_the_rate_are_429(behind_proxy: Gateway, token: str) -> None:
    client = "198.51.100.32"
    headers = {"Authorization": f"Bearer {token}"}
    body = b"b" * int(ADDRESS_BYTES_PER_S * (BURST_S + 2))
    data = build("/stations/rated/produce/single", body, headers=headers)
    assert ask_from(behind_proxy, client, data).status == 200
    told_s = check_refused(ask_from(behind_proxy, client, PROBE))
    assert 1 <= told_s <= 2
    works_again(lambda: ask_from(behind_proxy, client, PROBE), told_s)


def test_one_connection_and_many_are_counted_alike(behind_proxy: Gateway) -> None:
    client = "198.51.100.33"
    with proxied(behind_proxy, client) as wire:

        def ask() -> Response:
            wire.send(PROBE)
            return wire.expect()

        ask_until_refused(ask, ADDRESS_BURST, ADDRESS_REQUESTS_PER_S)
    check_address_used_up(behind_proxy, client)


def test_header_that_names_an_address_is_not_believed(behind_proxy: Gateway) -> None:
    client = "198.51.100.34"
    use_up(behind_proxy, client)
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        data = build("/healthz", None, method="GET", headers={name: "192.0.2.99"})
        check_address_used_up(behind_proxy, client, data)


def test_connections_of_one_address_are_bounded(behind_proxy: Gateway) -> None:
    client = "198.51.100.40"
    held: list[Wire] = []
    try:
        for _ in range(PER_ADDRESS_MAX):
            wire = proxied(behind_proxy, client)
            held.append(wire)
            wire.send(PROBE)
            assert wire.expect().status == 200
        with proxied(behind_proxy, client) as late:
            late.send(PROBE)
            responses = late.drain()
            assert [response.status for response in responses] in ([], [503])
            for response in responses:
                assert response.header("connection") == "close"
                assert int(response.header("retry-after") or 0) >= 1
        assert ask_from(behind_proxy, "198.51.100.41", PROBE).status == 200, "another address"
        held.pop().close()

        def has_room() -> bool:
            with proxied(behind_proxy, client) as again:
                again.send(PROBE)
                response = again.receive()
                return response is not None and response.status == 200

        wait_until(has_room, 10, "room for another connection")
    finally:
        for wire in held:
            wire.close()
