"""A request for the handlers' unit tests: no socket, no core; it remembers its one answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgw._core import Principal
    from fastgw.errors import Fault


@dataclass
class FakeRequest:
    """A request that remembers its one answer."""

    body: bytes = b""
    query: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/"
    client: str = "192.0.2.1"
    principal: Principal | None = None
    closed: bool = False
    answers: list[tuple[int, Any, dict[bytes, bytes]]] = field(default_factory=list)

    def header(self, name: bytes, /) -> bytes | None:
        return self.fields.get(name)

    def respond(
        self,
        status: int,
        body: bytes = b"",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        content_type: bytes = b"application/json",
    ) -> None:
        assert not self.answers, "answered twice"
        self.answers.append((status, json.loads(body), dict(headers)))

    def fail(self, fault: Fault) -> None:
        assert not self.answers, "answered twice"
        self.answers.append((fault.kind.status, fault, {}))

    @property
    def answer(self) -> tuple[int, Any, dict[bytes, bytes]]:
        (answer,) = self.answers
        return answer
