"""Compiles a JSON schema to a msgspec type: what its decoder accepts is valid, the rest is unknown.

What enters: a parsed schema and its draft. What leaves: a `decode` that raises for whatever it does
not know to be valid, or None for a schema that msgspec types cannot express.
`fastgw.schema.json` puts it in front of the authority, which alone refuses messages.
It must never accept what the authority refuses. Each rule here therefore narrows: it may turn away
good messages (1.0 for an integer, properties that the schema does not name), never let in bad ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fastgw.schema.json_guard import Documents

FIELDS_MAX: Final = 256
"""LIMIT: msgspec looks keys up one by one; more fields would cost their square."""
DEPTH_MAX: Final = 150
"""LIMIT: schemas followed one into the other while compiling, below the interpreter's limit."""
INT64: Final = 2**63 - 1
"""LIMIT: msgspec's bounds and literals are 64-bit."""

_UNKNOWN_TO_US: Final = frozenset(
    (
        "$dynamicAnchor",
        "$dynamicRef",
        "$recursiveAnchor",
        "$recursiveRef",
        "$vocabulary",
        "else",
        "if",
        "not",
        "then",
        "extends",
        "disallow",
    )
)
_UNKNOWN_BY_KIND: Final = {
    "str": frozenset(("contentEncoding", "contentMediaType", "contentSchema", "pattern")),
    "list": frozenset(
        (
            "additionalItems",
            "contains",
            "maxContains",
            "minContains",
            "prefixItems",
            "unevaluatedItems",
        )
    ),
    "dict": frozenset(
        (
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "patternProperties",
            "propertyNames",
            "unevaluatedProperties",
        )
    ),
}
_KINDS: Final = {
    "null": ("null",),
    "boolean": ("bool",),
    "integer": ("int",),
    "number": ("int", "float"),
    "string": ("str",),
    "array": ("list",),
    "object": ("dict",),
}
_ALL_KINDS: Final = ("null", "bool", "int", "float", "str", "list", "dict")
_COMBINING: Final = ("$ref", "allOf", "anyOf", "oneOf")
_CONSTRAINING: Final = frozenset(
    (
        "type",
        "enum",
        "const",
        "format",
        "items",
        "properties",
        "required",
        "additionalProperties",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "uniqueItems",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        *_COMBINING,
    )
) | _UNKNOWN_TO_US.union(*_UNKNOWN_BY_KIND.values())
_UNNAMEABLE: Final = re.compile(r'["\\\x00-\x1f\x7f]')

_HOST: Final = r"(?:[A-Za-z0-9]{1,30}\.){1,4}[A-Za-z]{2,10}"
_DAY: Final = (
    r"[12][0-9]{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    r"|(?:0[13578]|1[02])-31)"
)
_BYTE: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# Plain members of each format only, in patterns that are linear in Python's engine.
_FORMATS: Final = {
    "date": rf"\A{_DAY}\Z",
    "date-time": rf"\A{_DAY}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,9}})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\Z",
    "email": rf"\A[A-Za-z0-9_]{{1,20}}(?:\.[A-Za-z0-9_]{{1,20}}){{0,2}}@{_HOST}\Z",
    "ipv4": rf"\A{_BYTE}(?:\.{_BYTE}){{3}}\Z",
    "uri": rf"\Ahttps?://{_HOST}(?:/[A-Za-z0-9_~.-]{{0,60}}){{0,10}}\Z",
}


class Unfit(Exception):
    """The schema says something that no msgspec type of ours says."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema accepts, by kind of JSON value.

    Args:
        types: kind -> type of the values that are accepted; `Literals` for single ones.
        claims: kinds of which the schema may accept values, the ones turned away here too.
        anything: whether the schema accepts every value.
        patterned: whether a type carries a pattern.
    """

    types: dict[str, Any]
    claims: frozenset[str]
    anything: bool = False
    patterned: bool = False


@dataclass(frozen=True, slots=True)
class Literals:
    """Single values of one kind."""

    values: tuple[str | int | bool, ...]


def compile_fast(documents: Documents, *, formats_asserted: bool) -> Callable[[bytes], Any] | None:
    """Compile a decoder that accepts only what the schema accepts.

    Args:
        documents: the guarded schema.
        formats_asserted: whether its draft makes `format` a rule rather than a remark.

    Returns:
        The decoder's `decode`, which raises msgspec.DecodeError, UnicodeDecodeError or
        RecursionError for what it does not accept; None when the schema has no such type.
    """
    if not isinstance(documents.root, dict):
        return None
    try:
        shape = _Compiler(documents, formats_asserted).compile_node(documents.root, 0)
        if shape.anything:
            # WHY: the authority decodes to the same objects and then has nothing left to do.
            return None
        return msgspec.json.Decoder(build_type(shape)).decode
    except (Unfit, TypeError, ValueError, OverflowError, NotImplementedError):
        return None


def build_type(shape: Shape) -> Any:
    """Build the one type of a shape."""
    if shape.anything:
        return Any
    if shape.patterned and set(shape.types) != {"str"}:
        # DANGER: msgspec 0.22 frees a pattern twice when its union holds a list or a dict.
        raise Unfit("a pattern in a union")
    literals = [v for t in shape.types.values() if isinstance(t, Literals) for v in t.values]
    types = [t for t in shape.types.values() if not isinstance(t, Literals)]
    if literals:
        types.append(Literal[tuple(literals)])
    if not types:
        raise Unfit("nothing is accepted")
    return Union[tuple(types)]  # noqa: UP007


class _Compiler:
    """Compiles the nodes of one schema, each once."""

    def __init__(self, documents: Documents, formats_asserted: bool) -> None:
        self.documents = documents
        self.formats_asserted = formats_asserted
        self.shapes: dict[int, Shape | None] = {}

    def compile_node(self, node: Any, depth: int) -> Shape:
        """Compile a node to its shape. Raises Unfit."""
        if node is True:
            return Shape({}, frozenset(_ALL_KINDS), anything=True)
        if not isinstance(node, dict) or depth > DEPTH_MAX:
            raise Unfit("false, or too deep")
        known = self.shapes.get(id(node), UNSET)
        if known is None:
            raise Unfit("a recursion that passes through no object")
        if not isinstance(known, UnsetType):
            return known
        self.shapes[id(node)] = None
        shape = self._compile_new(node, depth)
        self.shapes[id(node)] = shape
        return shape

    def _compile_new(self, node: dict[str, Any], depth: int) -> Shape:
        if not _UNKNOWN_TO_US.isdisjoint(node):
            raise Unfit("a keyword that has no type")
        based = any(isinstance(node.get(word), str) for word in ("$id", "id", "$schema"))
        if based and node is not self.documents.root:
            raise Unfit("a schema with a base of its own")
        for word in _COMBINING:
            if word in node:
                if len(_CONSTRAINING.intersection(node)) > 1:
                    raise Unfit("other rules beside a combination")
                return self._compile_combined(node, word, depth)
        if _CONSTRAINING.isdisjoint(node):
            return Shape({}, frozenset(_ALL_KINDS), anything=True)
        if "enum" in node or "const" in node:
            return _compile_values(node)
        return self._compile_kinds(node, depth)

    def _compile_combined(self, node: dict[str, Any], word: str, depth: int) -> Shape:
        value = node[word]
        if word == "$ref":
            return self.compile_node(self._find_local(node, value), depth + 1)
        if not isinstance(value, list) or not value:
            raise Unfit("not a list of schemas")
        if word == "allOf" and len(value) > 1:
            raise Unfit("an intersection")
        types: dict[str, Any] = {}
        claims: frozenset[str] = frozenset()
        patterned = False
        for child in value:
            shape = self.compile_node(child, depth + 1)
            if len(value) == 1:
                return shape
            overlap = shape.claims & claims if word == "oneOf" else types.keys() & shape.types
            if shape.anything or overlap:
                raise Unfit("alternatives of one kind")
            types |= shape.types
            claims |= shape.claims
            patterned = patterned or shape.patterned
        return Shape(types, claims, patterned=patterned)

    def _find_local(self, node: dict[str, Any], reference: Any) -> Any:
        """Find the target of a reference by pointer within this document, its base unchanged."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise Unfit("a reference to elsewhere")
        if (reference != "#" and not reference.startswith("#/")) or "%" in reference:
            raise Unfit("a reference by name")
        target: Any = self.documents.root
        for token in reference.split("/")[1:]:
            step = token.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or step not in target:
                raise Unfit("a reference into a list")
            target = target[step]
            if isinstance(target, dict) and (
                isinstance(target.get("$id"), str) or isinstance(target.get("id"), str)
            ):
                raise Unfit("a reference past a base")
        return target

    def _compile_kinds(self, node: dict[str, Any], depth: int) -> Shape:
        names = node.get("type", list(_KINDS))
        names = [names] if isinstance(names, str) else names
        kinds = {kind for name in names for kind in _KINDS[name]}
        # WHY: 1.0 is an integer to the newer drafts, which the type turns away.
        claims = frozenset(kinds | ({"float"} if "int" in kinds else set()))
        for kind, words in _UNKNOWN_BY_KIND.items():
            if kind in kinds and not words.isdisjoint(node):
                raise Unfit("a keyword that has no type")
        types: dict[str, Any] = {}
        patterned = False
        if "null" in kinds:
            types["null"] = None
        if "bool" in kinds:
            types["bool"] = bool
        if not kinds.isdisjoint(("int", "float")):
            types |= _compile_numbers(node, kinds)
        if "str" in kinds:
            types["str"], patterned = self._compile_text(node)
        if "dict" in kinds:
            types["dict"] = self._compile_object(node, depth, alone=kinds == {"dict"})
        if "list" in kinds:
            types["list"] = self._compile_array(node, depth)
        return Shape(types, claims, patterned=patterned)

    def _compile_text(self, node: dict[str, Any]) -> tuple[Any, bool]:
        bounds = _lengths(node, "minLength", "maxLength")
        pattern = None
        if self.formats_asserted and "format" in node:
            pattern = _FORMATS.get(node["format"])
            if pattern is None:
                raise Unfit("a format without a narrower pattern")
        if pattern is not None:
            return Annotated[str, Meta(pattern=pattern, **bounds)], True
        return (Annotated[str, Meta(**bounds)] if bounds else str), False

    def _compile_array(self, node: dict[str, Any], depth: int) -> Any:
        if node.get("uniqueItems", False) is not False:
            raise Unfit("unique items")
        items = node.get("items", True)
        bounds = _lengths(node, "minItems", "maxItems")
        array: Any = list[build_type(self.compile_node(items, depth + 1))]  # type: ignore[misc]
        return Annotated[array, Meta(**bounds)] if bounds else array

    def _compile_object(self, node: dict[str, Any], depth: int, *, alone: bool) -> Any:
        properties = node.get("properties", {})
        required = node.get("required", [])
        additional = node.get("additionalProperties", True)
        bounds = _lengths(node, "minProperties", "maxProperties")
        if not properties and not required and additional is not False:
            values = build_type(self.compile_node(additional, depth + 1))
            mapping: Any = dict[str, values]  # type: ignore[valid-type]
            return Annotated[mapping, Meta(**bounds)] if bounds else mapping
        rest = {name: True for name in required if name not in properties}
        if rest and additional is not True and additional != {}:
            raise Unfit("a required property that only additionalProperties describes")
        properties = properties | rest
        if bounds.get("min_length", 0) > len(set(required)):
            raise Unfit("more properties than are required")
        if bounds.get("max_length", INT64) < len(properties):
            raise Unfit("fewer properties than are named")
        if len(properties) > FIELDS_MAX or any(_UNNAMEABLE.search(name) for name in properties):
            raise Unfit("properties without a name that a field can have")
        return self._compile_struct(node, properties, set(required), depth, alone=alone)

    def _compile_struct(
        self,
        node: dict[str, Any],
        properties: dict[str, Any],
        required: set[str],
        depth: int,
        *,
        alone: bool,
    ) -> Any:
        """Compile the class of an object; `alone` says that it is the node's only kind."""
        # WHY closed, even where the schema is open: msgspec skips fields that it does not know
        # without looking at their UTF-8, surrogates and numbers. Such messages go to the authority.
        fields: list[Any] = [
            (f"f{i}", f"t{i}") if name in required else (f"f{i}", f"t{i}", UNSET)
            for i, name in enumerate(properties)
        ]
        rename = {f"f{i}": name for i, name in enumerate(properties)}
        # gc=False: the objects live as long as one call, and JSON has no cycles.
        struct = msgspec.defstruct(
            "Object", fields, rename=rename, forbid_unknown_fields=True, gc=False, eq=False,
            kw_only=True,
        )  # fmt: skip
        if alone:
            # WHY only then: a recursion finds this shape, which must be the node's whole.
            self.shapes[id(node)] = Shape({"dict": struct}, frozenset(("dict",)))
        for i, (name, child) in enumerate(properties.items()):
            built = build_type(self.compile_node(child, depth + 1))
            # WHY as attributes: msgspec evaluates the annotations within the class, so that a
            # recursive class needs no module that would outlive the schema.
            optional = name not in required and built is not Any
            setattr(struct, f"t{i}", Union[built, UnsetType] if optional else built)  # noqa: UP007
        return struct


def _compile_values(node: dict[str, Any]) -> Shape:
    """Compile `enum` and `const`; single values that a type cannot say are left out."""
    if len(_CONSTRAINING.intersection(node) - {"type"}) > 1:
        raise Unfit("other rules beside single values")
    values = node["enum"] if "enum" in node else [node["const"]]
    names = node.get("type", list(_KINDS))
    names = [names] if isinstance(names, str) else names
    kinds = {kind for name in names for kind in _KINDS[name]}
    by_kind: dict[str, list[Any]] = {}
    claims: set[str] = set()
    for value in values:
        kind = "null" if value is None else type(value).__name__
        claims |= {"int", "float"} if kind in {"int", "float"} else {kind}
        if kind not in kinds or kind in {"float", "list", "dict"}:
            continue
        if kind == "int" and abs(value) > INT64:
            continue
        by_kind.setdefault(kind, []).append(value)
    types: dict[str, Any] = {
        kind: None if kind == "null" else Literals(tuple(single))
        for kind, single in by_kind.items()
    }
    if not types:
        raise Unfit("no value that a type can say")
    return Shape(types, frozenset(claims))


def _compile_numbers(node: dict[str, Any], kinds: set[str]) -> dict[str, Any]:
    """Compile the kinds of numbers with their bounds."""
    low, low_open = _strongest(node, "minimum", "exclusiveMinimum", max)
    high, high_open = _strongest(node, "maximum", "exclusiveMaximum", min)
    whole: dict[str, Any] = {}
    real: dict[str, Any] = {}
    if low is not None:
        whole["ge"] = _int64(math.floor(low) + 1 if low_open else math.ceil(low))
        real["gt" if low_open else "ge"] = float(low)
    if high is not None:
        whole["le"] = _int64(math.ceil(high) - 1 if high_open else math.floor(high))
        real["lt" if high_open else "le"] = float(high)
    types: dict[str, Any] = {}
    step = node.get("multipleOf")
    if step is not None:
        if isinstance(step, float) and not step.is_integer():
            raise Unfit("multiples of a fraction")
        whole["multiple_of"] = _int64(int(step))
        # WHY: whether a float is a multiple is rounded differently by each library.
        kinds = kinds - {"float"}
    if "int" in kinds:
        types["int"] = Annotated[int, Meta(**whole)] if whole else int
    if "float" in kinds:
        types["float"] = Annotated[float, Meta(**real)] if real else float
    return types


def _strongest(
    node: dict[str, Any], word: str, exclusive: str, choose: Callable[[Any, Any], Any]
) -> tuple[Any, bool]:
    """Find the bound that decides, and whether it excludes itself."""
    bound, other = node.get(word), node.get(exclusive)
    if isinstance(other, bool):  # draft 4
        other, bound = (bound, None) if other else (None, bound)
    for value in (bound, other):
        # WHY: a bound that binary64 rounds would judge floats by another number.
        if value is not None and (abs(value) > INT64 or int(float(value)) != int(value)):
            raise Unfit("a bound that rounds")
    if bound is None or other is None:
        return (bound, False) if other is None else (other, True)
    if bound == other:
        return other, True
    strongest = choose(bound, other)
    return strongest, strongest == other


def _lengths(node: dict[str, Any], low: str, high: str) -> dict[str, Any]:
    """Read two bounds of a length; 2.0 is written for 2 at times."""
    bounds = {}
    for word, name in ((low, "min_length"), (high, "max_length")):
        if word in node:
            value = node[word]
            if int(value) != value:
                raise Unfit("a broken length")
            bounds[name] = _int64(int(value))
    return bounds


def _int64(value: int) -> int:
    if abs(value) > INT64:
        raise Unfit("a number beyond 64 bits")
    return value
