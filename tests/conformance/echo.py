"""The compiled core with a handler that answers what it read: how the suites of parsers see it.

What enters: requests of any path but a station's. What leaves: 200 with the request's body, and its
method and target in `Echo-Method` and `Echo-Target`; a CONNECT or a fault as in the gateway.
Run as `python -m tests.conformance.echo PORT` by `servers`. It must never be part of the package.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from fastgw import _core
from fastgw.config_types import LimitsConfig, RateConfig

SWEEP_S = 0.1


def echo(request: _core.Request) -> None:
    """Answer what was read."""
    target = request.raw_path + (b"?" + request.query if request.query else b"")
    seen = (
        (b"Echo-Method", request.method.encode("latin-1")),
        (b"Echo-Target", target),
        (b"Echo-Probe", request.header(b"x-probe") or b"0"),
    )
    request.respond(200, request.body, seen, b"application/octet-stream")


async def serve(port: int) -> None:
    """Serve for ever."""
    loop = asyncio.get_running_loop()
    ingress = _core.Ingress(
        loop,
        LimitsConfig(),
        RateConfig(),
        tokens_max=1,
        cors_origins=(),
        identify=lambda request: None,
        dispatch=echo,
        consume=echo,
        inflate=lambda coding, body, bytes_max: body,
        refused=lambda request, block, message, why: None,
        report=lambda text, error: print(text, repr(error), file=sys.stderr),
    )
    everything = _core.PRODUCE | _core.CONSUME | _core.ADMIN
    ingress.allow_anonymous(_core.Principal("anonymous", 1, everything))
    await loop.create_server(ingress.protocol, "127.0.0.1", port)
    while True:
        await asyncio.sleep(SWEEP_S)
        ingress.sweep()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
