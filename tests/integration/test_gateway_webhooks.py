"""Webhook senders at a real gateway: who signed may produce, and nobody learns a secret."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.wire.gateway import ADMIN, PASSWORD, Gateway, run_fastgw, serving, wait_until
from tests.wire.raw_http import Mode, build, chunked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.wire.raw_http import Response

WHSEC: Final = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
WHSEC_NEW: Final = "whsec_" + base64.b64encode(b"abcdefghijklmnopqrstuvwxyz012345").decode()
KEY: Final = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
WHPK: Final = "whpk_" + base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
SECRET: Final = "It's a Secret to Everybody"
# The promise is a second; a busy machine gets five, and without the watch it would be for ever.
IN_FORCE_S: Final = 5.0
"""LIMIT: a change of a station holds in every worker within a second."""

Headers = dict[str, str]


def digest(secret: str, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), body, hashlib.sha256)


def github(body: bytes, secret: str = SECRET) -> Headers:
    return {"X-Hub-Signature-256": "sha256=" + digest(secret, body).hex(), "X-GitHub-Event": "push"}


def fivetran(body: bytes, secret: str = SECRET) -> Headers:
    return {"X-Fivetran-Signature-256": digest(secret, body).hex().upper()}


def shopify(body: bytes, secret: str = SECRET) -> Headers:
    return {"X-Shopify-Hmac-Sha256": base64.b64encode(digest(secret, body)).decode()}


def stripe(body: bytes, secret: str = SECRET, at: int | None = None) -> Headers:
    seconds = str(at or int(time.time()))
    signed = digest(secret, seconds.encode() + b"." + body).hex()
    return {"Stripe-Signature": f"t={seconds},v0=00,v1={'0' * 64},v1={signed}"}


def standard(
    body: bytes,
    secret: str = WHSEC,
    *,
    at: int | None = None,
    identity: str = "msg_1",
    prefix: str = "webhook",
) -> Headers:
    seconds = str(at or int(time.time()))
    message = f"{identity}.{seconds}.".encode() + body
    if secret == WHPK:
        signature = "v1a," + base64.b64encode(KEY.sign(message)).decode()
    else:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        mac = hmac.digest(key, message, hashlib.sha256)
        signature = "v1," + base64.b64encode(mac).decode()
    return {
        f"{prefix}-id": identity,
        f"{prefix}-timestamp": seconds,
        f"{prefix}-signature": signature,
    }


def own(body: bytes, secret: str = SECRET) -> Headers:
    seconds = str(int(time.time()))
    mac = hmac.digest(secret.encode(), f"7.{seconds}.".encode() + body, hashlib.sha512)
    return {"X-Sign": "v=" + base64.b64encode(mac).decode(), "X-Time": seconds, "X-Number": "7"}


OWN_FIELDS: Final = (
    "header=X-Sign",
    "prefix=v=",
    "encoding=base64",
    "algorithm=sha512",
    "signed=id.ts.body",
    "timestamp_header=X-Time",
    "id_header=X-Number",
)


@dataclass(frozen=True)
class Sender:
    """One kind of sender: how its station is set up, and how it signs."""

    preset: str
    secret: str
    sign: Callable[..., Headers]
    fields: tuple[str, ...] = ()


SENDERS: Final = {
    "github": Sender("github", SECRET, github),
    "fivetran": Sender("fivetran", SECRET, fivetran),
    "shopify": Sender("shopify", SECRET, shopify),
    "stripe": Sender("stripe", SECRET, stripe),
    "standard": Sender("standard-webhooks", WHSEC, standard),
    "ed25519": Sender("standard-webhooks", WHPK, partial(standard, secret=WHPK)),
    "svix": Sender("svix", WHSEC, partial(standard, prefix="svix")),
    "own": Sender("hmac", SECRET, own, OWN_FIELDS),
}
senders = pytest.mark.parametrize("name", SENDERS)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {"FASTGW_STATIONS_AUTO_CREATE": "true"}
    with serving(tmp_path_factory.mktemp("webhooks") / "data", env=env) as running:
        for name, sender in SENDERS.items():
            fields = dict(field.split("=", 1) for field in sender.fields)
            verifier = {"preset": sender.preset, "secrets": [sender.secret], **fields}
            body = json.dumps({"verifier": verifier}).encode()
            made = running.ask(f"/stations/{name}", body, headers=running.auth(), method="PUT")
            assert made.status == 201, made
        yield running
    for secret in (SECRET, WHSEC, WHSEC_NEW):
        assert secret not in running.log_text()


def setup(gateway: Gateway, verb: str, name: str, sender: Sender) -> str:
    """Add or change a station that such a sender may produce to."""
    fields = [word for field in sender.fields for word in ("--webhook-field", field)]
    options = ["--webhook", sender.preset, "--webhook-secret-stdin", *fields]
    stdin = sender.secret + "\n"
    done = run_fastgw("station", verb, name, *options, "--data", str(gateway.data), stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def send(
    gateway: Gateway, name: str, body: bytes, headers: Headers, way: str = "produce/single"
) -> Response:
    return gateway.ask(f"/stations/{name}/{way}", body, headers=headers)


@senders
def test_signed_request_is_stored_to_the_byte(gateway: Gateway, name: str) -> None:
    sender = SENDERS[name]
    bodies = [b'{"n": 1}', b"", bytes(range(256)), "é".encode() * 200_000]
    for number, body in enumerate(bodies):
        # WHY: an id of Standard Webhooks is the message's, so the same one is stored once.
        more = (
            {"identity": f"msg_{number}"} if sender.preset in ("standard-webhooks", "svix") else {}
        )
        response = send(gateway, name, body, sender.sign(body, **more))
        assert response.status == 200, response
    assert [message.data for message in gateway.stored(name)] == bodies


@senders
def test_request_that_is_not_signed_is_401(gateway: Gateway, name: str) -> None:
    sender, body = SENDERS[name], b'{"n":2}'
    before = len(gateway.stored(name))
    good = sender.sign(body)
    for headers in (
        {},
        sender.sign(body + b" "),
        {key: value for key, value in good.items() if key != next(iter(good))},
        {key: value[:-3] + "AAA" for key, value in good.items()},
    ):
        response = send(gateway, name, body, headers)
        assert response.status == 401, response
        assert response.header("error-code") == "unauthorized"
        assert sender.secret.encode() not in response.body
    assert len(gateway.stored(name)) == before


@senders
def test_repeated_header_is_401(gateway: Gateway, name: str) -> None:
    body = b"twice"
    good = SENDERS[name].sign(body)
    for key, value in good.items():
        if key == "X-GitHub-Event":
            continue
        for other in (value, "other"):
            for both in ([(key, other)], []):
                fields = [*both, *good.items()] if both else [*good.items(), (key, other)]
                raw = build(f"/stations/{name}/produce/single", body, headers=fields)
                (response,) = gateway.exchange(raw)
                assert response.status == 401, (key, other, response)


@pytest.mark.parametrize("name", ["stripe", "standard", "ed25519", "svix"])
def test_old_and_early_signatures_are_401(gateway: Gateway, name: str) -> None:
    for shift in (-310, 310):
        headers = SENDERS[name].sign(b"x", at=int(time.time()) + shift)
        assert send(gateway, name, b"x", headers).status == 401
    headers = SENDERS[name].sign(b"x", at=int(time.time()) - 250)
    assert send(gateway, name, b"x", headers).status == 200


def test_signature_opens_nothing_but_produce_to_its_station(gateway: Gateway) -> None:
    body = b'{"consumer_name":"c","batch_max_wait_time_ms":1}'
    signed = github(body)
    assert send(gateway, "github", body, signed, "consume/batch").status == 401
    assert send(gateway, "fivetran", body, signed).status == 401
    assert send(gateway, "nowhere", body, signed).status == 401
    for method, path in (
        ("GET", "/stations"),
        ("GET", "/stations/github"),
        ("PUT", "/stations/github"),
        ("DELETE", "/stations/github"),
    ):
        assert gateway.ask(path, body, headers=signed, method=method).status == 401
    stations = gateway.ask("/stations", headers=gateway.auth(), method="GET").json()
    assert "nowhere" not in {station["name"] for station in stations}


def test_batch_is_signed_as_a_whole(gateway: Gateway) -> None:
    body = b'[{"a":1},{"a":2}]'
    before = len(gateway.stored("github"))
    headers = github(body) | {"Content-Type": "application/json"}
    assert send(gateway, "github", body, headers, "produce/batch").status == 200
    assert [one.data for one in gateway.stored("github")[before:]] == [b'{"a":1}', b'{"a":2}']
    assert send(gateway, "github", body[:-1] + b" ]", headers, "produce/batch").status == 401


@pytest.mark.parametrize("mode", ["whole", "bytes"])
def test_signed_body_in_pieces(gateway: Gateway, mode: Mode) -> None:
    body = b'{"in":"pieces"}'
    target = "/stations/github/produce/single"
    whole = build(target, body, headers=github(body))
    framed = {**github(body), "Transfer-Encoding": "chunked"}
    pieces = build(target, None, headers=framed) + chunked(body)
    for data in (whole, pieces, whole + pieces):
        responses = gateway.exchange(data, mode)
        assert [response.status for response in responses] == [200] * (
            2 if data == whole + pieces else 1
        )


def test_other_credential_goes_before_the_signature(gateway: Gateway) -> None:
    body = b"x"
    unsigned = send(gateway, "github", body, gateway.auth())
    assert unsigned.status == 200
    wrong = github(body) | {"Authorization": "Bearer nonsense"}
    assert send(gateway, "github", body, wrong).status == 401
    query = gateway.ask(
        "/stations/github/produce/single?access_token=nonsense", body, headers=github(body)
    )
    assert query.status == 401


def test_compressed_body_is_signed_as_sent_and_stored_as_meant(gateway: Gateway) -> None:
    plain = b'{"compressed":true}' * 100
    body = gzip.compress(plain)
    coded = {"Content-Encoding": "gzip"}
    assert send(gateway, "github", body, github(body) | coded).status == 200
    assert gateway.stored("github")[-1].data == plain
    assert send(gateway, "github", body, github(plain) | coded).status == 401


def test_webhook_id_makes_a_repeated_delivery_one_message(gateway: Gateway) -> None:
    body = b'{"once":true}'
    first = send(gateway, "standard", body, standard(body, identity="msg_once"))
    again = send(gateway, "standard", body, standard(body, identity="msg_once"))
    assert (first.status, again.status) == (200, 200)
    assert again.header("nats-duplicate") == "true"
    assert [one.data for one in gateway.stored("standard")].count(body) == 1


def test_secret_is_rotated_and_taken_away_within_a_second(gateway: Gateway) -> None:
    name = "rotated"
    old, new = Sender("svix", WHSEC, standard), Sender("svix", WHSEC_NEW, standard)
    setup(gateway, "add", name, old)

    def status(secret: str, number: list[int] = [0]) -> int:  # noqa: B006
        number[0] += 1
        headers = standard(b"x", secret, identity=f"msg_{number[0]}")
        return send(gateway, name, b"x", headers).status

    wait_until(lambda: status(WHSEC) == 200, IN_FORCE_S, "the first secret")
    assert status(WHSEC_NEW) == 401
    setup(gateway, "change", name, Sender("svix", f"{WHSEC_NEW}\n{WHSEC}", standard))
    wait_until(lambda: status(WHSEC_NEW) == 200, IN_FORCE_S, "both secrets")
    assert status(WHSEC) == 200
    setup(gateway, "change", name, new)
    wait_until(lambda: status(WHSEC) == 401, IN_FORCE_S, "the new secret alone")
    assert status(WHSEC_NEW) == 200
    done = run_fastgw("station", "change", name, "--no-webhook", "--data", str(gateway.data))
    assert done.returncode == 0, done.stderr
    wait_until(lambda: status(WHSEC_NEW) == 401, IN_FORCE_S, "no verifier")
    assert send(gateway, name, b"x", gateway.auth()).status == 200


def test_secrets_are_never_shown(gateway: Gateway) -> None:
    shown = [setup(gateway, "change", "github", SENDERS["github"])]
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("info", "github"),
        ("info", "github", "--json"),
    ):
        done = run_fastgw("station", *arguments, "--data", str(gateway.data))
        assert done.returncode == 0, done.stderr
        shown += [done.stdout, done.stderr]
    for path in ("/stations", "/stations/github"):
        shown.append(gateway.ask(path, headers=gateway.auth(), method="GET").body.decode())
    assert any("github" in text for text in shown)
    for text in shown:
        assert SECRET not in text and WHSEC not in text
    station = gateway.ask("/stations/github", headers=gateway.auth(), method="GET").json()
    assert station["verifier"] == {"preset": "github", "secrets": 1}


def test_admin_route_sets_a_verifier_and_names_a_wrong_field(gateway: Gateway) -> None:
    def put(verifier: Any) -> Response:
        body = json.dumps({"verifier": verifier}).encode()
        return gateway.ask("/stations/routed", body, headers=gateway.auth(), method="PUT")

    assert put({"preset": "github", "secrets": ["first-secret"]}).status == 201
    body = b"by route"
    wait_until(
        lambda: send(gateway, "routed", body, github(body, "first-secret")).status == 200,
        IN_FORCE_S,
        "the verifier",
    )
    for verifier, word in (
        ({"preset": "github", "secrets": []}, "secrets"),
        ({"preset": "svix", "secrets": ["hidden-but-bad"]}, "secrets"),
        ({"preset": "hmac", "secrets": ["hidden-but-bad"]}, "header"),
        ({"preset": "gitlab", "secrets": ["hidden-but-bad"]}, "preset"),
        ({"preset": "github", "secrets": ["hidden-but-bad"], "colour": "red"}, "colour"),
    ):
        response = put(verifier)
        assert response.status == 400, response
        assert word in response.json()["error"]
        assert b"hidden-but-bad" not in response.body
    assert send(gateway, "routed", body, github(body, "first-secret")).status == 200
    assert put(None).status == 200
    wait_until(
        lambda: send(gateway, "routed", body, github(body, "first-secret")).status == 401,
        IN_FORCE_S,
        "no verifier",
    )


def test_own_scheme_by_the_command_line(gateway: Gateway) -> None:
    setup(gateway, "add", "by-command", SENDERS["own"])
    body = b"by command"
    wait_until(
        lambda: send(gateway, "by-command", body, own(body)).status == 200,
        IN_FORCE_S,
        "the verifier",
    )


def test_argocd_basic_auth_and_any_body(gateway: Gateway) -> None:
    word = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {word}", "User-Agent": "Go-http-client/1.1"}
    body = b'{"app": "guestbook",}'
    assert send(gateway, "argo", body, headers).status == 200
    assert gateway.stored("argo")[-1].data == body


def test_cloudevents_query_token_and_handshake(gateway: Gateway) -> None:
    target = f"/stations/events/produce/single?access_token={gateway.token()}"
    event = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    body = b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}'
    assert gateway.ask(target, body, headers=event).status == 200
    asks = {"WebHook-Request-Origin": "eventemitter.example.com", "WebHook-Request-Rate": "120"}
    for path in ("/stations/events/produce/single", "/stations/github/produce/single"):
        response = gateway.ask(path, None, headers=asks, method="OPTIONS")
        assert response.status in (200, 204), response
        assert response.header("webhook-allowed-origin") in ("eventemitter.example.com", "*")
        assert response.header("webhook-allowed-rate")
        assert "POST" in (response.header("allow") or "")
