"""Routes, verbs and the headers that stand on every answer."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

from tests.wire.raw_http import build

if TYPE_CHECKING:
    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Response

DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT")


@pytest.mark.parametrize("path", ["/", "/monitoring/status", "/healthz", "/readyz"])
def test_probe_answers_without_credentials(gateway: Gateway, path: str) -> None:
    response = gateway.ask(path, None, method="GET")
    assert (response.status, response.body) == (200, b'{"status":"ok"}')
    assert response.header("content-type") == "application/json"


@pytest.mark.parametrize("path", ["/", "/monitoring/status", "/healthz", "/readyz"])
def test_probe_head_has_the_length_and_no_body(gateway: Gateway, path: str) -> None:
    with gateway.wire(["HEAD", "GET"]) as wire:
        wire.send(build(path, None, method="HEAD") + build(path, None, method="GET"))
        head, get = wire.expect(), wire.expect()
    assert head.status == get.status == 200
    assert head.body == b""
    assert head.header("content-length") == get.header("content-length") == str(len(get.body))


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/auth/authenticate", "GET", {"POST"}),
        ("/auth/refreshToken", "PUT", {"POST"}),
        ("/", "POST", {"GET", "HEAD"}),
        ("/monitoring/status", "DELETE", {"GET", "HEAD"}),
        ("/stations/routes/produce/single", "GET", {"POST"}),
        ("/stations/routes/produce/single", "HEAD", {"POST"}),
        ("/stations/routes/produce/batch", "PUT", {"POST"}),
        ("/stations/routes/consume/batch", "GET", {"POST"}),
        ("/stations/never-made/produce/single", "PATCH", {"POST"}),
    ],
)
def test_wrong_verb_is_405_with_allow(
    gateway: Gateway, path: str, method: str, allow: set[str]
) -> None:
    response = gateway.ask(path, b"", method=method, headers=gateway.auth())
    assert response.status == 405
    told = {word.strip() for word in (response.header("allow") or "").split(",")}
    assert allow <= told <= allow | {"OPTIONS"}
    assert response.header("error-code") == "method-not-allowed"
    if method != "HEAD":
        assert response.json()["success"] is False
        assert isinstance(response.json()["error"], str)


UNKNOWN = [
    "/nothing",
    "/auth",
    "/auth/authenticate/x",
    "/AUTH/authenticate",
    "/stations/",
    "/stations/x/produce",
    "/stations/x/produce/",
    "/stations/x/produce/single/",
    "/stations/x/produce/other",
    "//stations/x/produce/single",
    "/stations//produce/single",
    "/monitoring",
    "/%00",
    "/..%2f..%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_path_is_401_then_404(gateway: Gateway, path: str) -> None:
    refused = gateway.ask(path, b"x")
    assert (refused.status, refused.body) == (401, b'{"message":"Unauthorized"}')
    found = gateway.ask(path, b"x", headers=gateway.auth())
    assert found.status in (400, 404) if "%00" in path or "//p" in path else found.status == 404
    assert found.json()["success"] is False
    assert found.header("error-code")


def every_kind(gateway: Gateway) -> dict[str, Response]:
    """One response of each status that needs no broken broker."""
    auth = gateway.auth()
    single = "/stations/kinds/produce/single"
    return {
        "200": gateway.ask(single, b"x", headers=auth),
        "204": gateway.ask(
            single, None, method="OPTIONS",
            headers={"Origin": "http://a.test", "Access-Control-Request-Method": "POST"},
        ),
        "400": gateway.ask("/stations/kinds/produce/batch", b"{", headers=auth),
        "400 framing": gateway.exchange(b"POST / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n")[0],
        "401": gateway.ask(single, b"x"),
        "404": gateway.ask("/nothing", b"x", headers=auth),
        "405": gateway.ask(single, b"x", method="PUT", headers=auth),
        "413": gateway.exchange(
            build(single, None, headers=auth | {"Content-Length": "99999999999"})
        )[0],
        "414": gateway.exchange(build("/" + "a" * 20_000))[0],
        "417": gateway.ask(single, b"x", headers=auth | {"Expect": "the-unexpected"}),
        "431": gateway.exchange(build(single, headers=auth | {"X": "a" * 40_000}))[0],
    }  # fmt: skip


def test_every_answer_has_cors_date_and_a_length(gateway: Gateway) -> None:
    for kind, response in every_kind(gateway).items():
        assert str(response.status) == kind[:3], (kind, response)
        assert response.all("access-control-allow-origin") == ["*"], kind
        assert response.header("access-control-allow-credentials") is None, kind
        dates = response.all("date")
        assert len(dates) == 1, kind
        assert DATE.fullmatch(dates[0]), dates
        assert abs(parsedate_to_datetime(dates[0]).timestamp() - time.time()) < 30, dates
        assert len(response.all("content-length")) == (0 if kind == "204" else 1), kind
        if response.status >= 400:
            assert response.header("error-code"), kind
            assert response.header("content-type") == "application/json", kind
            assert isinstance(response.json(), dict), kind


def test_cors_exposes_what_produce_tells(gateway: Gateway, station: str) -> None:
    response = gateway.produce(station, b"x", {"Origin": "https://page.test"})
    exposed = (response.header("access-control-expose-headers") or "").lower()
    for name in ("nats-stream", "nats-sequence", "nats-duplicate", "error-code", "retry-after"):
        assert name in exposed


@pytest.mark.parametrize(
    "path", ["/stations/any/produce/single", "/auth/authenticate", "/nowhere/known"]
)
def test_preflight_is_204_before_auth(gateway: Gateway, path: str) -> None:
    asked = {
        "Origin": "https://page.test",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-mine",
    }
    response = gateway.ask(path, None, method="OPTIONS", headers=asked)
    assert (response.status, response.body) == (204, b"")
    assert response.header("content-length") is None
    assert "POST" in (response.header("access-control-allow-methods") or "")
    allowed = (response.header("access-control-allow-headers") or "").lower()
    # SOURCE: Fetch, "*" does not cover Authorization, so it must be named.
    assert {"authorization", "content-type", "*"} <= {name.strip() for name in allowed.split(",")}
    assert response.header("access-control-max-age")


def test_preflight_keeps_the_connection(gateway: Gateway) -> None:
    asked = {"Origin": "https://page.test", "Access-Control-Request-Method": "POST"}
    preflight = build("/stations/any/produce/single", None, method="OPTIONS", headers=asked)
    status = build("/", None, method="GET")
    responses = gateway.exchange(preflight + status, methods=["OPTIONS", "GET"])
    assert [response.status for response in responses] == [204, 200]


def test_percent_encoded_path_is_decoded_once(gateway: Gateway, station: str) -> None:
    assert gateway.produce(station.replace("-", "%2D"), b"x").status == 200
    twice = f"/stations/{station.replace('-', '%252D')}/produce/single"
    assert gateway.ask(twice, b"x", headers=gateway.auth()).status == 400
    assert len(gateway.stored(station)) == 1


def test_absolute_form_target_is_served(gateway: Gateway, station: str) -> None:
    target = f"http://fastgw.test/stations/{station}/produce/single"
    assert gateway.ask(target, b"x", headers=gateway.auth()).status == 200
    assert gateway.ask("http://fastgw.test", None, method="GET").status == 200
