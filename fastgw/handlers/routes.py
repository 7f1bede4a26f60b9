"""Routes whose paths have parts with names, as the control plane's, and what their handlers share.

What enters: templates like "/users/{name}" with the handlers behind them, and requests.
What leaves: the handlers of a path by method, with the parts bound; the query as a dict; answers.
Called by `admin` and `admin_access`, whose `routes()` the gateway joins into one table. Nothing
here decides who may do what.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from fastgw.errors import ClientFault, clip
from fastgw.handlers import encode_json

if TYPE_CHECKING:
    from fastgw.handlers import Header, Request

Handler = Callable[["Request"], Awaitable[None]]
NamedHandler = Callable[..., Awaitable[None]]
Route = tuple[str, str, NamedHandler]
"""Method, path template, and the handler, which takes the request and the parts by name."""

QUERY_FIELDS_MAX: Final = 50
"""LIMIT: no route has more than three; parsing stays cheap."""

_PART: Final = re.compile(r"\{(\w+)\}")


class Routes:
    """A table of routes.

    Args:
        routes: all of them; of two that fit a path and a method the later one counts.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._table = [
            (method, re.compile(_PART.sub(r"(?P<\1>[^/]+)", template)), handler)
            for method, template, handler in routes
        ]

    def match(self, path: str) -> dict[str, Handler]:
        """Return the handlers of a path by method; none for a path that no template fits."""
        found: dict[str, Handler] = {}
        for method, pattern, handler in self._table:
            match = pattern.fullmatch(path)
            if match is not None:
                found[method] = _bind(handler, match.groupdict())
        return found


def read_query(request: Request) -> dict[str, str]:
    """Return the query's fields, the last one of a name.

    Raises:
        ClientFault: there are more than `QUERY_FIELDS_MAX`.
    """
    try:
        text = request.query.decode("latin-1")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError as error:
        raise ClientFault(
            "bad-request", f"the query has more than {QUERY_FIELDS_MAX} fields"
        ) from error


def read_switch(request: Request, name: str) -> bool:
    """Return a field of the query that is true or false, false where it is missing.

    Raises:
        ClientFault: it is neither; a slip must not pass for its opposite.
    """
    value = read_query(request).get(name, "false")
    if value not in ("true", "false"):
        raise ClientFault("bad-request", f"{name} is true or false; got {clip(value)}")
    return value == "true"


def answer(request: Request, status: int, value: object, headers: tuple[Header, ...] = ()) -> None:
    """Answer with a value as JSON."""
    request.respond(status, encode_json(value), headers)


def _bind(handler: NamedHandler, parts: dict[str, str]) -> Handler:
    return lambda request: handler(request, **parts)
