"""Who may do what: permissions and globs, and how soon a change holds for tokens in use."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.wire.gateway import (
    ADMIN,
    CHANGE_S_MAX,
    PASSWORD,
    Gateway,
    run_fastgw,
    serving,
    wait_until,
)
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.raw_http import Response

SECRET = "the-password-of-a-user-1"
# The promise is a second; a busy machine gets five, and without the watch it would be for ever.


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two users beside the admin."""
    with serving(tmp_path_factory.mktemp("users") / "data") as running:
        add(running, "producer", "--permission", "produce", "--station", "orders.*")
        add(running, "consumer", "--permission", "consume")
        yield running


def user(gateway: Gateway, *arguments: str, stdin: str = "") -> str:
    done = run_fastgw("user", *arguments, "--data", str(gateway.data), stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add(gateway: Gateway, name: str, *arguments: str) -> None:
    user(gateway, "add", name, "--password-stdin", *arguments, stdin=SECRET + "\n")
    wait_until(
        lambda: gateway.authenticate({"username": name, "password": SECRET}).status == 200,
        CHANGE_S_MAX * 2,
        f"user {name}",
    )


def ask(gateway: Gateway, token: str, station: str, action: str) -> Response:
    body = b'{"consumer_name":"c","batch_max_wait_time_ms":50}' if "consume" in action else b"[1]"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return gateway.ask(f"/stations/{station}/{action}", body, headers=headers)


def check_forbidden(response: Response) -> None:
    assert response.status == 403
    assert list(response.json()) == ["error", "success"]
    assert response.json()["success"] is False
    assert response.header("error-code") == "forbidden"


def test_permissions_and_globs_are_kept(gateway: Gateway) -> None:
    gateway.produce("orders.eu", b"x")
    producer = gateway.token("producer", SECRET)
    consumer = gateway.token("consumer", SECRET)
    assert ask(gateway, producer, "orders.eu", "produce/single").status == 200
    assert ask(gateway, producer, "orders.eu", "produce/batch").status == 200
    check_forbidden(ask(gateway, producer, "orders.eu", "consume/batch"))
    check_forbidden(ask(gateway, producer, "payments", "produce/single"))
    check_forbidden(ask(gateway, producer, "orders", "produce/batch"))
    assert ask(gateway, consumer, "orders.eu", "consume/batch").status == 200
    check_forbidden(ask(gateway, consumer, "orders.eu", "produce/single"))
    assert gateway.stored("payments") == []
    assert gateway.stored("orders") == []


def test_forbidden_station_is_not_created(gateway: Gateway) -> None:
    token = gateway.token("producer", SECRET)
    check_forbidden(ask(gateway, token, "never.made", "produce/single"))
    assert "never" not in run_fastgw("station", "list", "--data", str(gateway.data)).stdout


def test_new_password_revokes_cached_tokens_within_a_second(gateway: Gateway) -> None:
    add(gateway, "changes")
    pair = gateway.authenticate({"username": "changes", "password": SECRET}).json()
    request = build(
        "/stations/changes/produce/single",
        b"x",
        headers={"Authorization": f"Bearer {pair['jwt']}"},
    )
    with gateway.wire() as wire:
        wire.send(request)
        assert wire.expect().status == 200
        user(gateway, "passwd", "changes", "--password-stdin", stdin="another-password-1\n")
        start = time.monotonic()

        def is_refused() -> bool:
            wire.send(request)
            return wire.expect().status == 401

        wait_until(is_refused, 10, "401 for the old token")
        assert time.monotonic() - start < CHANGE_S_MAX
    body = json.dumps({"jwt_refresh_token": pair["jwt_refresh_token"]}).encode()
    assert gateway.ask("/auth/refreshToken", body).status == 401
    assert gateway.authenticate({"username": "changes", "password": SECRET}).status == 401
    changed = {"username": "changes", "password": "another-password-1"}
    assert gateway.authenticate(changed).status == 200


def test_removed_user_is_refused_and_does_not_come_back(gateway: Gateway) -> None:
    add(gateway, "leaves")
    token = gateway.token("leaves", SECRET)
    assert ask(gateway, token, "leaves", "produce/single").status == 200
    user(gateway, "rm", "leaves")
    wait_until(
        lambda: ask(gateway, token, "leaves", "produce/single").status == 401, CHANGE_S_MAX, "401"
    )
    assert gateway.authenticate({"username": "leaves", "password": SECRET}).status == 401
    # Made anew under the same name, it is another user: the old token stays void.
    add(gateway, "leaves")
    assert ask(gateway, token, "leaves", "produce/single").status == 401


def test_user_list_shows_no_hash(gateway: Gateway) -> None:
    for arguments in (("list",), ("list", "--json")):
        text = user(gateway, *arguments)
        assert "producer" in text
        assert "scrypt" not in text
        assert SECRET not in text


def test_basic_follows_a_password_change(gateway: Gateway) -> None:
    import base64

    add(gateway, "basic")

    def produce(password: str) -> int:
        credential = base64.b64encode(f"basic:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {credential}"}
        return gateway.ask("/stations/basic/produce/single", b"x", headers=headers).status

    assert produce(SECRET) == 200
    assert produce(SECRET) == 200
    user(gateway, "passwd", "basic", "--password-stdin", stdin="another-password-2\n")
    wait_until(lambda: produce(SECRET) == 401, CHANGE_S_MAX * 2, "401 for the old password")
    assert produce("another-password-2") == 200


def test_guessing_is_slowed_for_the_guesser_alone(gateway: Gateway) -> None:
    add(gateway, "guessed")
    wrong = {"username": "guessed", "password": "wrong"}
    start = time.monotonic()
    for _ in range(8):
        assert gateway.authenticate(wrong).status == 401
    assert time.monotonic() - start > 0.5
    start = time.monotonic()
    assert gateway.authenticate({"username": ADMIN, "password": PASSWORD}).status == 200
    assert time.monotonic() - start < 5


def test_auto_create_off_is_404(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"FASTGW_STATIONS_AUTO_CREATE": "false"}
    with serving(tmp_path_factory.mktemp("closed") / "data", env=env) as running:
        for action in ("produce/single", "produce/batch", "consume/batch"):
            response = ask(running, running.token(), "unknown", action)
            assert response.status == 404
            assert response.header("error-code") == "station-unknown"
            assert response.json()["success"] is False
        added = run_fastgw("station", "add", "known", "--data", str(running.data))
        assert added.returncode == 0, added.stderr
        wait_until(
            lambda: ask(running, running.token(), "known", "produce/single").status == 200,
            CHANGE_S_MAX * 2,
            "the new station",
        )
        assert len(running.stored("unknown")) == 0


def test_mode_none_lets_everyone_in_on_loopback(tmp_path_factory: pytest.TempPathFactory) -> None:
    env = {"FASTGW_AUTH_MODE": "none"}
    with serving(tmp_path_factory.mktemp("open") / "data", env=env) as running:
        target = "/stations/open/produce/single"
        assert running.ask(target, b"x").status == 200
        assert running.ask(target, b"x", headers={"Authorization": "Bearer x"}).status == 200
        assert running.ask("/nothing", b"x").status == 404
