"""Compiles a JSON schema to a program of the core, which takes only what is surely valid.

What enters: a parsed schema and its draft. What leaves: a `JsonWalker`, which tells messages that
are surely good, or None for a schema that its nodes cannot express.
`fastgw.schema.json` puts it in front of the authority, which alone refuses messages.
It must never accept what the authority refuses. Each rule here therefore narrows: it may turn away
good messages (1.0 for an integer, a name that is written with an escape), never let in bad ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fastgw._core import JSON_FORMATS, JsonWalker
from fastgw.schema.json_guard import Documents

FIELDS_MAX: Final = 256
"""LIMIT: JSON_FIELDS_MAX of the core; a bit for each name in each object that is open."""
DEPTH_MAX: Final = 150
"""LIMIT: schemas followed one into the other while compiling, below the interpreter's limit."""
INT64: Final = 2**63 - 1
"""LIMIT: the core's bounds and single numbers have 64 bits."""

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
    "text": frozenset(("contentEncoding", "contentMediaType", "contentSchema", "pattern")),
    "array": frozenset(
        (
            "additionalItems",
            "contains",
            "maxContains",
            "minContains",
            "prefixItems",
            "unevaluatedItems",
        )
    ),
    "object": frozenset(
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
    "boolean": ("true", "false"),
    "integer": ("whole",),
    "number": ("whole", "real"),
    "string": ("text",),
    "array": ("array",),
    "object": ("object",),
}
_ALL_KINDS: Final = frozenset(kind for kinds in _KINDS.values() for kind in kinds)
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
_UNNAMEABLE: Final = re.compile(r'["\\\x00-\x1f]')


class Unfit(Exception):
    """The schema says something that no node of ours says."""


@dataclass(slots=True)
class Node:
    """What a schema accepts, as the core's walker reads it.

    Args:
        kinds: kinds of values that are accepted: null, true, false, whole, real, text, array,
            object; a whole number is one without point and exponent.
        claims: kinds of which the schema may accept values, the ones turned away here too.
        low, high, step: the least and the greatest whole number, and what they are multiples of,
            0 for anything.
        wholes: the single whole numbers that are accepted; None for all.
        real: the bounds of other numbers, and whether each excludes itself; None for none.
        text: the least and the greatest length of strings, in code points.
        format: a format of `fastgw._core.JSON_FORMATS`.
        texts: the single strings that are accepted, as UTF-8; None for all.
        item: the number of the node of an array's items.
        items: the least and the greatest count of them.
        names: name as UTF-8, number of its node, and whether it is required, for each property.
        rest: the number of the node of the properties without a name; -1 where none may be.
        members: the least and the greatest count of properties.
    """

    kinds: set[str]
    claims: frozenset[str]
    low: int = -INT64
    high: int = INT64
    step: int = 0
    wholes: tuple[int, ...] | None = None
    real: tuple[float, float, bool, bool] | None = None
    text: tuple[int, int] = (0, INT64)
    format: str = ""
    texts: tuple[bytes, ...] | None = None
    item: int = 0
    items: tuple[int, int] = (0, INT64)
    names: list[tuple[bytes, int, bool]] = field(default_factory=list)
    rest: int = -1
    members: tuple[int, int] = (0, INT64)

    def take(self, other: Node) -> None:
        """Accept what another node accepts too; no kind is in both."""
        self.kinds |= other.kinds
        self.claims |= other.claims
        for kind in other.kinds:
            for name in _RULES.get(kind, ()):
                setattr(self, name, getattr(other, name))


_RULES: Final = {
    "whole": ("low", "high", "step", "wholes"),
    "real": ("real",),
    "text": ("text", "format", "texts"),
    "array": ("item", "items"),
    "object": ("names", "rest", "members"),
}
"""Which rules of a node are about a kind."""


def compile_fast(documents: Documents, *, formats_asserted: bool) -> JsonWalker | None:
    """Compile a walker that accepts only what the schema accepts.

    Args:
        documents: the guarded schema.
        formats_asserted: whether its draft makes `format` a rule rather than a remark.

    Returns:
        The walker; None when the schema has no such program.
    """
    if not isinstance(documents.root, dict):
        return None
    try:
        return JsonWalker(_Compiler(documents, formats_asserted).compile_program())
    except (Unfit, ValueError, OverflowError):
        return None


class _Compiler:
    """Compiles the nodes of one schema, each once."""

    def __init__(self, documents: Documents, formats_asserted: bool) -> None:
        self.documents = documents
        self.formats_asserted = formats_asserted
        self.nodes: dict[int, Node | None] = {}
        self.numbers: dict[int, int] = {}
        self.pending: list[Any] = []

    def compile_program(self) -> list[Node]:
        """Compile the schema and all that it leads to. Raises Unfit."""
        program: list[Node] = []
        self.number_of(self.documents.root)
        while len(program) < len(self.pending):
            program.append(self.compile_node(self.pending[len(program)], 0))
        return program

    def number_of(self, schema: Any) -> int:
        """Find the number of a schema's node, which is compiled when its turn comes."""
        # WHY: `true` and `false` are one object each, like the nodes of the schema.
        number = self.numbers.setdefault(id(schema), len(self.pending))
        if number == len(self.pending):
            self.pending.append(schema)
        return number

    def compile_node(self, schema: Any, depth: int) -> Node:
        """Compile the rules of one schema for a value. Raises Unfit."""
        if isinstance(schema, bool):
            return self._accept_anything() if schema else Node(set(), frozenset())
        if not isinstance(schema, dict) or depth > DEPTH_MAX:
            raise Unfit("no schema, or too deep")
        if id(schema) in self.nodes:
            known = self.nodes[id(schema)]
            if known is None:
                raise Unfit("a recursion that passes through no object or array")
            return known
        self.nodes[id(schema)] = None
        node = self.nodes[id(schema)] = self._compile_new(schema, depth)
        return node

    def _accept_anything(self) -> Node:
        number = self.number_of(True)
        return Node(set(_ALL_KINDS), _ALL_KINDS, item=number, rest=number)

    def _compile_new(self, schema: dict[str, Any], depth: int) -> Node:
        if not _UNKNOWN_TO_US.isdisjoint(schema):
            raise Unfit("a keyword that has no node")
        based = any(isinstance(schema.get(word), str) for word in ("$id", "id", "$schema"))
        if based and schema is not self.documents.root:
            raise Unfit("a schema with a base of its own")
        for word in _COMBINING:
            if word in schema:
                if len(_CONSTRAINING.intersection(schema)) > 1:
                    raise Unfit("other rules beside a combination")
                return self._compile_combined(schema, word, depth)
        if _CONSTRAINING.isdisjoint(schema):
            return self._accept_anything()
        if "enum" in schema or "const" in schema:
            return _compile_values(schema)
        return self._compile_kinds(schema)

    def _compile_combined(self, schema: dict[str, Any], word: str, depth: int) -> Node:
        value = schema[word]
        if word == "$ref":
            return self.compile_node(self._find_local(value), depth + 1)
        if not isinstance(value, list) or not value:
            raise Unfit("not a list of schemas")
        if len(value) == 1:
            return self.compile_node(value[0], depth + 1)
        if word == "allOf":
            raise Unfit("an intersection")
        whole = Node(set(), frozenset())
        for child in value:
            node = self.compile_node(child, depth + 1)
            overlap = node.claims & whole.claims if word == "oneOf" else node.kinds & whole.kinds
            if overlap:
                raise Unfit("alternatives of one kind")
            whole.take(node)
        return whole

    def _find_local(self, reference: Any) -> Any:
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

    def _compile_kinds(self, schema: dict[str, Any]) -> Node:
        kinds = _read_kinds(schema)
        for kind, words in _UNKNOWN_BY_KIND.items():
            if kind in kinds and not words.isdisjoint(schema):
                raise Unfit("a keyword that has no node")
        # WHY: 1.0 is an integer to the newer drafts, which is turned away here.
        node = Node(kinds, frozenset(kinds | ({"real"} if "whole" in kinds else set())))
        if not kinds.isdisjoint(("whole", "real")):
            _compile_numbers(node, schema)
        if "text" in kinds:
            node.text = _lengths(schema, "minLength", "maxLength")
            if self.formats_asserted and "format" in schema:
                node.format = schema["format"]
                if not node.format or node.format not in JSON_FORMATS:
                    raise Unfit("a format that the core does not know")
        if "object" in kinds:
            self._compile_object(node, schema)
        if "array" in kinds:
            if schema.get("uniqueItems", False) is not False:
                raise Unfit("unique items")
            node.item = self.number_of(schema.get("items", True))
            node.items = _lengths(schema, "minItems", "maxItems")
        return node

    def _compile_object(self, node: Node, schema: dict[str, Any]) -> None:
        """Compile the rules for objects."""
        properties = schema.get("properties", {})
        required = set(schema.get("required", []))
        additional = schema.get("additionalProperties", True)
        # WHY: a required property that has no schema of its own is one of the others.
        named = dict.fromkeys(sorted(required), additional) | properties
        if len(named) > FIELDS_MAX or any(_UNNAMEABLE.search(name) for name in named):
            raise Unfit("too many properties, or names that are always written with escapes")
        # The order of `properties`, which most messages have.
        ordered = [*properties, *sorted(required - properties.keys())]
        node.names = [
            (name.encode(), self.number_of(named[name]), name in required) for name in ordered
        ]
        node.rest = -1 if additional is False else self.number_of(additional)
        node.members = _lengths(schema, "minProperties", "maxProperties")


def _read_kinds(schema: dict[str, Any]) -> set[str]:
    """Read which kinds `type` names."""
    names = schema.get("type", list(_KINDS))
    names = [names] if isinstance(names, str) else names
    return {kind for name in names for kind in _KINDS[name]}


def _compile_values(schema: dict[str, Any]) -> Node:
    """Compile `enum` and `const`; single values that a node cannot say are left out."""
    if len(_CONSTRAINING.intersection(schema) - {"type"}) > 1:
        raise Unfit("other rules beside single values")
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    claims: set[str] = set()
    wholes: list[int] = []
    texts: list[bytes] = []
    kinds: set[str] = set()
    for value in values:
        kind = _kind_of(value)
        claims |= {"whole", "real"} if kind in {"whole", "real"} else {kind}
        if kind == "whole":
            if abs(value) > INT64:
                continue
            wholes.append(value)
        elif kind == "text":
            texts.append(value.encode())
        elif kind in {"real", "array", "object"}:
            continue
        kinds.add(kind)
    kinds &= _read_kinds(schema)
    if not kinds:
        raise Unfit("no value that a node can say")
    return Node(kinds, frozenset(claims), wholes=tuple(wholes), texts=tuple(texts))


def _kind_of(value: Any) -> str:
    """Name the kind of a single value of a schema."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {int: "whole", float: "real", str: "text", list: "array", dict: "object"}
    return kinds[type(value)]


def _compile_numbers(node: Node, schema: dict[str, Any]) -> None:
    """Compile the bounds of numbers."""
    low, low_open = _strongest(schema, "minimum", "exclusiveMinimum", max)
    high, high_open = _strongest(schema, "maximum", "exclusiveMaximum", min)
    if low is not None:
        node.low = _int64(math.floor(low) + 1 if low_open else math.ceil(low))
    if high is not None:
        node.high = _int64(math.ceil(high) - 1 if high_open else math.floor(high))
    if low is not None or high is not None:
        least = -math.inf if low is None else float(low)
        greatest = math.inf if high is None else float(high)
        node.real = (least, greatest, low_open, high_open)
    step = schema.get("multipleOf")
    if step is not None:
        if isinstance(step, float) and not step.is_integer():
            raise Unfit("multiples of a fraction")
        node.step = _int64(int(step))
        # WHY: whether a fraction is a multiple is rounded differently by each library.
        node.kinds.discard("real")


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


def _lengths(schema: dict[str, Any], low: str, high: str) -> tuple[int, int]:
    """Read two bounds of a length; 2.0 is written for 2 at times."""
    bounds = []
    for word, default in ((low, 0), (high, INT64)):
        value = schema.get(word, default)
        if int(value) != value:
            raise Unfit("a broken length")
        bounds.append(_int64(int(value)))
    return bounds[0], bounds[1]


def _int64(value: int) -> int:
    if abs(value) > INT64:
        raise Unfit("a number beyond 64 bits")
    return value
