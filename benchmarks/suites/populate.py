"""Crowds for the suites of memory and scale: many stations, many tokens, many open connections.

What enters: a running gateway. What leaves: requests that use what was made. All of it is made as
a client would: stations over HTTP, tokens signed with the secret that the gateway was configured
with. It must never make more than was asked, nor keep a connection that it was not asked to keep.
"""

from __future__ import annotations

import resource
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import jwt

from benchmarks.load.pace import Pace, build_bytes, run_pace, write_requests
from benchmarks.processes import Failed
from benchmarks.scene import Scene
from benchmarks.subjects import Running, Setup
from benchmarks.workloads import WORKLOADS, Request

SINGLE: Final = WORKLOADS["single"]
CONNECTIONS_MAKING: Final = 16
MAKE_S_MAX: Final = 240.0
"""LIMIT: of a crowd's making; beyond it the suite fails. The broker compares the subjects of a new
stream with those of all others, so that the last stations of 10,000 take longest."""
TOKENS_CACHED_MAX: Final = 200_000
FILES_SPARE: Final = 500
"""How many descriptors a gateway, and the harness, may need besides those of clients."""
ANSWER_TIMEOUT_S: Final = 10.0


def build_setup(scene: Scene, token: str = "") -> Setup:
    """Build the setup of a gateway whose tokens can be signed here."""
    env = {
        "FASTGW_AUTH_JWT_SECRET": scene.bench.secret,
        "FASTGW_AUTH_TOKENS_CACHED_MAX": str(TOKENS_CACHED_MAX),
    }
    return Setup(env, token=token)


def mint_tokens(token: str, secret: str, count: int) -> list[str]:
    """Sign as many tokens like `token` as asked; they differ in their ids alone."""
    claims = jwt.decode(token, options={"verify_signature": False})
    header = jwt.get_unverified_header(token)
    kid = {"kid": header["kid"]} if "kid" in header else None
    ids = (secrets.token_hex(len(claims["jti"]) // 2) for _ in range(count))
    return [jwt.encode({**claims, "jti": jti}, secret, header["alg"], headers=kid) for jti in ids]


def build_token_requests(tokens: list[str]) -> list[Request]:
    """Build one request of the workload `single` for each token."""
    return [SINGLE.build_request(token) for token in tokens]


def add_stations(scene: Scene, server: Running, count: int) -> list[Request]:
    """Make stations with a stream in memory each; return one produce request for each.

    Raises:
        Failed: one of them was refused, or there was no time for all.
    """
    names = [f"crowd-{number}" for number in range(count)]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.token}"}
    asked = (Request(f"/stations/{name}", headers, b'{"storage":"memory"}') for name in names)
    made = (build_bytes(request, "PUT") for request in asked)
    path = write_requests(made, scene.folder / "stations.requests")
    connections = min(CONNECTIONS_MAKING, count)
    pace = Pace(connections, scene.load_core, MAKE_S_MAX, warm_up_s=0, count=count)
    done = run_pace(path, server.port, pace)
    if done.problem or done.answers != count:
        raise Failed(f"only {done.answers} of {count} stations were made; {done.problem}")
    like = SINGLE.build_request(server.token)
    return [Request(f"/stations/{name}/produce/single", like.headers, like.body) for name in names]


def bound_connections(wanted: int) -> int:
    """Return how many connections may be open here, `wanted` at most; raises our own soft bound."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))
    return min(wanted, hard - FILES_SPARE)


@contextmanager
def hold_connections(server: Running, request: Request, count: int) -> Iterator[None]:
    """Open connections that each had one request answered, and keep them open and idle.

    Raises:
        Failed: one was refused, or not answered with 200.
    """
    text = build_bytes(request)
    deadline = time.monotonic() + MAKE_S_MAX
    with ExitStack() as stack:
        for number in range(count):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), ANSWER_TIMEOUT_S)
            )
            client.sendall(text)
            answer = client.recv(65536)
            if not answer.startswith(b"HTTP/1.1 200") or time.monotonic() > deadline:
                raise Failed(f"connection {number} of {count} was answered {answer[:60]!r}")
        yield
