"""Why upb refused: a slow walk over the wire bytes that names the byte, the field and the rule.

What enters: bytes that upb refused, or a parsed message that lacks or has too much. What leaves:
one line for the reason, or an empty one when the walk finds nothing within its budget.
Called by `protobuf` after the verdict, and only for a reason: it must never decide anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastgw.errors import clip

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor

STEPS_MAX: Final = 20_000
"""LIMIT: fields walked for one reason, about 20 ms; a fault behind them is told without a place."""

DEPTH_MAX: Final = 100
"""SOURCE: protobuf's own bound on nested messages and groups, in all implementations."""

# SOURCE: descriptor.proto, FieldDescriptorProto.Type.
_GROUP, _MESSAGE, _STRING = 10, 11, 9
_FIXED64: Final = frozenset({1, 6, 16})
_FIXED32: Final = frozenset({2, 7, 15})
_VARINT: Final = frozenset({3, 4, 5, 8, 13, 14, 17, 18})


class _Fault(Exception):
    """Raised where the bytes go wrong."""

    def __init__(self, at: int, rule: str) -> None:
        super().__init__(rule)
        self.at = at
        self.rule = rule


def find_wire_fault(body: bytes, descriptor: Descriptor, *, unknown: bool = False) -> str:
    """Say where `body` is no message of `descriptor`; "" when that is not found.

    Args:
        body: bytes that were refused.
        descriptor: the type that they should be of.
        unknown: whether the body was refused for a field that the type does not know.
    """
    walk = _Walk(body, refuses_unknown=unknown)
    try:
        walk.message(0, len(body), descriptor, group=0)
    except _Fault as fault:
        where = f"field {clip('.'.join(walk.path))!r}, " if walk.path else ""
        return f"{where}byte {fault.at}: {fault.rule}"
    except _OutOfSteps:
        pass
    return ""


class _OutOfSteps(Exception):
    """The budget of the walk is used up."""


class _Walk:
    """One walk over the bytes of one message."""

    def __init__(self, body: bytes, *, refuses_unknown: bool) -> None:
        self.body = body
        self.refuses_unknown = refuses_unknown
        self.path: list[str] = []
        self.steps = 0

    def message(self, at: int, end: int, descriptor: Descriptor | None, *, group: int) -> int:
        """Walk fields from `at`; returns where the message, or the group of that number, ends."""
        if len(self.path) > DEPTH_MAX:
            raise _Fault(at, f"nested deeper than {DEPTH_MAX}")
        while at < end:
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise _OutOfSteps
            begin = at
            tag, at = self.varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise _Fault(begin, f"field number {number} is not 1 to {(1 << 29) - 1}")
            if wire == 4:
                if number != group:
                    raise _Fault(begin, f"end of group {number}, which was not begun")
                return at
            field = descriptor.fields_by_number.get(number) if descriptor is not None else None
            self.path.append(field.name if field is not None else str(number))
            if self.refuses_unknown and (field is None or not _is_wire_of(field, wire)):
                rule = "not in the schema" if field is None else f"wire type {wire} is not its own"
                raise _Fault(begin, rule)
            at = self.value(at, end, wire, number, field)
            self.path.pop()
        if group:
            raise _Fault(at, f"the bytes end inside group {group}")
        return at

    def value(
        self, at: int, end: int, wire: int, number: int, field: FieldDescriptor | None
    ) -> int:
        """Walk one value and return where it ends."""
        kind = field.type if field is not None else 0
        if wire == 0:
            return self.varint(at, end)[1]
        if wire in {1, 5}:
            return self.skip(at, end, 8 if wire == 1 else 4)
        if wire == 3:
            inner = field.message_type if field is not None and kind == _GROUP else None
            return self.message(at, end, inner, group=number)
        if wire != 2:
            raise _Fault(at, f"wire type {wire}, expected 0 to 5")
        size, begin = self.varint(at, end)
        at = self.skip(begin, end, size)
        if field is None:
            return at
        if kind == _MESSAGE:
            self.message(begin, at, field.message_type, group=0)
        elif kind == _STRING:
            self.text(begin, at, field)
        else:
            self.packed(begin, at, kind)
        return at

    def packed(self, begin: int, end: int, kind: int) -> None:
        """Walk packed numbers; other kinds hold any bytes."""
        if kind in _FIXED64 or kind in _FIXED32:
            width = 8 if kind in _FIXED64 else 4
            if (end - begin) % width:
                raise _Fault(begin, f"{end - begin} packed bytes are no multiple of {width}")
        elif kind in _VARINT:
            while begin < end:
                self.steps += 1
                if self.steps > STEPS_MAX:
                    raise _OutOfSteps
                begin = self.varint(begin, end)[1]

    def text(self, begin: int, end: int, field: FieldDescriptor) -> None:
        """Refuse a string that is no UTF-8; proto2 takes it, and then upb has not refused it."""
        try:
            self.body[begin:end].decode("utf-8")
        except UnicodeDecodeError as error:
            if not _is_proto2(field):
                raise _Fault(begin + error.start, "a string that is not UTF-8") from None

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Read a number; returns it and where it ends."""
        value = 0
        for index in range(10):
            if at + index >= end:
                raise _Fault(end, "the bytes end inside a number")
            byte = self.body[at + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, at + index + 1
        raise _Fault(at, "a number longer than 10 bytes")

    def skip(self, at: int, end: int, size: int) -> int:
        """Go over `size` bytes."""
        if size > end - at:
            raise _Fault(at, f"{size} bytes expected, {end - at} are left")
        return at + size


def _is_wire_of(field: Any, wire: int) -> bool:
    """Tell whether a field of this type is written so; SOURCE: protobuf's encoding, wire types."""
    kind = field.type
    if kind in _VARINT or kind in _FIXED64 or kind in _FIXED32:
        own = 0 if kind in _VARINT else 1 if kind in _FIXED64 else 5
        return wire == own or (wire == 2 and field.is_repeated)
    return wire == (3 if kind == _GROUP else 2)


def _is_proto2(field: Any) -> bool:
    return getattr(field.file, "syntax", "") == "proto2"


def find_missing(message: Any) -> str:
    """Name the first required field that a parsed message lacks; "" when it is not found."""
    stack = [("", message)]
    for _ in range(STEPS_MAX):
        if not stack:
            break
        path, inner = stack.pop()
        name = _missing_here(inner)
        if name:
            return path + name
        if len(stack) > STEPS_MAX:
            continue
        for field, value in inner.ListFields():
            if field.message_type is not None:
                prefix = f"{path}{field.name}."
                stack.extend((prefix, each) for each in _messages_of(field, value))
    return ""


def _missing_here(message: Any) -> str:
    for field in message.DESCRIPTOR.fields:
        if field.is_required and not message.HasField(field.name):
            return str(field.name)
    return ""


def _messages_of(field: Any, value: Any) -> list[Any]:
    if not field.is_repeated:
        return [value]
    if field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return list(value.values())[:STEPS_MAX] if inner.message_type is not None else []
    return list(value[:STEPS_MAX])
