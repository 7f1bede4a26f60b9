"""Binding, unix sockets, the accept loop and the PROXY protocol, on real sockets."""

from __future__ import annotations

import os
import resource
import socket
import stat
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from fastgw.config_types import Config, ListenerConfig
from fastgw.door import accept
from fastgw.door.listeners import ListenError, bind_all, close_all
from fastgw.door.proxy_protocol import V2_SIGNATURE
from tests.integration.listening import Served, echo, is_closed, read_told, served
from tests.wire.gateway import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANY = "127.0.0.1:0"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
V2 = (
    V2_SIGNATURE
    + b"\x21\x11"
    + struct.pack("!H", 12 + 3)
    + bytes([192, 0, 2, 7, 198, 51, 100, 1, 0, 1, 0, 2])
    + b"\x04\0\0"
)
TLS_LIKE = b"\x16\x03\x01\r\n\0PROXY"


def unix(path: Path, **fields: object) -> ListenerConfig:
    return ListenerConfig(listen=f"unix:{path}", **fields)  # type: ignore[arg-type]


# --- binding --------------------------------------------------------------------------------------


def test_several_listeners_are_served_at_once_by_their_roles(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with served(
        ListenerConfig(listen=ANY),
        ListenerConfig(listen=ANY, serves="admin"),
        unix(path, serves="data"),
    ) as found:
        for index, serves in enumerate(("all", "admin", "data")):
            with found.connect(index) as sock:
                assert read_told(sock) == {"serves": serves, "client": None}
                assert echo(sock, b"hello") == b"hello"
        urls = [bound.url for bound in found.bounds]
        assert urls[0].startswith("http://127.0.0.1:")
        assert urls[2] == f"unix:{path}"
    assert not path.exists()


def test_address_taken_is_told_and_nothing_stays_bound(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        config = Config(listeners=[unix(path), ListenerConfig(listen=taken)])
        with pytest.raises(ListenError, match=f"cannot listen on {taken}: Address already in use"):
            bind_all(config)
    assert not path.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_every_interface_is_shown_as_loopback(host: str) -> None:
    bounds = bind_all(Config(listeners=[ListenerConfig(listen=f"{host}:0")]))
    port = bounds[0].sock.getsockname()[1]
    shown = "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    assert bounds[0].url == f"http://{shown}:{port}"
    close_all(bounds)


def test_worker_has_a_tcp_socket_of_its_own_on_the_same_port(tmp_path: Path) -> None:
    config = Config(workers=2, listeners=[ListenerConfig(listen=ANY), unix(tmp_path / "s")])
    bounds = bind_all(config)
    inherited = [bound.sock.dup() for bound in bounds]
    own = [bound.in_worker() for bound in bounds]
    assert own[0].url == f"http://127.0.0.1:{inherited[0].getsockname()[1]}"
    assert own[0].sock is not bounds[0].sock
    assert own[1].sock is bounds[1].sock
    for sock in inherited:
        sock.close()
    close_all(own)
    # The file is the parent's to remove.
    assert (tmp_path / "s").exists()
    close_all(bounds)
    assert not (tmp_path / "s").exists()


# --- unix sockets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["0600", "660", "0666", "0000"])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_unix_socket_has_exactly_its_mode(tmp_path: Path, mode: str, umask: int) -> None:
    path = tmp_path / "door.sock"
    before = os.umask(umask)
    try:
        bounds = bind_all(Config(listeners=[unix(path, socket_mode=mode)]))
        assert os.umask(umask) == umask
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    finally:
        os.umask(before)
    close_all(bounds)


def test_unix_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    with served(unix(path)) as found, found.connect() as sock:
        assert read_told(sock)["serves"] == "all"


@pytest.mark.parametrize("queue", [1, 0])
def test_unix_socket_in_use_is_left_alone(tmp_path: Path, queue: int) -> None:
    path = tmp_path / "door.sock"
    with ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(queue)
        if not queue:
            # Nobody accepts, so that the next one to connect finds its queue full.
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(str(path))
        with pytest.raises(ListenError, match="another process listens there"):
            bind_all(Config(listeners=[unix(path)]))
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_unix_socket_never_replaces_another_kind_of_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "door.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ListenError, match="no socket"):
        bind_all(Config(listeners=[unix(path)]))
    assert path.is_symlink() or path.exists()


def test_unix_socket_that_is_no_longer_ours_is_not_unlinked(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    bounds = bind_all(Config(listeners=[unix(path)]))
    path.unlink()
    path.touch()
    close_all(bounds)
    assert path.exists()


def test_unix_socket_without_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file or directory"):
        bind_all(Config(listeners=[unix(tmp_path / "none" / "door.sock")]))


# --- the PROXY protocol ---------------------------------------------------------------------------


@pytest.fixture
def proxied() -> Iterator[Served]:
    config = ListenerConfig(listen=ANY, proxy_from=["127.0.0.0/8"], serves="data")
    # A timeout that no test reaches, on a slow machine either.
    with served(config, head_timeout_ms=60_000) as found:
        yield found


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("mode", ["whole", "bytewise", "header first"])
def test_proxy_header_tells_the_client_and_nothing_behind_it_is_lost(
    proxied: Served, header: bytes, mode: str
) -> None:
    with proxied.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if mode == "whole":
            sock.sendall(header + TLS_LIKE)
        elif mode == "bytewise":
            for byte in header + TLS_LIKE:
                sock.send(bytes([byte]))
        else:
            sock.sendall(header)
        assert read_told(sock) == {"serves": "data", "client": "192.0.2.7"}
        if mode == "header first":
            sock.sendall(TLS_LIKE)
        assert echo(sock, b"x") == TLS_LIKE[:1]
        rest = TLS_LIKE[1:] + b"x"
        while rest:
            data = sock.recv(len(rest))
            assert data
            assert rest.startswith(data)
            rest = rest[len(data) :]


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", V2_SIGNATURE + b"\x20\0\0\0"])
def test_proxy_that_speaks_for_itself_keeps_its_own_address(proxied: Served, header: bytes) -> None:
    with proxied.connect() as sock:
        sock.sendall(header)
        assert read_told(sock)["client"] is None


@pytest.mark.parametrize(
    "data", [b"POST / HTTP/1.1\r\n", V1[:-2] + b"\n", b"", V1[:20], V2[:-1], TLS_LIKE]
)
def test_proxy_header_wrong_or_cut_is_closed_without_a_word(proxied: Served, data: bytes) -> None:
    with proxied.connect() as sock:
        sock.sendall(data)
        with suppress(OSError):  # It may be closed already.
            sock.shutdown(socket.SHUT_WR)
        assert is_closed(sock)
    with proxied.connect() as sock:
        sock.sendall(V1)
        assert read_told(sock)["client"] == "192.0.2.7"


def test_proxy_header_late_is_closed_at_the_head_deadline(tmp_path: Path) -> None:
    config = ListenerConfig(listen=ANY, proxy_from=["127.0.0.1"])
    with served(config, head_timeout_ms=100) as found:
        for data in (b"", V1[:9], V2[:20]):
            with found.connect() as sock:
                sock.sendall(data)
                assert is_closed(sock)
        assert found.listeners.refused_count == 3


def test_proxy_header_from_a_stranger_is_closed_at_once() -> None:
    with served(ListenerConfig(listen=ANY, proxy_from=["192.0.2.0/24", "::1"])) as found:
        with found.connect() as sock:
            assert is_closed(sock)
        assert found.door.open_count == 0


def test_proxy_client_without_room_is_closed_by_its_told_address(proxied: Served) -> None:
    proxied.door.full = {"192.0.2.7"}
    for header in (V1, V2):
        with proxied.connect() as sock:
            sock.sendall(header)
            assert is_closed(sock)
    with proxied.connect() as sock:
        sock.sendall(V1.replace(b"192.0.2.7", b"192.0.2.8"))
        assert read_told(sock)["client"] == "192.0.2.8"
    # The proxy's own address is not what counts.
    proxied.door.full = {"127.0.0.1"}
    with proxied.connect() as sock:
        sock.sendall(V1)
        assert read_told(sock)["client"] == "192.0.2.7"


# --- bounds of the accept loop --------------------------------------------------------------------


def test_one_more_than_may_wait_drops_the_oldest(
    proxied: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "HANDSHAKES_MAX", 4)
    with ExitStack() as stack:
        waiting = [stack.enter_context(proxied.connect()) for _ in range(6)]
        assert is_closed(waiting[0])
        assert is_closed(waiting[1])
        for sock in waiting[2:]:
            sock.sendall(V1)
            assert read_told(sock)["client"] == "192.0.2.7"


def test_no_descriptor_left_waits_and_recovers(proxied: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client, ExitStack() as stack:
        address = proxied.bounds[0].sock.getsockname()
        # Every free number below the limit is taken, so that accept finds none.
        limit = max(int(name) for name in os.listdir("/proc/self/fd")) + 8
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            while True:
                try:
                    stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            client.settimeout(10)
            client.connect(address)
            client.sendall(V1)
            wait_until(lambda: proxied.listeners.exhausted_count >= 2, 10)
            # A loop that spins would be here thousands of times by now; a pause is 0.2 s.
            assert proxied.listeners.exhausted_count < 100
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert read_told(client)["client"] == "192.0.2.7"


def test_stop_accepting_closes_the_door_and_those_who_have_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    proxy = ListenerConfig(listen=ANY, proxy_from=["127.0.0.1"])
    with served(ListenerConfig(listen=ANY), proxy, unix(path)) as found:
        addresses = [bound.sock.getsockname() for bound in found.bounds[:2]]
        with found.connect(0) as plain, found.connect(1) as half, found.connect(2) as local:
            read_told(plain)
            read_told(local)
            half.sendall(V1[:10])
            found.call(found.listeners.stop_accepting)
            assert not path.exists()
            assert is_closed(half)
            for sock in (plain, local):
                assert echo(sock, b"still here") == b"still here"
            for address in addresses:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address, 5)
