"""The contract as a document, and as a page that shows it and lets a person try it.

What enters: GET requests of people and tools, without credentials. What leaves: two bodies that are
built once, the document by its first reader. Called by `gateway`.
The page must never load anything from elsewhere nor run a script that is not its own: its
Content-Security-Policy names its one script and style by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastgw.handlers import encode_json

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.handlers import Header, Request

PAGE: Final = Path(__file__).with_name("docs_page.html")
JSON_TYPE: Final = b"application/json"
HTML_TYPE: Final = b"text/html; charset=utf-8"
_INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)
_COMMON: Final = ((b"Cache-Control", b"no-cache"), (b"X-Content-Type-Options", b"nosniff"))


class Docs:
    """The two routes.

    Args:
        config: its limits stand in the document.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._page = PAGE.read_bytes()
        self._page_tag = entity_tag(self._page)
        self._page_headers = (
            (b"Content-Security-Policy", content_policy(self._page)),
            (b"Referrer-Policy", b"no-referrer"),
        )

    def openapi(self, request: Request) -> None:
        """Answer `GET /openapi.json`."""
        document, tag = self._document
        _answer(request, document, tag, JSON_TYPE, ())

    def page(self, request: Request) -> None:
        """Answer `GET /docs`."""
        _answer(request, self._page, self._page_tag, HTML_TYPE, self._page_headers)

    @cached_property
    def _document(self) -> tuple[bytes, bytes]:
        """The document and its entity tag."""
        # WHY here: it takes 5 ms, with its modules 15, which no start need wait for; few are asked.
        from fastgw.handlers.openapi import build_document

        body = encode_json(build_document(self._config))
        return body, entity_tag(body)


def entity_tag(body: bytes) -> bytes:
    """Return a strong entity tag of `body`. SOURCE: RFC 9110 §8.8.3."""
    return b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'


def content_policy(page: bytes) -> bytes:
    """Return the policy under which `page` runs its own script and style, and nothing else.

    SOURCE: Content Security Policy Level 3.
    """
    hashes: dict[bytes, list[bytes]] = {b"script": [], b"style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text).digest())
        hashes[kind].append(b"'sha256-" + digest + b"'")
    return b"; ".join(
        (
            b"default-src 'none'",
            b"script-src " + b" ".join(hashes[b"script"]),
            b"style-src " + b" ".join(hashes[b"style"]),
            b"connect-src 'self'",
            b"img-src data:",
            b"base-uri 'none'",
            b"form-action 'none'",
            b"frame-ancestors 'none'",
        )
    )


def _answer(
    request: Request, body: bytes, tag: bytes, content_type: bytes, headers: tuple[Header, ...]
) -> None:
    """Answer `body`, or 304 to a browser that has this version already."""
    headers += ((b"ETag", tag), *_COMMON)
    known = request.header(b"if-none-match") or b""
    # WHY weak tags count: SOURCE: RFC 9110 §13.1.2, If-None-Match compares weakly.
    if tag in (one.strip().removeprefix(b"W/") for one in known.split(b",")):
        request.respond(304, b"", headers)
        return
    request.respond(200, body, headers, content_type)
