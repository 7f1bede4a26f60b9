"""Protobuf messages: wire bytes judged by upb, JSON bodies turned into wire bytes.

What enters: .proto text with the name of a message, then message bytes. What leaves: a validator.
`compile_protobuf` is called at registration, off the loop; `check` once per message, on the loop.
Each schema version has a descriptor pool of its own, so that versions never see each other. The
packages are imported only here and only when a protobuf schema is compiled: without them a gateway
still runs. It must never look into the default pool or take unbounded time.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Literal

from fastgw.errors import ClientFault, clip
from fastgw.schema.base import REASON_CHARS_MAX, Resolve, SchemaError, Verdict
from fastgw.schema.protobuf_json import find_non_object
from fastgw.schema.protobuf_wire import find_missing, find_wire_fault
from fastgw.schema.protoc import MAIN_FILE, MISSING, compile_text

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

REASON: Final = "invalid message format, expecting protobuf: "
"""SOURCE: Memphis' text for a message that is no protobuf; ours goes on with the cause."""

CANDIDATES_MAX: Final = 10
FORMS_MAX: Final = 256
"""LIMIT: Content-Type values whose form is remembered; more of them are read anew each time."""

_JSON: Final = re.compile(rb"\s*application/(?:[\w.!#$&^-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_FOREIGN: Final = re.compile(
    rb"\s*(?:avro/|application/(?:x-|vnd\.apache\.)?(?:avro|graphql)\b)", re.IGNORECASE
)
CLEANED_MAX: Final = 4_096
_LONG: Final = re.compile(r"""'[^']*'|"[^"]*"|\S{41,}""")
"""What a library quotes of a message at length: it is clipped like every value."""

_EMPTY: Final = re.compile(rb'\[[ \t\r\n]*\]|""')
"""WHY: json_format takes an empty list or string for an empty message, which ProtoJSON does not."""

_forms: dict[bytes, bool] = {}


def compile_protobuf(
    text: str,
    *,
    resolve: Resolve,
    message: str | None = None,
    unknown_fields: Literal["accept", "refuse"] = "accept",
) -> ProtobufValidator:
    """Compile .proto text into a validator of one of its messages.

    Args:
        text: proto2, proto3 or an edition; at most 256 KiB.
        resolve: finds the text of an import by its path, among registered schemas.
        message: the message's name, with or without its package; None for the only one at the top.
        unknown_fields: what to do with wire fields that the message does not know, at any depth.

    Raises:
        SchemaError: the text does not compile, or the message is not found or not told.
    """
    try:
        from google.protobuf.descriptor_pb2 import FileDescriptorSet
        from google.protobuf.descriptor_pool import DescriptorPool
    except ImportError as error:
        raise SchemaError(MISSING) from error
    compiled = FileDescriptorSet.FromString(compile_text(text, resolve))
    pool = DescriptorPool()
    try:
        for file in compiled.file:
            pool.AddSerializedFile(file.SerializeToString())
        main = pool.FindFileByName(MAIN_FILE)
    except (TypeError, KeyError, ValueError) as error:
        raise SchemaError(clip(error, REASON_CHARS_MAX)) from error
    descriptor = _pick_message(pool, main, message)
    return ProtobufValidator(pool, descriptor, unknown_fields=unknown_fields)


JSON_BYTES_AT_ONCE: Final = 16 * 1024
WIRE_BYTES_AT_ONCE: Final = 256 * 1024
"""LIMIT: a JSON body costs about 0.3 us a byte to transcode and a wire body at worst 55 ns, so that
up to here the loop waits five to fifteen milliseconds at most; longer ones go to a thread."""


class ProtobufValidator:
    """Judges messages of one type.

    Args:
        pool: the schema version's own pool.
        descriptor: the message's type, of that pool.
        unknown_fields: "accept" or "refuse".
    """

    __slots__ = ("_class", "_descriptor", "_json", "_looks_inside", "_parse", "_pool", "_refuses")

    def __init__(
        self,
        pool: DescriptorPool,
        descriptor: Descriptor,
        *,
        unknown_fields: Literal["accept", "refuse"] = "accept",
    ) -> None:
        from google.protobuf import json_format, message_factory

        self._pool = pool
        self._descriptor = descriptor
        self._json = json_format
        self._class: Any = message_factory.GetMessageClass(descriptor)
        self._parse = self._class.FromString
        # WHY: IsInitialized doubles the cost, and is always true where nothing is required.
        self._looks_inside = is_required_reachable(pool, descriptor)
        self._refuses = unknown_fields == "refuse"

    @property
    def message(self) -> str:
        """The full name of the message's type."""
        return self._descriptor.full_name

    def is_long(self, message: bytes, content_type: bytes | None) -> bool:
        """Whether judging this message would keep an event loop waiting for milliseconds."""
        is_json = content_type is not None and is_json_form(content_type)
        return len(message) > (JSON_BYTES_AT_ONCE if is_json else WIRE_BYTES_AT_ONCE)

    def check(self, message: bytes, content_type: bytes | None) -> Verdict:
        """Judge one message; see `Validator.check`. Bytes are the wire form of a JSON body."""
        if content_type is not None and is_json_form(content_type):
            try:
                return self.transcode(message)
            except ValueError as error:
                return str(error)
        try:
            parsed = self._parse(message)
        except Exception:  # noqa: BLE001 - no bytes may raise, and upb's errors are no one family
            return self._explain(message)
        if self._looks_inside and not parsed.IsInitialized():
            return self._missing(parsed)
        if self._refuses and _has_unknown(parsed):
            return self._unknown(message)
        return None

    def transcode(self, body: bytes) -> bytes:
        """Turn a message from ProtoJSON to wire bytes.

        A field that the type does not know is always refused: the wire form has no place for it.

        Raises:
            ValueError: the body is no such message; the text is the reason.
        """
        try:
            parsed = self._json.Parse(body, self._class(), descriptor_pool=self._pool)
            if _EMPTY.search(body) and (
                path := find_non_object(json.loads(body), self._descriptor)
            ):
                raise ValueError(f"field {clip(path)!r}: expected an object, got something empty")
            if not self._looks_inside or parsed.IsInitialized():
                return bytes(parsed.SerializeToString())
        except Exception as error:  # noqa: BLE001 - the text is hostile, the parser is recursive
            raise ValueError(f"{REASON}{_clean(error)}") from None
        raise ValueError(self._missing(parsed))

    def _explain(self, message: bytes) -> str:
        fault = find_wire_fault(message, self._descriptor)
        told = f"a body of {len(message)} bytes is no message {clip(self.message)!r}"
        return f"{REASON}{told}: {fault}" if fault else REASON + told

    def _missing(self, parsed: Any) -> str:
        field = find_missing(parsed)
        told = f"required field {clip(field)!r}" if field else "a required field"
        return f"{REASON}{told} is missing in message {clip(self.message)!r}"

    def _unknown(self, message: bytes) -> str:
        fault = find_wire_fault(message, self._descriptor, unknown=True)
        told = f"unknown fields are refused in message {clip(self.message)!r}"
        return f"{REASON}{told}: {fault}" if fault else REASON + told


def is_json_form(content_type: bytes) -> bool:
    """Tell whether a Content-Type means a JSON body.

    Raises:
        ClientFault: "media-type-unsupported", for the media type of another schema type.
    """
    form = _forms.get(content_type)
    if form is not None:
        return form
    if _FOREIGN.match(content_type):
        raise ClientFault(
            "media-type-unsupported",
            f"Content-Type {clip(content_type)!r} contradicts the station's protobuf schema",
        )
    form = _JSON.match(content_type) is not None
    if len(_forms) < FORMS_MAX and len(content_type) <= 256:
        _forms[content_type] = form
    return form


def is_required_reachable(pool: DescriptorPool, descriptor: Descriptor) -> bool:
    """Tell whether a message of this type can contain a message with a required field."""
    seen = {descriptor.full_name}
    waiting = [descriptor]
    while waiting:
        current = waiting.pop()
        fields = list(current.fields)
        if current.is_extendable:
            fields += pool.FindAllExtensions(current)
        for field in fields:
            if field.is_required:
                return True
            inner = field.message_type
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                waiting.append(inner)
    return False


def _pick_message(pool: DescriptorPool, main: FileDescriptor, name: str | None) -> Descriptor:
    candidates = [each.full_name for each in main.message_types_by_name.values()]
    listed = ", ".join(clip(each) for each in candidates[:CANDIDATES_MAX]) or "none"
    if len(candidates) > CANDIDATES_MAX:
        listed += f" and {len(candidates) - CANDIDATES_MAX} more"
    if name is None:
        if len(candidates) != 1:
            raise SchemaError(f"name the message to validate; top-level messages: {listed}")
        name = candidates[0]
    wanted = name.removeprefix(".")
    for full_name in (f"{main.package}.{wanted}" if main.package else wanted, wanted):
        try:
            return pool.FindMessageTypeByName(full_name)
        except KeyError:
            continue
    raise SchemaError(f"no message {clip(name)!r} in the schema; top-level messages: {listed}")


def _has_unknown(parsed: Any) -> bool:
    """Tell whether unknown fields were kept anywhere within; they are dropped by asking."""
    size = parsed.ByteSize()
    parsed.DiscardUnknownFields()
    return bool(parsed.ByteSize() != size)


def _clean(error: Exception) -> str:
    """Make one short line of a library's text, which may quote the message."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    line = _LONG.sub(lambda match: clip(match[0]), " ".join(str(error)[:CLEANED_MAX].split()))
    return clip(line, REASON_CHARS_MAX // 2)
