"""A small compiler that stands in for one type, so that the registry is tested by itself."""

from __future__ import annotations

import json
import sys
import threading
import types
from typing import TYPE_CHECKING

import pytest

from fastgw.errors import ClientFault
from fastgw.schema.base import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastgw.schema.base import Resolve


class Required:
    """Accepts JSON objects that have every required key."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def check(self, message: bytes, content_type: bytes | None) -> str | bytes | None:
        if content_type == b"avro/binary":
            raise ClientFault("media-type-unsupported", "avro on a json station")
        try:
            value = json.loads(message)
        except ValueError:
            return "no JSON"
        missing = [key for key in self.keys if key not in value]
        return f"missing properties: {', '.join(missing)}" if missing else None


class Compiler:
    """Counts its calls; `gate` holds them up while it is cleared."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, text: str, *, resolve: Resolve) -> Required:
        self.texts.append(text)
        assert self.gate.wait(10)
        return Required(self._required(text, resolve))

    def _required(self, text: str, resolve: Resolve) -> list[str]:
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise SchemaError("no JSON", "line 1") from error
        keys = list(schema.get("required", []))
        if "$ref" in schema:
            other = resolve(schema["$ref"])
            if other is None:
                raise SchemaError(f"nothing is registered as {schema['$ref']}", "#/$ref")
            keys += self._required(other, resolve)
        return keys


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """Have the type json compiled by the small compiler."""
    one = Compiler()
    module = types.ModuleType("fastgw.schema.json")
    vars(module)["compile_json"] = one
    monkeypatch.setitem(sys.modules, "fastgw.schema.json", module)
    yield one
    one.gate.set()


def schema(*required: str, **fields: object) -> str:
    return json.dumps({"type": "object", "required": list(required), **fields})
