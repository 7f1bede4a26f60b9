"""Target `avro`: arbitrary bytes as binary Avro, walked by the core, read by fastavro beside it.

What enters: one byte that chooses the schema, then the message. What must hold: the walk never
raises and never reads past the message, and a message that fastavro reads to its end without a
fault of ours is the one that we accept.
"""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from typing import Any, Final

import fastavro

from fastgw.schema.avro import AvroValidator, compile_avro

SCHEMAS: Final[tuple[Any, ...]] = (
    "long",
    "string",
    {"type": "array", "items": "int"},
    {"type": "map", "values": ["null", "bytes", "float"]},
    {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "id", "type": {"type": "fixed", "name": "F", "size": 3}},
            {"name": "kind", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "next", "type": ["null", "R"]},
            {"name": "marks", "type": {"type": "array", "items": "boolean"}},
            {"name": "price", "type": "double"},
        ],
    },
)


@cache
def compiled() -> list[tuple[AvroValidator, Any]]:
    """The schemas, for us and for fastavro."""
    return [
        (compile_avro(json.dumps(one), resolve=lambda _: None), fastavro.parse_schema(one))
        for one in SCHEMAS
    ]


def fuzz_avro(data: bytes) -> None:
    """Judge one message; raise when fastavro cannot read what we accept."""
    if not data:
        return
    validator, schema = compiled()[data[0] % len(SCHEMAS)]
    message = data[1:]
    reason = validator.validate_binary(message)
    if reason is not None:
        assert reason and "\n" not in reason
        return
    # WHY: a message may stand behind a header of 10 bytes or one of 5, and is accepted with either.
    assert any(is_whole(message[at:], schema) for at in (0, 5, 10)), "accepted, and cannot be read"


def is_whole(message: bytes, schema: Any) -> bool:
    """Whether fastavro reads the message to its end."""
    stream = BytesIO(message)
    try:
        fastavro.schemaless_reader(stream, schema, None)
    except (EOFError, ValueError, IndexError, StopIteration, OverflowError):
        return False
    return stream.tell() == len(message)
