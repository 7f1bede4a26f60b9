"""Key sets over HTTP and HTTPS, from a real server on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import pytest

from fastgw.config_types import AuthConfig, Config, IssuerConfig
from fastgw.control import jwks
from fastgw.control.issuers import Issuers
from fastgw.control.jwks import ANSWER_BYTES_MAX, KeySetError, fetch
from fastgw.control.tokens import TokenError
from fastgw.errors import Fault, UpstreamFault
from fastgw.handlers.auth import Auth
from tests.integration.certificates import Authority
from tests.unit.handler_fakes import FakeKeys, FakeRequest, FakeUsers
from tests.unit.signing_fakes import tokens as make_tokens
from tests.unit.token_forge import (
    AUDIENCE,
    ISSUER,
    ed_key,
    forge,
    make_jwk,
    outside_claims,
    signer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Page = Callable[[BaseHTTPRequestHandler], None]

WAIT_S_MAX = 10.0


class KeyServer:
    """A server of pages; counts who asked for what."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.close_connection = True
                try:
                    outer.pages.get(self.path, status(404))(self)
                except OSError:
                    outer.asked.append("gone")

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                outer.asked.append("error")

        self._server = Server(("127.0.0.1", 0), Handler)
        scheme = "http"
        if tls is not None:
            scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def publish(self, *keys: Any, path: str = "/jwks") -> None:
        self.pages[path] = answer(json.dumps({"keys": keys}).encode())

    def stop(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join(WAIT_S_MAX)
        self._server.server_close()


def answer(body: bytes, code: int = 200, **headers: str) -> Page:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return page


def status(code: int) -> Page:
    return answer(b"{}", code)


def redirect(url: str, code: int = 302) -> Page:
    return answer(b"", code, Location=url)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    running = KeyServer()
    yield running
    running.stop()


ED = make_jwk(ed_key("ed"), "EdDSA", "ed")
SECOND = make_jwk(ed_key("b"), "EdDSA", "b")


def token_of(key: str = "ed", kid: str | None = None, **claims: Any) -> str:
    header = {"alg": "EdDSA", "kid": kid or key}
    return forge(header, outside_claims(**claims), signer(ed_key(key), "EdDSA"))


def make(url: str, **fields: Any) -> Issuers:
    whole: dict[str, Any] = {
        "name": "login",
        "issuer": ISSUER,
        "audience": [AUDIENCE],
        "permissions": {"write": ["produce"]},
        "timeout_ms": 5000,
        **fields,
    }
    return Issuers([IssuerConfig(jwks_url=url, **whole)])


async def verify(issuers: Issuers, token: str) -> str:
    found = issuers.verify(token)
    return (await found if isawaitable(found) else found).user


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_url_keys_verify_and_unknown_ones_are_fetched(server: KeyServer) -> None:
    server.publish(ED)
    issuers = make(server.url + "/jwks")
    await issuers.start()
    assert await verify(issuers, token_of()) == "zoe"
    assert len(server.asked) == 1
    server.publish(ED, SECOND)
    assert await verify(issuers, token_of("b")) == "zoe"
    assert len(server.asked) == 2
    # Both are known now, and a third unknown one has to wait its ten seconds.
    for key in ("ed", "b"):
        assert await verify(issuers, token_of(key)) == "zoe"
    with pytest.raises(TokenError):
        await verify(issuers, token_of("c"))
    assert len(server.asked) == 2
    await issuers.close()


async def test_identify_flood_of_unknown_kids_costs_one_fetch(server: KeyServer) -> None:
    server.publish(ED)
    issuers = make(server.url + "/jwks")
    await issuers.start()
    config = Config(auth=AuthConfig())
    users: Any = FakeUsers()
    keys: Any = FakeKeys()
    auth = Auth(config, users, keys, make_tokens(), issuers)

    async def identify(token: str) -> str | None:
        fields = {b"authorization": f"Bearer {token}".encode()}
        found = auth.identify(FakeRequest(fields=fields))
        principal = await found if isawaitable(found) else found
        return principal and principal.user

    tokens = [token_of("thief", kid=f"k{n}") for n in range(200)]
    found = await asyncio.gather(*(identify(token) for token in [*tokens, token_of()]))
    assert found == [None] * 200 + ["login:zoe"]
    assert [await identify(token) for token in tokens] == [None] * 200
    assert len(server.asked) == 2
    await issuers.close()


async def test_url_is_fetched_again_and_a_withdrawn_key_ends(server: KeyServer) -> None:
    server.publish(ED, SECOND)
    issuers = make(server.url + "/jwks", refresh_s=0.02)
    removals: list[int] = []
    issuers.on_removal(lambda: removals.append(1))
    await issuers.start()
    assert await verify(issuers, token_of("b")) == "zoe"
    server.publish(ED)
    await wait_until(lambda: bool(removals))
    with pytest.raises(TokenError):
        await verify(issuers, token_of("b"))
    assert await verify(issuers, token_of()) == "zoe"
    await issuers.close()


async def test_url_away_keeps_the_keys_and_logs_once(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastgw.control")
    server.publish(ED)
    issuers = make(server.url + "/jwks", refresh_s=0.01)
    await issuers.start()
    server.pages["/jwks"] = status(503)
    before = len(server.asked)
    await wait_until(lambda: len(server.asked) > before + 5)
    assert await verify(issuers, token_of()) == "zoe"
    assert caplog.text.count("cannot be read: KeySetError: the answer's status is 503") == 1
    server.publish(ED)
    await wait_until(lambda: caplog.text.count("login has 1 usable keys") == 2)
    await issuers.close()


async def test_start_with_the_issuer_away_recovers_by_itself(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "RETRY_S", 0.02)
    issuers = make(server.url + "/jwks")
    await issuers.start()
    with pytest.raises(UpstreamFault, match="cannot be read yet"):
        await verify(issuers, token_of())
    server.publish(ED)
    (issuer,) = issuers._each()
    await wait_until(lambda: issuer.source.is_loaded)
    assert await verify(issuers, token_of()) == "zoe"
    await issuers.close()


async def test_slow_issuer_never_holds_the_loop(server: KeyServer) -> None:
    def hold(handler: BaseHTTPRequestHandler) -> None:
        server.release.wait(WAIT_S_MAX)
        status(500)(handler)

    server.publish(ED)
    issuers = make(server.url + "/jwks", timeout_ms=60_000)
    await issuers.start()
    server.pages["/jwks"] = hold
    waiting = [asyncio.ensure_future(verify(issuers, token_of("b"))) for _ in range(20)]
    await wait_until(lambda: len(server.asked) == 2)
    # Meanwhile the others are served, at once.
    began = time.monotonic()
    for _ in range(50):
        await asyncio.sleep(0)
        assert await verify(issuers, token_of()) == "zoe"
    assert time.monotonic() - began < 5
    assert not any(task.done() for task in waiting)
    server.release.set()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, Fault) and outcome.kind.status == 401
    assert len(server.asked) == 2
    await issuers.close()


async def test_issuer_that_never_answers_is_given_up(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    def hold(handler: BaseHTTPRequestHandler) -> None:
        server.release.wait(WAIT_S_MAX)

    server.pages["/jwks"] = hold
    began = time.monotonic()
    issuers = make(server.url + "/jwks", timeout_ms=100)
    await issuers.start()
    assert time.monotonic() - began < 5
    assert "cannot be read" in caplog.text
    await issuers.close()


# --- what is fetched ----------------------------------------------------------------------------


def test_fetch_follows_redirects_of_the_same_scheme(server: KeyServer) -> None:
    server.publish(ED)
    for code in (301, 302, 303, 307, 308):
        server.pages["/moved"] = redirect("/jwks", code)
        assert json.loads(fetch(server.url + "/moved", 5))["keys"] == [ED]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/jwks",
        "data:application/json,{}",
        "http://example.com/jwks",
        "http://127.0.0.1.nip.io/jwks",
        "https://127.0.0.1/jwks",
    ],
)
def test_fetch_redirect_to_elsewhere_is_refused(server: KeyServer, url: str) -> None:
    server.pages["/moved"] = redirect(url)
    with pytest.raises(KeySetError):
        fetch(server.url + "/moved", 5)
    assert server.asked == ["/moved"]


def test_fetch_too_many_redirects_are_refused(server: KeyServer) -> None:
    for n in range(9):
        server.pages[f"/{n}"] = redirect(f"/{n + 1}")
    with pytest.raises(KeySetError, match="status is 302"):
        fetch(server.url + "/0", 5)
    assert len(server.asked) == jwks.REDIRECTS_COUNT_MAX + 1
    server.pages["/loop"] = redirect("/loop")
    with pytest.raises(KeySetError, match="status is 302"):
        fetch(server.url + "/loop", 5)
    assert len(server.asked) < 20


@pytest.mark.parametrize("code", [201, 204, 206, 300, 304, 400, 401, 404, 500])
def test_fetch_other_status_is_refused(server: KeyServer, code: int) -> None:
    server.pages["/jwks"] = answer(b"", code)
    with pytest.raises(KeySetError, match=f"status is {code}"):
        fetch(server.url + "/jwks", 5)


def test_fetch_answer_at_the_bound_and_above(server: KeyServer) -> None:
    server.pages["/jwks"] = answer(b" " * ANSWER_BYTES_MAX)
    assert len(fetch(server.url + "/jwks", 5)) == ANSWER_BYTES_MAX
    server.pages["/jwks"] = answer(b" " * (ANSWER_BYTES_MAX + 1))
    with pytest.raises(KeySetError, match=f"exceeds {ANSWER_BYTES_MAX} bytes"):
        fetch(server.url + "/jwks", 5)


def test_fetch_endless_answer_is_cut_off(server: KeyServer) -> None:
    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(64):
            handler.wfile.write(b"40000\r\n" + b" " * 0x40000 + b"\r\n")
            sent.append(0x40000)

    server.pages["/jwks"] = endless
    with pytest.raises(KeySetError, match=f"exceeds {ANSWER_BYTES_MAX} bytes"):
        fetch(server.url + "/jwks", 5)
    assert sum(sent) < 64 * 0x40000


def test_fetch_answer_that_comes_in_drops_is_given_up(server: KeyServer) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.release.wait(0.02):
            handler.wfile.write(b" ")

    server.pages["/jwks"] = drip
    with pytest.raises(KeySetError, match="too slowly"):
        fetch(server.url + "/jwks", 0.2)


def test_fetch_answer_that_ends_early_is_refused(server: KeyServer) -> None:
    server.pages["/jwks"] = answer(b'{"keys":[]}', Content_Length="50")
    with pytest.raises(KeySetError, match="ended 39 bytes early"):
        fetch(server.url + "/jwks", 5)


def test_fetch_from_this_machine_asks_no_proxy(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.publish(ED)
    assert fetch(server.url + "/jwks", 5)


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[KeyServer]:
    issued = authority.issue("server", "localhost", is_server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert_file, issued.key_file)
    running = KeyServer(context)
    yield running
    running.stop()


def test_fetch_https_needs_a_certificate_that_is_trusted(
    tls_server: KeyServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls_server.publish(ED)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(tls_server.url + "/jwks", 5)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    assert json.loads(fetch(tls_server.url + "/jwks", 5))["keys"] == [ED]


def test_fetch_https_never_falls_back_to_http(
    tls_server: KeyServer,
    server: KeyServer,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    server.publish(ED)
    tls_server.pages["/moved"] = redirect(server.url + "/jwks")
    with pytest.raises(KeySetError, match="another scheme"):
        fetch(tls_server.url + "/moved", 5)
    assert server.asked == []
