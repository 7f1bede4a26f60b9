"""TLS listeners: profile, client certificates, reload, stalled handshakes; no gateway behind."""

from __future__ import annotations

import logging
import os
import ssl
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from fastgw.config_types import Config, ListenerConfig, TlsConfig
from fastgw.door import accept, listeners
from fastgw.door.listeners import ListenError, bind_all
from fastgw.door.tls import (
    CIPHERS,
    NAME_CHARACTERS_MAX,
    Certificates,
    TlsFilesError,
    build_context,
    find_loose_keys,
    find_name,
)
from tests.integration.certificates import Authority, Issued, serial_of
from tests.integration.listening import Served, echo, is_closed, read_told, served
from tests.wire.gateway import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY = "127.0.0.1:0"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Issued:
    return authority.issue("server", "localhost", is_server=True)


def tls(server: Issued, **fields: Any) -> TlsConfig:
    return TlsConfig(cert_file=str(server.cert_file), key_file=str(server.key_file), **fields)


def listener(server: Issued, proxy_from: tuple[str, ...] = (), **fields: Any) -> ListenerConfig:
    return ListenerConfig(listen=ANY, tls=tls(server, **fields), proxy_from=list(proxy_from))


def replace_files(server: Issued, cert: bytes, key: bytes) -> None:
    """Replace both files as a certificate manager does."""
    for path, data in ((server.key_file, key), (server.cert_file, cert)):
        draft = path.with_suffix(".new")
        draft.touch(mode=0o600)
        draft.write_bytes(data)
        draft.replace(path)


@pytest.fixture
def secure(server: Issued) -> Iterator[Served]:
    with served(listener(server)) as found:
        yield found


def fails(found: Served, context: ssl.SSLContext) -> bool:
    """Whether a client gets nowhere; with TLS 1.3 it may learn that only when it reads."""
    try:
        with found.connect_tls(context) as sock:
            return is_closed(sock)
    except (ssl.SSLError, ConnectionError):
        return True


def descriptors_count() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


# --- the profile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_from_1_2_is_served(
    secure: Served, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secure.connect_tls(context) as sock:
        assert read_told(sock) == {"serves": "all", "client": None}
        assert echo(sock, b"x" * 100_000) == b"x" * 100_000
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert sock.compression() is None
        cipher = sock.cipher()
        assert cipher is not None
        assert version == ssl.TLSVersion.TLSv1_3 or cipher[0] in CIPHERS
    assert secure.bounds[0].url.startswith("https://127.0.0.1:")


def test_tls_1_1_is_refused(secure: Served, authority: Authority) -> None:
    context = authority.client()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    assert fails(secure, context)


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_tls_cipher_outside_the_profile_is_refused(
    secure: Served, authority: Authority, cipher: str
) -> None:
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    assert fails(secure, context)


@pytest.mark.parametrize("cipher", [cipher for cipher in CIPHERS if "ECDSA" in cipher])
def test_tls_client_chooses_among_the_profiles_ciphers(
    secure: Served, authority: Authority, cipher: str
) -> None:
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    with secure.connect_tls(context) as sock:
        assert read_told(sock)["serves"] == "all"


def test_tls_client_may_name_no_protocol_or_an_unknown_one(
    secure: Served, authority: Authority
) -> None:
    for protocols in ([], ["h2"]):
        context = authority.client()
        context.set_alpn_protocols(protocols)
        with secure.connect_tls(context) as sock:
            read_told(sock)
            assert sock.selected_alpn_protocol() is None


def test_tls_context_has_no_renegotiation_and_no_compression(server: Issued) -> None:
    context = build_context(tls(server))
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    old = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert old == set(CIPHERS)


def test_tls_session_is_resumed(secure: Served, authority: Authority) -> None:
    context = authority.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with secure.connect_tls(context) as sock:
        read_told(sock)
        session = sock.session
    again = context.wrap_socket(secure.connect(), server_hostname="localhost", session=session)
    with again:
        read_told(again)
        assert again.session_reused


# --- client certificates --------------------------------------------------------------------------


@pytest.fixture
def demanding(server: Issued, authority: Authority) -> Iterator[Served]:
    config = listener(server, client_ca_file=str(authority.ca_file), client_cert="required")
    with served(config) as found:
        yield found


def test_client_certificate_names_the_user(demanding: Served, authority: Authority) -> None:
    shown = authority.issue("ann", "ann")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = authority.client(shown)
        context.maximum_version = version
        with demanding.connect_tls(context) as sock:
            assert read_told(sock)["user"] == "ann"


def test_client_certificate_missing_or_of_strangers_is_refused(
    demanding: Served, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("ann", "ann")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for shown in (None, stranger, authority.issue("srv", "ann", is_server=True)):
            context = authority.client(shown)
            context.maximum_version = version
            assert fails(demanding, context)
    assert demanding.door.open_count == 0
    wait_until(lambda: demanding.listeners.refused_count == 6, 10)


def test_client_certificate_optional_names_nobody_without_one(
    server: Issued, authority: Authority, tmp_path: Path
) -> None:
    config = listener(server, client_ca_file=str(authority.ca_file), client_cert="optional")
    with served(config) as found:
        for shown, user in ((None, None), (authority.issue("ann", "ann"), "ann")):
            with found.connect_tls(authority.client(shown)) as sock:
                assert read_told(sock)["user"] == user
        stranger = Authority(tmp_path, "stranger").issue("ann", "ann")
        assert fails(found, authority.client(stranger))


@pytest.mark.parametrize(
    ("part", "user"),
    [("cn", "ann"), ("dns", "one.test"), ("email", "ann@test"), ("uri", "test/ann")],
)
def test_client_certificate_names_by_the_configured_part(
    server: Issued, authority: Authority, part: str, user: str
) -> None:
    alternatives = (
        x509.DNSName("one.test"),
        x509.DNSName("two.test"),
        x509.RFC822Name("ann@test"),
        x509.UniformResourceIdentifier("spiffe://test/ann"),
    )
    shown = authority.issue("many", "ann", alternatives=alternatives)
    config = listener(
        server, client_ca_file=str(authority.ca_file), client_cert="required", client_user=part
    )
    with served(config) as found, found.connect_tls(authority.client(shown)) as sock:
        assert read_told(sock)["user"] == user


@pytest.mark.parametrize(
    ("certificate", "part", "user"),
    [
        ({}, "cn", None),
        ({}, "dns", None),
        ({"subject": ((("commonName", "ann"),),)}, "cn", "ann"),
        ({"subject": ((("organizationName", "x"), ("commonName", "ann")),)}, "cn", "ann"),
        ({"subject": ((("commonName", "ann"),), (("commonName", "root"),))}, "cn", None),
        ({"subject": ((("commonName", ""),),)}, "cn", None),
        ({"subject": ((("commonName", "a\0b"),),)}, "cn", None),
        ({"subject": ((("commonName", "a" * NAME_CHARACTERS_MAX),),)}, "cn", "a" * 128),
        ({"subject": ((("commonName", "a" * (NAME_CHARACTERS_MAX + 1)),),)}, "cn", None),
        ({"subject": ((("commonName", "ann"),),)}, "dns", None),
        ({"subjectAltName": (("IP Address", "::1"), ("DNS", "a"), ("DNS", "b"))}, "dns", "a"),
        ({"subjectAltName": (("DirName", (("x",),)),)}, "uri", None),
    ],
)
def test_name_is_found_or_nobody(certificate: dict[str, Any], part: str, user: str | None) -> None:
    assert find_name(certificate, part) == user


# --- files ----------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_one_line(
    server: Issued, authority: Authority, tmp_path: Path
) -> None:
    other = authority.issue("other", "other", is_server=True)
    locked = authority.issue("locked", "locked", is_server=True, passphrase=b"secret-1")
    empty = tmp_path / "empty.pem"
    empty.touch()
    cert, key = str(server.cert_file), str(server.key_file)
    cases = [
        (TlsConfig(cert_file=cert, key_file=str(other.key_file)), "key values mismatch"),
        (TlsConfig(cert_file=cert, key_file=str(tmp_path / "none")), "No such file"),
        (TlsConfig(cert_file=str(locked.cert_file), key_file=str(locked.key_file)), "encrypted"),
        (TlsConfig(cert_file=cert, key_file=str(empty)), "empty.pem"),
        (TlsConfig(cert_file=cert), "key_file"),
        (tls(server, client_cert="required"), "client_ca_file"),
        (tls(server, client_cert="required", client_ca_file=str(empty)), "empty.pem"),
        (tls(server, client_cert="required", client_ca_file=key), "server.key"),
    ]
    for config, word in cases:
        with pytest.raises(TlsFilesError, match=word) as caught:
            build_context(config)
        assert "\n" not in str(caught.value)
        with pytest.raises(ListenError, match=word):
            bind_all(Config(listeners=[ListenerConfig(listen=ANY, tls=config)]))


def test_key_that_others_can_read_is_warned_about(server: Issued) -> None:
    config = listener(server)
    assert find_loose_keys([config, ListenerConfig(listen=ANY)]) == []
    for mode in (0o640, 0o604, 0o620):
        server.key_file.chmod(mode)
        (warning,) = find_loose_keys([config, config])
        assert f"{mode:04o}" in warning
        assert f"chmod 600 {server.key_file}" in warning
    server.key_file.unlink()
    assert find_loose_keys([config]) == []


def test_reload_is_for_new_connections_and_the_old_go_on(
    secure: Served, server: Issued, authority: Authority
) -> None:
    context = authority.client()
    with secure.connect_tls(context) as standing:
        read_told(standing)
        assert serial_of(standing) == server.serial
        renewed = authority.issue("server", "localhost", is_server=True)
        secure.call(secure.listeners.reload)
        with secure.connect_tls(context) as sock:
            read_told(sock)
            assert serial_of(sock) == renewed.serial
        assert echo(standing, b"still here") == b"still here"


def test_reload_of_broken_files_keeps_the_old_ones_and_says_so_once(
    secure: Served,
    server: Issued,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.cert_file.write_text("no certificate")
    secure.call(secure.listeners.reload)
    secure.call(secure.listeners.look_again)
    secure.call(secure.listeners.look_again)
    with secure.connect_tls(authority.client()) as sock:
        read_told(sock)
        assert serial_of(sock) == server.serial
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "the old certificate stays" in errors[0].getMessage()
    renewed = authority.issue("server", "localhost", is_server=True)
    secure.call(secure.listeners.look_again)
    with secure.connect_tls(authority.client()) as sock:
        assert serial_of(sock) == renewed.serial


def test_files_replaced_silently_are_noticed(
    server: Issued, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "WATCH_S", 0.02)
    with served(listener(server)) as found:
        other = authority.issue("renewed", "localhost", is_server=True)
        replace_files(server, other.cert_file.read_bytes(), other.key_file.read_bytes())

        def shows_renewed() -> bool:
            with found.connect_tls(authority.client()) as sock:
                return serial_of(sock) == other.serial

        wait_until(shows_renewed, 10)


def test_files_replaced_by_another_link_are_noticed(
    server: Issued, authority: Authority, tmp_path: Path
) -> None:
    """As a mounted secret is renewed: a link of a folder is turned, no file is touched."""
    other = authority.issue("renewed", "localhost", is_server=True)
    for name, issued in (("one", server), ("two", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.pem").write_bytes(issued.cert_file.read_bytes())
        (tmp_path / name / "tls.key").write_bytes(issued.key_file.read_bytes())
    current = tmp_path / "current"
    current.symlink_to("one")
    certificates = Certificates(
        TlsConfig(cert_file=str(current / "tls.pem"), key_file=str(current / "tls.key")), "here"
    )
    assert not certificates.reload_changed()
    turned = tmp_path / "turned"
    turned.symlink_to("two")
    turned.replace(current)
    assert certificates.reload_changed()
    assert not certificates.reload_changed()


def test_authority_replaced_refuses_the_old_ones_clients(
    demanding: Served, authority: Authority, tmp_path: Path
) -> None:
    shown = authority.issue("ann", "ann")
    context = authority.client(shown)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    before = authority.ca_file.read_bytes()
    with demanding.connect_tls(context) as sock:
        read_told(sock)
        session = sock.session
    try:
        authority.ca_file.write_bytes(Authority(tmp_path, "other").ca_file.read_bytes())
        demanding.call(demanding.listeners.reload)
        # WHY: a session ticket of before must not carry the old trust along.
        with pytest.raises((ssl.SSLError, ConnectionError)), demanding.connect() as plain:
            context.wrap_socket(plain, server_hostname="localhost", session=session).recv(1)
    finally:
        authority.ca_file.write_bytes(before)


# --- handshakes -----------------------------------------------------------------------------------


def break_off(found: Served, data: bytes, count: int) -> None:
    """Leave in the middle of as many handshakes, and wait until each was seen to fail."""
    wanted = found.listeners.refused_count + count
    for _ in range(count):
        with found.connect() as sock:
            sock.sendall(data)
    wait_until(lambda: found.listeners.refused_count == wanted, 10)


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\xff"])
def test_handshake_broken_off_leaves_nothing_behind(secure: Served, data: bytes) -> None:
    # The first ones open a descriptor for good, which the library shares.
    break_off(secure, data, 5)
    before = descriptors_count()
    break_off(secure, data, 20)
    wait_until(lambda: descriptors_count() <= before, 10)
    assert secure.listeners.handshakes_count == 0


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_handshake_stalled_is_closed_at_its_deadline(server: Issued, data: bytes) -> None:
    with served(listener(server), tls_handshake_timeout_ms=200) as found:
        with found.connect() as sock:
            sock.sendall(data)
            assert is_closed(sock)
        wait_until(lambda: found.listeners.refused_count == 1, 10)
        assert found.listeners.handshakes_count == 0


def test_handshakes_stalled_do_not_keep_others_out(
    secure: Served, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "HANDSHAKES_MAX", 4)
    with ExitStack() as stack:
        stalled = []
        for number in range(12):
            sock = stack.enter_context(secure.connect())
            sock.sendall(b"\x16\x03\x01\x02\x00" if number % 2 else b"")
            stalled.append(sock)
            with secure.connect_tls(authority.client()) as good:
                read_told(good)
        for sock in stalled[:8]:
            assert is_closed(sock)


def test_handshakes_of_one_address_are_bounded(
    server: Issued, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "HANDSHAKES_PER_ADDRESS_MAX", 2)
    config = listener(server, proxy_from=("127.0.0.1",))
    with served(config) as found, ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(found.connect())
            sock.sendall(V1 + b"\x16\x03")
        wait_until(lambda: found.listeners.handshakes_count == 2, 10)
        with found.connect() as third:
            third.sendall(V1)
            assert is_closed(third)
        other = V1.replace(b"192.0.2.7", b"192.0.2.8")
        with found.connect_tls(authority.client(), before=other) as sock:
            assert read_told(sock)["client"] == "192.0.2.8"


def test_handshakes_of_one_ipv6_network_are_bounded(
    server: Issued, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "HANDSHAKES_PER_ADDRESS_MAX", 2)
    config = listener(server, proxy_from=("127.0.0.1",))
    head = b"PROXY TCP6 2001:db8:1:%d::%d 2001:db8::1 40000 443\r\n"
    with served(config) as found, ExitStack() as stack:
        for number in range(2):
            sock = stack.enter_context(found.connect())
            sock.sendall(head % (1, number) + b"\x16\x03")
        wait_until(lambda: found.listeners.handshakes_count == 2, 10)
        with found.connect() as third:
            third.sendall(head % (1, 7))
            assert is_closed(third)
        with found.connect_tls(authority.client(), before=head % (2, 1)) as sock:
            assert read_told(sock)["client"] == "2001:db8:1:2::1"


def test_client_without_room_gets_no_handshake(secure: Served, authority: Authority) -> None:
    secure.door.full = {"127.0.0.1"}
    with secure.connect() as sock:
        assert is_closed(sock)
    secure.door.full = set()
    with secure.connect_tls(authority.client()) as good:
        read_told(good)


def test_handshake_under_way_ends_well_when_accepting_stops(
    secure: Served, authority: Authority
) -> None:
    with secure.connect() as idle, secure.connect() as plain:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        plain.sendall(hello[:10])
        wait_until(lambda: secure.listeners.handshakes_count == 1, 10)
        secure.call(secure.listeners.stop_accepting)
        assert is_closed(idle)
        plain.sendall(hello[10:])
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(16384))
        plain.sendall(outgoing.read())
        line = b""
        while not line.endswith(b"\n"):
            try:
                line += client.read()
            except ssl.SSLWantReadError:
                incoming.write(plain.recv(16384))
        assert b'"serves": "all"' in line


def test_proxy_header_stands_before_tls(server: Issued, authority: Authority) -> None:
    config = listener(
        server,
        proxy_from=("127.0.0.1",),
        client_ca_file=str(authority.ca_file),
        client_cert="required",
    )
    context = authority.client(authority.issue("ann", "ann"))
    with served(config) as found:
        with found.connect_tls(context, before=V1) as sock:
            assert read_told(sock) == {"serves": "all", "client": "192.0.2.7", "user": "ann"}
        # The header and the first of TLS in one segment.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        with found.connect() as sock:
            sock.sendall(V1 + outgoing.read())
            assert sock.recv(1) == b"\x16"
        # Without the header there is no TLS.
        assert fails(found, context)


def test_plain_http_gets_no_http_answer(secure: Served) -> None:
    with secure.connect() as sock:
        sock.sendall(b"POST /auth/authenticate HTTP/1.1\r\n\r\n")
        answer = sock.recv(100)
        # OpenSSL's alert at most, and never a word of HTTP.
        assert b"HTTP" not in answer
