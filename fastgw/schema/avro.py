"""Avro stations: messages as binary data or as JSON, judged against one schema.

What enters: the text of a schema, then messages with their Content-Type. What leaves: a validator
that says None or the reason. Called by the schema registry and, for each message, by the core.

Binary data is tried in this order: as it stands; behind a single-object header whose fingerprint is
this schema's; behind a Confluent header, whose schema id names a registry that the gateway does not
know and which is therefore not compared. What stands is stored as it was sent, header included.
It must never give a client's bytes to a library that takes them on trust.
SOURCE: Apache Avro 1.12, "Binary Encoding", "JSON Encoding", "Single-object encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from fastgw.errors import ClientFault, clip
from fastgw.schema.avro_form import canonical_form, fingerprint_of
from fastgw.schema.avro_json import STEPS_FREE, JsonCheck
from fastgw.schema.avro_parse import AvroType, parse_avro
from fastgw.schema.avro_program import AvroProgram
from fastgw.schema.avro_types import make_decoder
from fastgw.schema.base import REASON_CHARS_MAX, Resolve, SchemaError

BAD_FORMAT: Final = "Bad Avro format - "
SINGLE_OBJECT: Final = b"\xc3\x01"
SINGLE_OBJECT_BYTES: Final = 10
CONFLUENT_BYTES: Final = 5
BYTES_AT_ONCE: Final = 64 * 1024
"""LIMIT: JSON that the fast path does not take costs about 0.5 us a byte: up to here the loop
waits some thirty milliseconds at worst; longer messages go to a thread."""

NESTING_UNCOUNTED_MAX: Final = 100
"""LIMIT: JSON with fewer brackets cannot be nested deeper than the authority allows."""
TYPES_REMEMBERED_MAX: Final = 64
"""LIMIT: Content-Types come from clients; beyond these they are read anew each time."""

BINARY: Final = frozenset(
    (
        *("avro/binary", "avro/bytes", "application/avro", "application/avro+binary"),
        *("application/x-avro", "application/x-avro-binary", "application/octet-stream"),
        *("application/vnd.apache.avro", "application/vnd.apache.avro+binary"),
        *("application/vnd.apache.avro.binary", "application/avro-binary"),
    )
)
"""Media types of binary data; all others that are not contradictory mean JSON."""

_FOREIGN: Final = ("protobuf", "graphql", "grpc")


def compile_avro(text: str, *, resolve: Resolve) -> AvroValidator:
    """Compile an Avro schema.

    Args:
        text: the schema, as JSON.
        resolve: finds the text of a registered Avro schema by the full name of its type.

    Raises:
        SchemaError: when it does not compile or exceeds a bound.
    """
    try:
        root, defaults = parse_avro(text, resolve)
    except SchemaError as error:
        raise SchemaError(error.reason, _short(error.place)) from error
    # WHY: one budget for all, so that many defaults cost no more than one large message.
    judge = JsonCheck(10 * STEPS_FREE, with_tags=False)
    for default in defaults:
        reason = judge.find_fault(default.type, default.value)
        if reason is not None:
            raise SchemaError(f"the default does not fit: {reason}", _short(default.place))
    return AvroValidator(root)


def _short(place: str) -> str:
    """Leave out the middle of a place that is a hundred types deep."""
    return place if len(place) <= 160 else f"{place[:80]}…{place[-80:]}"


class AvroValidator:
    """Judges the messages of one Avro schema.

    Args:
        root: the schema.
    """

    __slots__ = (
        "_decode",
        "_decode_other",
        "_decode_unknown",
        "_find_fault",
        "_has_bound_depth",
        "_program",
        "_root",
        "canonical",
        "fingerprint",
    )

    def __init__(self, root: AvroType) -> None:
        self._root = root
        self._program = AvroProgram(root)
        self._find_fault = self._program.find_fault
        self._has_bound_depth = self._program.has_bound_depth
        self._decode = make_decoder(root, with_tags=False)
        self._decode_other = None
        unknown = [make_decoder(root, with_tags=False, with_unknown=True)]
        if self._program.has_unions:
            self._decode_other = make_decoder(root, with_tags=True)
            unknown.append(make_decoder(root, with_tags=True, with_unknown=True))
        self._decode_unknown = tuple(decode for decode in unknown if decode is not None)
        if self._decode is None:
            self._decode, self._decode_other = self._decode_other, None
        self.canonical: str = canonical_form(root)
        """The parsing canonical form."""
        self.fingerprint: bytes = fingerprint_of(self.canonical).to_bytes(8, "little")
        """The CRC-64-AVRO of the canonical form, as it stands in a single-object header."""

    def is_long(self, message: bytes, content_type: bytes | None) -> bool:
        """Whether judging this message would keep an event loop waiting for milliseconds."""
        return len(message) > BYTES_AT_ONCE

    def check(self, message: bytes, content_type: bytes | None) -> str | None:
        """Judge one message in the form that its Content-Type names; see `schema.base`.

        Raises:
            ClientFault: "media-type-unsupported" for the media types of Protobuf and GraphQL.
        """
        if content_type is None:
            return self.validate(message)
        is_binary = _IS_BINARY.get(content_type)
        if is_binary is None:
            is_binary = _read_type(content_type)
        return self.validate_binary(message) if is_binary else self.validate(message)

    # --- binary -----------------------------------------------------------------------------

    def validate_binary(self, message: bytes) -> str | None:
        """Why `message` is no binary data of the schema; None when it is."""
        fault = self._find_fault(message)
        if fault is None:
            return None
        if message.startswith(SINGLE_OBJECT) and len(message) >= SINGLE_OBJECT_BYTES:
            sent = message[2:SINGLE_OBJECT_BYTES]
            if sent != self.fingerprint:
                return (
                    f"$: expected fingerprint {self.fingerprint[::-1].hex()} in the single-object "
                    f"header, got {sent[::-1].hex()} (byte 2)"
                )
            fault = self._find_fault(message, SINGLE_OBJECT_BYTES)
            return None if fault is None else self._program.reason(message, fault)
        if message.startswith(b"\0") and len(message) >= CONFLUENT_BYTES:
            inner = self._find_fault(message, CONFLUENT_BYTES)
            if inner is None:
                return None
        reason = self._program.reason(message, fault)
        if message.startswith(b"Obj\x01"):
            reason += "; this is an Avro file, and a message is one value"
        return reason

    # --- JSON -------------------------------------------------------------------------------

    def validate(self, message: bytes) -> str | None:
        """Why `message` is no JSON-encoded data of the schema; None when it is."""
        decode = self._decode
        is_shallow = (
            self._has_bound_depth
            or message.count(b"{") + message.count(b"[") <= NESTING_UNCOUNTED_MAX
        )
        if decode is not None and is_shallow:
            try:
                decode(message)
            except (msgspec.DecodeError, ValueError, RecursionError):
                if self._decodes_other(message):
                    return None
            else:
                return None
        return self._judge(message, is_shallow=is_shallow)

    def _decodes_other(self, message: bytes) -> bool:
        """Whether the message has the other form; if so, that one is tried first from now on."""
        decode = self._decode_other
        if decode is None or not _accepts(decode, message):
            return False
        self._decode, self._decode_other = decode, self._decode
        return True

    def _judge(self, message: bytes, *, is_shallow: bool = False) -> str | None:
        """Ask the authority, for a shallow message after a last try with its unknown fields."""
        try:
            value = _decode_any(message)
        except RecursionError:
            return f"{BAD_FORMAT}JSON is nested too deep"
        except (msgspec.DecodeError, ValueError) as error:
            return f"{BAD_FORMAT}not JSON: {clip(error, REASON_CHARS_MAX - 40)}"
        if is_shallow and any(_accepts(decode, message) for decode in self._decode_unknown):
            return None
        return JsonCheck(STEPS_FREE + len(message)).find_fault(self._root, value)


def _accepts(decode: Callable[[bytes], object], message: bytes) -> bool:
    try:
        decode(message)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


_decode_any: Final[Callable[[bytes], object]] = msgspec.json.Decoder().decode
_IS_BINARY: Final[dict[bytes, bool]] = {}


def _read_type(content_type: bytes) -> bool:
    """Whether a Content-Type means binary data; refuses those of other schema types."""
    essence = content_type.partition(b";")[0].strip().lower().decode("latin-1")
    if any(word in essence for word in _FOREIGN):
        raise ClientFault(
            "media-type-unsupported",
            f"Content-Type {clip(essence)} contradicts the station's Avro schema",
        )
    is_binary = essence in BINARY
    if len(_IS_BINARY) < TYPES_REMEMBERED_MAX and len(content_type) < 128:
        _IS_BINARY[content_type] = is_binary
    return is_binary
