"""The peer that most teams would write: FastAPI, with the token check as a dependency.

What enters: requests through uvicorn. What leaves: the gateway's answer.
The routes are plain async functions with the raw body and a ready response: nothing is validated
or serialised by the framework, and nothing goes to its thread pool, so this is FastAPI at its best.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response

from benchmarks.peers.common import ROUTES, Service, forward_headers


@asynccontextmanager
async def live(application: FastAPI) -> AsyncIterator[None]:
    """Hold the service open while the server runs."""
    application.state.service = service = await Service.open()
    yield
    await service.close()


async def find_service(request: Request) -> Service:
    """Check the token (a dependency, as FastAPI users write it) and give the service."""
    service: Service = request.app.state.service
    if not service.tokens.is_valid(request.headers.get("authorization", "")):
        raise HTTPException(status_code=401, detail="Unauthorized")
    return service


app = FastAPI(lifespan=live, openapi_url=None)


async def produce(request: Request, service: Annotated[Service, Depends(find_service)]) -> Response:
    """Store the body and answer after the ack."""
    route = ROUTES[request.scope["path"]]
    headers = forward_headers(request.headers.items()) if route.forwards else None
    status, body = await service.produce(route, await request.body(), headers)
    return Response(body, status, media_type="application/json")


for path in ROUTES:
    app.add_api_route(path, produce, methods=["POST"])
