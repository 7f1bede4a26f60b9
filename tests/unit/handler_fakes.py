"""What the handlers' unit tests need: a request, users and keys without socket, core and broker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from fastgw.control.keys import KeyRecord
from fastgw.control.users import UserRecord

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
    certificate_user: str | None = None
    serves: str = "all"
    principal: Principal | None = None
    closed: bool = False
    answers: list[tuple[int, Any, dict[bytes, bytes]]] = field(default_factory=list)

    def header(self, name: bytes, /) -> bytes | None:
        return self.fields.get(name)

    @property
    def credential_sent(self) -> tuple[str, bytes] | None:
        """As the core tells it; `test_core_door` holds the two together."""
        for kind, name in (("authorization", b"authorization"), ("key", b"x-api-key")):
            if name in self.fields:
                return kind, self.fields[name]
        pairs = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        found = [value for name, value in pairs if name in ("authorization", "access_token")]
        if found:
            return "query", found[0].encode("latin-1") if len(found) == 1 else b""
        user = self.certificate_user
        return None if user is None else ("certificate", user.encode())

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


class FakeUsers:
    """Users whose password is their name and an exclamation mark."""

    def __init__(self) -> None:
        self.records = {name: make_user(name) for name in ("ann", "bob")}
        self.fault: Fault | None = None
        self.checked: list[str] = []

    def find(self, name: str) -> UserRecord | None:
        return self.records.get(name)

    async def check(self, name: str, password: str) -> UserRecord | None:
        self.checked.append(name)
        if self.fault is not None:
            raise self.fault
        return self.records.get(name) if password == name + "!" else None


def make_user(name: str, **fields: Any) -> UserRecord:
    whole = {"password_hash": "", "permissions": ["produce"], "epoch": 7, **fields}
    return UserRecord(name=name, **whole)


class FakeKeys:
    """API keys by their text."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}

    def put(self, text: str, **fields: Any) -> None:
        whole = {"name": "k", "hash": "", "permissions": ["produce"], **fields}
        self.records[text] = KeyRecord(**whole)

    def find_by_text(self, text: str) -> KeyRecord | None:
        return self.records.get(text)
