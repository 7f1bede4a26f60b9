"""msgspec types for Avro schemas: the fast way through JSON-encoded data.

What enters: a schema's graph of types. What leaves: a decoder for one of the two forms, plain or
tagged unions, or None where msgspec cannot say it. What such a decoder accepts is valid; what it
refuses may still be, and goes to `avro_json`. It must never put a pattern into a union with lists,
dicts or objects: msgspec 0.22 corrupts the heap there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final, ForwardRef, Literal, Union

import msgspec

from fastgw.schema.avro_json import FLOAT_MAX, UUID
from fastgw.schema.avro_parse import AvroType

PARTS_MAX: Final = 400
"""LIMIT: msgspec reads types recursively in C; that many within each other fit any stack."""
FIELDS_MAX: Final = 5_000
"""LIMIT: making a type with as many fields takes 20 ms."""

# WHY: types that exist only at run time are opaque to mypy.
_Type = Any


class _UnsayableError(Exception):
    """msgspec has no exact type for this schema."""


def make_decoder(
    root: AvroType, *, with_tags: bool, with_unknown: bool = False
) -> Callable[[bytes], object] | None:
    """Make a decoder that accepts only valid data, of one form.

    Args:
        root: the schema.
        with_tags: whether the values of unions stand tagged or plain.
        with_unknown: whether records may have unknown fields. msgspec skips these without looking
            into them, so the caller must know that the message is JSON throughout.

    Returns:
        `msgspec.json.Decoder.decode`, or None.
    """
    try:
        decode: Callable[[bytes], object] = msgspec.json.Decoder(
            _Types(with_tags=with_tags, with_unknown=with_unknown).of_root(root)
        ).decode
    except (_UnsayableError, TypeError, ValueError, RecursionError):
        return None
    return decode


class _Types:
    """The types of one schema in one form; records are made once, since they may be recursive."""

    def __init__(self, *, with_tags: bool, with_unknown: bool) -> None:
        self.with_tags: Final = with_tags
        self.with_unknown: Final = with_unknown
        self.records: Final[dict[str, _Type]] = {}
        self.recursive: Final[set[str]] = set()
        self.made: Final[list[_Type]] = []
        self.parts = 0
        self.fields = 0

    def of_root(self, root: AvroType) -> _Type:
        """Make the type of a whole message."""
        found = self.of(root)
        # WHY: msgspec looks a name up among the attributes of the class that mentions it; so
        # recursion needs no module of ours, which would outlive the schema.
        for full in self.recursive:
            record = self.records[full]
            for struct in self.made:
                setattr(struct, record.__name__, record)
        return found

    def of(self, item: AvroType) -> _Type:
        """Make the type of the JSON that `item` is written as."""
        kind = item.kind
        self.parts += bool(item.children)
        self.fields += len(item.children)
        if self.parts > PARTS_MAX or self.fields > FIELDS_MAX:
            raise _UnsayableError
        if kind in ("int", "long"):
            low, high = item.range
            return Annotated[int, msgspec.Meta(ge=low, le=high)]
        if kind == "string":
            return Annotated[str, msgspec.Meta(pattern=f"^{UUID.pattern}")] if item.logical else str
        if kind in ("bytes", "fixed"):
            return _bytes(item)
        if kind == "enum":
            return Literal[tuple(item.symbols)]
        if kind == "array":
            return list[self.of(item.children[0])]  # type: ignore[misc]  # known at run time only
        if kind == "map":
            return dict[str, self.of(item.children[0])]  # type: ignore[misc]  # the same
        if kind == "record":
            return self.record(item)
        if kind == "union":
            return self.tagged(item) if self.with_tags else self.plain(item)
        return _SIMPLE[kind]

    def record(self, item: AvroType) -> _Type:
        """Make an object of the record's fields; its name stands for it meanwhile."""
        if item.name in self.records:
            found = self.records[item.name]
            if isinstance(found, ForwardRef):
                self.recursive.add(item.name)
            return found
        holder = f"R{len(self.records)}"
        self.records[item.name] = ForwardRef(holder)
        required = frozenset(item.required)
        fields = {name: self.of(child) for name, child in item.by_name.items()}
        self.records[item.name] = self.struct(holder, fields, required)
        return self.records[item.name]

    def tagged(self, item: AvroType) -> _Type:
        """`null`, or an object of exactly one key that names the branch."""
        branches = {b.label: self.of(b) for b in item.children if b.kind != "null"}
        required = frozenset(branches) if len(branches) == 1 else frozenset()
        if not branches:
            return None
        struct = self.struct(f"U{len(self.made)}", branches, required)
        return struct | None if "null" in item.by_label else struct

    def plain(self, item: AvroType) -> _Type:
        """One type for each kind of JSON that a branch is written as."""
        kinds = item.by_json
        objects = kinds.get(dict, []) + kinds.get(list, [])
        if len(kinds.get(dict, ())) > 1:
            raise _UnsayableError
        found: list[_Type] = [self.of(branch) for branch in objects]
        if int in kinds:
            # WHY: the widest branch alone; what only a narrower one takes, the authority sees.
            found.append(self.of(max(kinds[int], key=_width)))
        texts = kinds.get(str, [])
        if any(branch.kind == "string" and not branch.logical for branch in texts):
            found.append(str)
        elif len(texts) > 1 or (texts and objects and texts[0].kind != "enum"):
            raise _UnsayableError
        elif texts:
            found.append(self.of(texts[0]))
        if bool in kinds:
            found.append(bool)
        if type(None) in kinds:
            found.append(None)
        return Union[tuple(found)]  # noqa: UP007  # `|` does not join forward references

    def struct(self, name: str, fields: dict[str, _Type], required: frozenset[str]) -> _Type:
        """Make an object type; one of a union where nothing is required wants exactly one field."""
        slots = {f"f{number}": name for number, name in enumerate(fields)}
        listed: list[Any] = [
            (slot, fields[key]) if key in required else (slot, fields[key], msgspec.UNSET)
            for slot, key in slots.items()
        ]
        wants_one = name.startswith("U") and not required
        made = msgspec.defstruct(
            name,
            listed,
            rename=slots,
            kw_only=True,
            gc=False,
            forbid_unknown_fields=name.startswith("U") or not self.with_unknown,
            module=__name__,
            namespace={"__post_init__": _check_one} if wants_one else None,
        )
        self.made.append(made)
        return made


def _check_one(self: msgspec.Struct) -> None:
    values = msgspec.structs.astuple(self)
    if values.count(msgspec.UNSET) != len(values) - 1:
        raise ValueError("not exactly one branch")


def _width(item: AvroType) -> float:
    if item.kind in ("float", "double"):
        return math.inf if item.kind == "double" else 1e300
    return float(item.range[1] - item.range[0])


def _bytes(item: AvroType) -> _Type:
    """Make a string with one character up to U+00FF for each byte."""
    pattern = "^[\\x00-\\xff]*\\Z"
    if item.logical == "decimal":
        # WHY: any number of that many bytes has few enough digits; longer ones the authority sees.
        size = ((10**item.precision).bit_length() - 1 + 1) // 8
        if size == 0 or (item.kind == "fixed" and item.size > size):
            raise _UnsayableError
        if item.kind == "bytes":
            return Annotated[str, msgspec.Meta(pattern=pattern, min_length=1, max_length=size)]
    if item.kind == "fixed":
        size = item.size
        return Annotated[str, msgspec.Meta(pattern=pattern, min_length=size, max_length=size)]
    return Annotated[str, msgspec.Meta(pattern=pattern)]


_SIMPLE: Final[dict[str, _Type]] = {
    "null": None,
    "boolean": bool,
    "float": Annotated[float, msgspec.Meta(ge=-FLOAT_MAX, le=FLOAT_MAX)],
    "double": float,
}
