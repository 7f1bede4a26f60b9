"""The slow clients themselves: what they send stays one stream of bytes, however slow."""

from __future__ import annotations

import socket

from tests.slow.kinds import Kind, SlowClient

FIRST = b"".join(b"first %06d\n" % number for number in range(500_000))
DRIP = b"".join(b"drip %06d\n" % number for number in range(1000))
WAIT_S = 5.0


def test_slow_client_continues_where_the_socket_took_no_more() -> None:
    kind = Kind("never reads", FIRST, DRIP, 700, ticks=1, reads=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = SlowClient(kind, server.getsockname())
        client.open()
        peer, _ = server.accept()
        peer.settimeout(WAIT_S)
        got = b""
        with peer:
            # The kernel's buffers are full: nothing of this may be lost, and nothing is made up.
            for _ in range(20):
                client.tick()
            while len(got) < len(FIRST) + 3 * len(DRIP):
                client.tick()
                got += peer.recv(1 << 20)
            client.close()
    whole = FIRST + DRIP * 10
    assert got == whole[: len(got)]


def test_slow_client_sends_so_much_a_tick_and_wraps_around() -> None:
    kind = Kind("drips", b"head", b"abc", 2, ticks=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = SlowClient(kind, server.getsockname())
        client.open()
        peer, _ = server.accept()
        peer.settimeout(WAIT_S)
        with peer:
            for _ in range(10):
                client.tick()
            client.close()
            got = b""
            while more := peer.recv(100):
                got += more
    assert got == b"head" + b"abcabcabca"


def test_slow_client_that_was_cut_off_knows_it_and_goes_on_quietly() -> None:
    kind = Kind("drips", b"head", b"abc", 1, ticks=1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = SlowClient(kind, server.getsockname())
        client.open()
        peer, _ = server.accept()
        peer.close()
        for _ in range(1000):
            client.tick()
            if client.ended_s is not None:
                break
        client.close()
    assert client.ended_s is not None
