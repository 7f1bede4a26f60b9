"""The data plane against real servers: each identity, TLS, deaths, lame duck, clusters, silence."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
import uvloop

from fastgw.errors import UpstreamFault
from fastgw.nats import connection, tls
from fastgw.nats.connection import CredentialsError
from tests.integration.brokers import (
    CHANGE_S_MAX,
    WAIT_S_MAX,
    Broker,
    broker,
    eventually,
    free_port,
    make_certificates,
    quick_config,
    running,
    server_tls,
)
from tests.integration.links import PlainLink, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["broker"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


async def check_live(recorder: Recorder) -> None:
    """The link is live and the broker answers a publish on it."""
    link = await recorder.live_link()
    assert recorder.events[-1] == "live"
    if isinstance(link, PlainLink):
        link.publish("nobody.home")
        await eventually(lambda: link.acks == [b"NATS/1.0 503"])


async def failure_of(config: Any, seconds: float = 20) -> str:
    """Dial until the plane names a reason; nothing may have been live."""
    async with Recorder(config) as recorder:
        await eventually(lambda: bool(recorder.plane.last_error), seconds)
        assert recorder.events == []
        return recorder.plane.last_error


# --- who we are -----------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [False, True])
async def test_dial_open_server_goes_live(broker: Broker, core: bool) -> None:
    async with Recorder(broker.config(), core=core) as recorder:
        await check_live(recorder)
        assert recorder.plane.server == broker.url
        assert recorder.plane.servers == [broker.url]
        if not core:
            assert recorder.live.live_info["max_payload"] == 1048576
    assert recorder.plane.server == ""


async def test_dial_user_and_password_goes_live(tmp_path: Path) -> None:
    users = [{"user": "ada", "password": "p@ss"}, {"user": "data", "password": "d"}]
    with running(tmp_path, {"authorization": {"users": users}}) as one:
        configs = [
            one.config(user="ada", password="p@ss"),
            quick_config([f"nats://ada:p%40ss@127.0.0.1:{one.port}"]),
            one.config(user="ada", password="wrong", data_user="data", data_password="d"),
        ]
        for config in configs:
            async with Recorder(config) as recorder:
                await check_live(recorder)


async def test_dial_token_goes_live(tmp_path: Path) -> None:
    with running(tmp_path, {"authorization": {"token": "s3cret"}}) as one:
        for config in (
            one.config(token="s3cret"),
            quick_config([one.url.replace("//", "//s3cret@")]),
        ):
            async with Recorder(config) as recorder:
                await check_live(recorder)


async def test_dial_wrong_password_told_and_tried_again(tmp_path: Path) -> None:
    users = [{"user": "ada", "password": "right"}]
    with running(tmp_path, {"authorization": {"users": users}}) as one:
        async with Recorder(one.config(user="ada", password="wrong-one")) as recorder:
            await eventually(lambda: len(recorder.links) >= 3)
            error = recorder.plane.last_error
            assert error == f"{one.url} refused the connection: Authorization Violation"
            assert recorder.events == []
            with pytest.raises(UpstreamFault, match="Authorization Violation") as raised:
                await recorder.plane.wait_live(0.01)
            assert raised.value.kind.word == "broker-away"


def user_seed() -> tuple[str, str]:
    seed = nkeys.encode_seed(b"u" * 32, nkeys.PREFIX_BYTE_USER)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_dial_nkey_seed_file_goes_live(tmp_path: Path) -> None:
    seed, public = user_seed()
    path = tmp_path / "user.nk"
    path.write_text(seed + "\n")
    with running(tmp_path / "b", {"authorization": {"users": [{"nkey": public}]}}) as one:
        async with Recorder(one.config(nkey_seed_file=str(path))) as recorder:
            await check_live(recorder)


async def test_dial_nkey_server_without_nkeys_told(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "user.nk"
    path.write_text(user_seed()[0])
    error = await failure_of(broker.config(nkey_seed_file=str(path)))
    assert error == "the broker asks for no signature: it has no nkey or JWT users"


class Issuer:
    """An operator, its account, and user JWTs: what `nsc` would make."""

    def __init__(self) -> None:
        self.operator = self._pair(b"o", nkeys.PREFIX_BYTE_OPERATOR)
        self.account = self._pair(b"a", nkeys.PREFIX_BYTE_ACCOUNT)
        self.user_seed, self.user_public = user_seed()

    @staticmethod
    def _pair(byte: bytes, prefix: int) -> Any:
        return nkeys.from_seed(bytearray(nkeys.encode_seed(byte * 32, prefix)))

    @staticmethod
    def _jwt(signer: Any, subject: str, nats: dict[str, Any], **claims: Any) -> str:
        def part(value: dict[str, Any]) -> bytes:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

        issuer = signer.public_key.decode()
        body = {"jti": "t", "iat": 1, "iss": issuer, "name": "t", "sub": subject, "nats": nats}
        text = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part({**body, **claims})
        signature = base64.urlsafe_b64encode(signer.sign(text)).rstrip(b"=")
        return (text + b"." + signature).decode()

    def options(self) -> dict[str, Any]:
        operator, account = self.operator.public_key.decode(), self.account.public_key.decode()
        unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1}
        unlimited |= {"wildcards": True, "conn": -1, "leaf": -1, "mem_storage": -1}
        unlimited |= {"disk_storage": -1, "streams": -1, "consumer": -1}
        account_jwt = self._jwt(
            self.operator, account, {"limits": unlimited, "type": "account", "version": 2}
        )
        return {
            "operator": self._jwt(self.operator, operator, {"type": "operator", "version": 2}),
            "resolver": "MEMORY",
            "resolver_preload": {account: account_jwt},
            # It would need a system account.
            "jetstream": "disabled",
        }

    def write_creds(self, path: Path, **claims: Any) -> None:
        nats = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        nats |= {"type": "user", "version": 2}
        jwt = self._jwt(self.account, self.user_public, nats, **claims)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.user_seed}\n------END USER NKEY SEED------\n"
        )


async def test_dial_creds_file_goes_live(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "user.creds"
    issuer.write_creds(path)
    with running(tmp_path / "b", issuer.options()) as one:
        async with Recorder(one.config(creds_file=str(path))) as recorder:
            await check_live(recorder)


async def test_dial_expired_creds_backs_off_until_renewed(tmp_path: Path) -> None:
    issuer = Issuer()
    path = tmp_path / "user.creds"
    issuer.write_creds(path, exp=1000)
    with running(tmp_path / "b", issuer.options()) as one:
        config = one.config(creds_file=str(path), reconnect_wait_ms_min=20)
        async with Recorder(config) as recorder:
            await eventually(lambda: len(recorder.links) >= 3)
            loop = asyncio.get_running_loop()
            started, dials = loop.time(), len(recorder.links)
            await eventually(lambda: len(recorder.links) >= dials + 4)
            assert loop.time() - started >= 4 * 0.02, "a PONG before the refusal is no success"
            assert "Expired" in recorder.plane.last_error or "Auth" in recorder.plane.last_error
            issuer.write_creds(path)
            await eventually(lambda: recorder.plane.link is not None)
            await check_live(recorder)


async def test_start_key_file_that_is_no_key_one_clear_line(broker: Broker, tmp_path: Path) -> None:
    path = tmp_path / "file"
    account = nkeys.encode_seed(b"a" * 32, nkeys.PREFIX_BYTE_ACCOUNT).decode()
    jwt = "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n"
    cases = [
        ("nkey_seed_file", None, "cannot read the key file .*No such file"),
        ("nkey_seed_file", "no seed", "holds no valid user seed"),
        ("nkey_seed_file", "SUAA", "holds no valid user seed"),
        ("nkey_seed_file", account, "holds no user seed, but that of another role"),
        ("nkey_seed_file", "x" * 70_000, "larger than 65536 bytes"),
        ("creds_file", "nothing", "holds no user JWT"),
        ("creds_file", jwt, "holds no nkey seed"),
    ]
    for field, content, message in cases:
        if content is not None:
            path.write_text(content)
        with pytest.raises(CredentialsError, match=message) as raised:
            Recorder(broker.config(**{field: str(path)}))
        assert "\n" not in str(raised.value)


async def test_dial_key_file_that_vanishes_told_and_tried_again(
    broker: Broker, tmp_path: Path
) -> None:
    path = tmp_path / "user.nk"
    path.write_text(user_seed()[0])
    recorder = Recorder(broker.config(nkey_seed_file=str(path)))
    path.unlink()
    async with recorder:
        await eventually(lambda: len(recorder.links) >= 2)
    assert "cannot read the key file" in recorder.plane.last_error or (
        "asks for no signature" in recorder.plane.last_error
    )


# --- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", [False, True])
@pytest.mark.parametrize("first", [False, True])
async def test_dial_tls_goes_live(
    tmp_path: Path, certificates: Path, first: bool, core: bool
) -> None:
    with running(tmp_path, server_tls(certificates, handshake_first=first)) as one:
        config = quick_config(
            [f"tls://localhost:{one.port}"],
            tls_ca_file=str(certificates / "ca.pem"),
            tls_handshake_first=first,
        )
        async with Recorder(config, core=core) as recorder:
            await check_live(recorder)
            transport = recorder.live.transport
            assert transport.get_extra_info("ssl_object").version() >= "TLSv1.2"


async def test_dial_tls_client_certificate_goes_live(tmp_path: Path, certificates: Path) -> None:
    fields = {"tls_ca_file": str(certificates / "ca.pem")}
    with running(tmp_path, server_tls(certificates, verify=True)) as one:
        mutual = {
            "tls_cert_file": str(certificates / "client.pem"),
            "tls_key_file": str(certificates / "client.key"),
        }
        async with Recorder(one.config(**fields, **mutual)) as recorder:
            await check_live(recorder)
        error = await failure_of(one.config(**fields))
        assert one.url in error


async def test_dial_tls_server_name_is_checked(tmp_path: Path, certificates: Path) -> None:
    ca = str(certificates / "ca.pem")
    with running(tmp_path, server_tls(certificates)) as one:
        async with Recorder(one.config(tls_ca_file=ca, tls_server_name="broker.test")) as recorder:
            await check_live(recorder)
        error = await failure_of(one.config(tls_ca_file=ca, tls_server_name="other.test"))
        assert error.startswith(f"TLS with {one.url} failed: Hostname mismatch"), error


async def test_dial_tls_unknown_authority_refused(tmp_path: Path, certificates: Path) -> None:
    with running(tmp_path, server_tls(certificates)) as one:
        error = await failure_of(one.config())
        assert error.startswith(f"TLS with {one.url} failed: "), error
        assert "certificate" in error


async def test_dial_tls_demanded_but_not_offered_nothing_secret_sent(
    broker: Broker, certificates: Path
) -> None:
    config = quick_config(
        [broker.url.replace("nats:", "tls:")],
        user="ada",
        password="secret",
        tls_ca_file=str(certificates / "ca.pem"),
    )
    error = await failure_of(config)
    assert "offers no TLS, which the configuration demands" in error
    plain = await failure_of(broker.config(tls_ca_file=str(certificates / "ca.pem")))
    assert "offers no TLS" in plain


async def test_dial_tls_offered_but_optional_is_used_when_demanded(
    tmp_path: Path, certificates: Path
) -> None:
    options = {**server_tls(certificates), "allow_non_tls": True}
    with running(tmp_path, options) as one:
        async with Recorder(one.config()) as recorder:
            await check_live(recorder)
            assert recorder.live.transport.get_extra_info("ssl_object") is None
        async with Recorder(one.config(tls_ca_file=str(certificates / "ca.pem"))) as recorder:
            await check_live(recorder)
            assert recorder.live.transport.get_extra_info("ssl_object") is not None


async def test_dial_tls_file_that_is_missing_told(broker: Broker, tmp_path: Path) -> None:
    config = broker.config(tls_ca_file=str(tmp_path / "none.pem"), tls_handshake_first=True)
    error = await failure_of(config)
    assert error.startswith("cannot use the TLS files (") and "No such file" in error


# --- ends and returns -----------------------------------------------------------------------------


@pytest.mark.parametrize("core", [False, True])
async def test_live_server_killed_and_restarted_goes_live_again(broker: Broker, core: bool) -> None:
    async with Recorder(broker.config(), core=core) as recorder:
        await check_live(recorder)
        broker.kill()
        await eventually(lambda: recorder.events == ["live", "lost"])
        assert recorder.plane.link is None
        await eventually(lambda: "Connect" in recorder.plane.last_error)
        broker.start()
        took_s = await eventually(lambda: recorder.plane.link is not None)
        assert took_s < CHANGE_S_MAX
        await check_live(recorder)


async def test_start_server_away_live_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    one = Broker(tmp_path, port=port)
    try:
        async with Recorder(quick_config([f"nats://127.0.0.1:{port}"])) as recorder:
            await eventually(lambda: len(recorder.links) > 2)
            with pytest.raises(UpstreamFault, match=r"no broker connection within 0.01 s"):
                await recorder.plane.wait_live(0.01)
            one.start()
            await check_live(recorder)
    finally:
        one.stop()


async def test_live_server_hangs_dropped_after_pings(broker: Broker) -> None:
    config = broker.config(ping_interval_ms=100, pings_out_max=2, connect_timeout_ms=200)
    async with Recorder(config) as recorder:
        await check_live(recorder)
        started = asyncio.get_running_loop().time()
        broker.signal(signal.SIGSTOP)
        await eventually(lambda: recorder.events == ["live", "lost"])
        assert 0.15 <= asyncio.get_running_loop().time() - started < CHANGE_S_MAX
        await eventually(lambda: "did not answer within" in recorder.plane.last_error)
        broker.signal(signal.SIGCONT)
        await check_live(recorder)


async def test_live_server_that_hangs_is_dialled_last(tmp_path: Path) -> None:
    with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        urls = [one.url, other.url]
        config = quick_config(
            urls, ping_interval_ms=100, pings_out_max=1, connect_timeout_ms=60_000
        )
        async with Recorder(config) as recorder:
            await recorder.live_link()
            frozen = one if recorder.plane.server == one.url else other
            frozen.signal(signal.SIGSTOP)
            # WHY this shows it: a dial to the frozen one would hold us up for a minute.
            await eventually(lambda: recorder.events == ["live", "lost", "live"])
            frozen.signal(signal.SIGCONT)


async def test_dial_silent_server_does_not_hold_the_others_up(tmp_path: Path) -> None:
    with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        one.signal(signal.SIGSTOP)
        try:
            config = quick_config([one.url, other.url], connect_timeout_ms=60_000)
            for _ in range(4):
                # In random order, so that the silent one comes first in some.
                async with Recorder(config) as recorder:
                    await recorder.live_link()
                    assert recorder.plane.server == other.url
        finally:
            one.signal(signal.SIGCONT)


async def test_live_answered_pings_keep_the_link(broker: Broker) -> None:
    async with Recorder(broker.config(ping_interval_ms=100, pings_out_max=1)) as recorder:
        link = await recorder.live_link()
        pongs: list[None] = []
        told = link.on_pong
        link.on_pong = lambda: (pongs.append(None), told())
        await eventually(lambda: len(pongs) >= 4)
        assert recorder.events == ["live"]


@pytest.mark.parametrize("core", [False, True])
async def test_live_lame_duck_goes_to_the_other_server(tmp_path: Path, core: bool) -> None:
    with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        async with Recorder(quick_config([one.url, other.url]), core=core) as recorder:
            await check_live(recorder)
            first = recorder.plane.server
            old = recorder.live
            duck, left = (one, other) if first == one.url else (other, one)
            duck.lame_duck()
            await eventually(lambda: recorder.events == ["live", "lost", "live"])
            assert recorder.plane.server == left.url
            assert recorder.live is not old
            await eventually(old.transport.is_closing)
            if not core:
                assert old.retired
                await check_live(recorder)


async def test_live_lame_duck_alone_lost_until_it_returns(
    broker: Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RETIRED_S_MAX", 0.2)
    caplog.set_level(logging.WARNING)
    async with Recorder(broker.config()) as recorder:
        link = await recorder.live_link()
        link.stays_busy = True
        broker.lame_duck()
        await eventually(lambda: recorder.events == ["live", "lost"])
        assert link.retired
        assert not link.closed, "what is in flight may still be answered"
        await eventually(lambda: link.closed)
        broker.kill()
        broker.start()
        await check_live(recorder)
    assert "is going away (lame duck)" in caplog.text


async def test_live_server_where_no_stream_answers_is_left_for_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with running(tmp_path / "a") as one, running(tmp_path / "b") as other:
        async with Recorder(quick_config([one.url, other.url])) as recorder:
            link = await recorder.live_link()
            left = recorder.plane.server
            link.barren_ms = 1_000
            await asyncio.sleep(2 * connection.LOOK_S)
            assert recorder.plane.link is link, "a moment is no reason"
            link.barren_ms = 2_500
            await eventually(lambda: recorder.events == ["live", "lost", "live"])
            assert recorder.plane.server != left
            assert link.retired
    assert caplog.text.count("no stream answers for 2.5 s") == 1


async def test_live_only_server_is_kept_though_no_stream_answers(broker: Broker) -> None:
    async with Recorder(broker.config()) as recorder:
        link = await recorder.live_link()
        link.barren_ms = 10_000
        await asyncio.sleep(3 * connection.LOOK_S)
        assert recorder.plane.link is link


async def test_stop_with_retired_link_closes_it(broker: Broker) -> None:
    async with Recorder(broker.config()) as recorder:
        link = await recorder.live_link()
        link.stays_busy = True
        broker.lame_duck()
        await eventually(lambda: link.retired)
    assert link.closed


async def test_live_cluster_members_are_learnt_and_taken(tmp_path: Path) -> None:
    routes = [free_port(), free_port()]

    def options(index: int) -> dict[str, Any]:
        return {
            "server_name": f"s{index}",
            "jetstream": "disabled",
            "cluster": {
                "name": "c",
                "listen": f"127.0.0.1:{routes[index]}",
                "routes": [f"nats://127.0.0.1:{routes[1 - index]}"],
            },
        }

    with running(tmp_path / "a", options(0)) as one:
        async with Recorder(one.config()) as recorder:
            link = await recorder.live_link()
            assert link.live_info["cluster"] == "c"
            with running(tmp_path / "b", options(1)) as other:
                await eventually(lambda: other.url in recorder.plane.servers)
                one.kill()
                await eventually(lambda: recorder.plane.server == other.url)


async def test_live_permission_error_keeps_the_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    user = {"user": "u", "password": "p", "permissions": {"publish": {"deny": ["no"]}}}
    with running(tmp_path, {"authorization": {"users": [user]}}) as one:
        async with Recorder(one.config(user="u", password="p")) as recorder:
            link = await recorder.live_link()
            link.publish("no")
            link.publish("no")
            await eventually(lambda: len(link.errors) == 2)
            await check_live(recorder)
            assert recorder.events == ["live"]
            assert 'Permissions Violation for Publish to "no"' in recorder.plane.last_error
    assert caplog.text.count("Permissions Violation") == 1, "repeats are counted, not written"


async def test_live_fatal_error_told_and_dialled_again(broker: Broker) -> None:
    async with Recorder(broker.config()) as recorder:
        link = await recorder.live_link()
        link.send(b"NONSENSE\r\n")
        await eventually(lambda: len(recorder.events) == 3)
        assert recorder.events == ["live", "lost", "live"]
        assert link.errors == ["'Unknown Protocol Operation'"]


@contextlib.contextmanager
def serving(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of the test's own, in a thread; its URL.

    WHY no asyncio server: it forgets a connection that it accepted in the turn of its close.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(WAIT_S_MAX)
                talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()
        listener.close()


def read_until(connection: socket.socket, end: bytes) -> None:
    data = b""
    while not data.endswith(end):
        received = connection.recv(4096)
        if not received:
            raise ConnectionResetError
        data += received


async def test_stop_while_dialling_leaves_no_socket() -> None:
    seen: list[bytes] = []

    def silent(connection: socket.socket) -> None:
        seen.append(b"accepted")
        seen.append(connection.recv(1))

    with serving(silent) as url:
        async with Recorder(quick_config([url])):
            await eventually(lambda: seen == [b"accepted"])
        await eventually(lambda: seen == [b"accepted", b""])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed the connection before INFO"),
        (b"INFO {}\r\n", "closed the connection before PONG"),
        (b"INFO {nonsense\r\n", "sent no NATS INFO"),
        (b"INFO {}\r\n-ERR 'maximum connections exceeded'\r\n", "maximum connections exceeded"),
        (b'INFO {"tls_required":true}\r\n', "127.0.0.1"),
    ],
    ids=["nothing", "info", "nonsense", "error", "tls"],
)
async def test_dial_server_that_breaks_off_told(answer: bytes, message: str) -> None:
    with serving(lambda connection: connection.sendall(answer)) as url:
        assert message in await failure_of(quick_config([url]))


async def test_dial_server_that_ends_with_its_pong_backs_off() -> None:
    def expire(connection: socket.socket) -> None:
        connection.sendall(b"INFO {}\r\n")
        read_until(connection, b"PING\r\n")
        connection.sendall(b"PONG\r\n-ERR 'User Authentication Expired'\r\n")

    with serving(expire) as url:
        config = quick_config([url], reconnect_wait_ms_min=50, reconnect_wait_ms_max=50)
        async with Recorder(config) as recorder:
            started = asyncio.get_running_loop().time()
            await eventually(lambda: len(recorder.links) >= 4)
            assert asyncio.get_running_loop().time() - started >= 3 * 0.05
            assert "User Authentication Expired" in recorder.plane.last_error


async def test_dial_unknown_host_told() -> None:
    error = await failure_of(quick_config(["nats://no-such-host.invalid:4222"]))
    assert error.startswith("cannot reach nats://no-such-host.invalid:4222: ")


async def test_keep_alive_defect_is_logged_and_survived(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(broker.config())
    make: Callable[[], Any] = recorder._make
    failures = [RuntimeError("defect"), None, None]

    def failing() -> Any:
        failure = failures.pop(0) if failures else None
        if failure is not None:
            raise failure
        return make()

    recorder.plane._make_link = failing
    async with recorder:
        await check_live(recorder)
    assert "defect in the data plane" in caplog.text


async def test_context_minimum_is_tls_1_2(certificates: Path) -> None:
    context = tls.build_context(
        quick_config(["nats://h:1"], tls_ca_file=str(certificates / "ca.pem"))
    )
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_uvloop_tls_and_deaths_as_on_asyncio(tmp_path: Path, certificates: Path) -> None:
    """The gateway runs on uvloop, whose TLS and whose lost connections are code of its own."""

    async def scenario() -> None:
        for first in (False, True):
            folder = tmp_path / f"tls{first}"
            await test_dial_tls_goes_live(folder, certificates, first, core=True)
        await test_dial_tls_client_certificate_goes_live(tmp_path / "mutual", certificates)
        await test_dial_tls_unknown_authority_refused(tmp_path / "unknown", certificates)
        await test_live_lame_duck_goes_to_the_other_server(tmp_path / "duck", core=True)
        with running(tmp_path / "plain") as one:
            for core in (False, True):
                await test_live_server_killed_and_restarted_goes_live_again(one, core)
            await test_live_server_hangs_dropped_after_pings(one)

    uvloop.run(scenario())
