"""The same echo as an ASGI application, for the peers that run one.

What enters: ASGI's scope and body. What leaves: 200 with the body, `Echo-Method`, `Echo-Target`.
Run by `servers` as `uvicorn tests.conformance.asgi_echo:app`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer what was read."""
    if scope["type"] != "http":
        return
    body = b""
    is_more = True
    while is_more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    fields = dict(scope["headers"])
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"echo-method", scope["method"].encode("latin-1", "replace")),
        (b"echo-target", target),
        (b"echo-probe", fields.get(b"x-probe", b"0")),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
