"""The aiohttp peer: its own server and C parser, on uvloop, without an access log.

What enters: `python -m benchmarks.peers.aiohttp_app PORT`. What leaves: the gateway's answers.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import uvloop
from aiohttp import web

from benchmarks.peers.common import REFUSED_BODY, ROUTES, Service, forward_headers

SERVICE = web.AppKey("SERVICE", Service)
BODY_BYTES_MAX = 8 * 1024 * 1024


async def live(app: web.Application) -> AsyncIterator[None]:
    """Hold the service open while the server runs."""
    app[SERVICE] = service = await Service.open()
    yield
    await service.close()


async def produce(request: web.Request) -> web.Response:
    """Store the body and answer after the ack."""
    service = request.app[SERVICE]
    route = ROUTES[request.path]
    if not service.tokens.is_valid(request.headers.get("Authorization", "")):
        return web.Response(status=401, body=REFUSED_BODY, content_type="application/json")
    body = await request.read()
    headers = forward_headers(request.headers.items()) if route.forwards else None
    status, answer = await service.produce(route, body, headers)
    return web.Response(status=status, body=answer, content_type="application/json")


def build_app() -> web.Application:
    """Build the application with the routes of the workloads."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.cleanup_ctx.append(live)
    for path in ROUTES:
        app.router.add_post(path, produce)  # Static paths: aiohttp finds them by one lookup.
    return app


def main() -> None:
    """Serve on 127.0.0.1 until SIGTERM."""
    uvloop.install()
    web.run_app(build_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
