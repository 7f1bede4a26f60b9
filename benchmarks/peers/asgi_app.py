"""The leanest peer: one raw ASGI function, for uvicorn and granian, with no framework.

What enters: an ASGI scope and its messages. What leaves: the gateway's answer.
It must never do less than the gateway does for the same request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from benchmarks.peers.common import REFUSED_BODY, ROUTES, Answer, Service, forward_headers

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_JSON: Final = (b"content-type", b"application/json")


class App:
    """The application; the service is opened by the lifespan, inside the server's loop."""

    def __init__(self) -> None:
        self._service: Service | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the whole life of the application."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        status, body = await self._answer(scope, receive)
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [_JSON, length]})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        route = ROUTES.get(scope["path"])
        if route is None or self._service is None:
            return 404, REFUSED_BODY
        fields = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        authorization = next((value for name, value in fields if name == "authorization"), "")
        if not self._service.tokens.is_valid(authorization):
            return 401, REFUSED_BODY
        message = await receive()
        body: bytes = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        return await self._service.produce(
            route, body, forward_headers(fields) if route.forwards else None
        )

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._service = await Service.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._service.close()
        await send({"type": "lifespan.shutdown.complete"})


app = App()
