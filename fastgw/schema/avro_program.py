"""From an Avro schema to the flat program of the compiled walker, and from its faults to reasons.

What enters: the graph of types from `avro_parse`, then binary messages. What leaves: None, or one
line with path, rule, expected, got and the byte. The walk itself is `fastgw._core.AvroWalker`.
SOURCE: Apache Avro 1.12, "Binary Encoding".
"""

from __future__ import annotations

from typing import Final

from fastgw._core import AvroWalker
from fastgw.errors import clip
from fastgw.schema.avro_parse import AvroType
from fastgw.schema.base import REASON_CHARS_MAX

# In the order of AvroOp in fastgw/_core/avro.pxi.
_OPS: Final = {
    word: number
    for number, word in enumerate(
        (
            *("null", "boolean", "int", "long", "float", "double", "bytes", "string"),
            *("fixed", "enum", "union", "record", "array", "map"),
            *("decimal-bytes", "decimal-fixed", "uuid"),
        )
    )
}
VALUES_OPEN_MAX: Final = 100
"""LIMIT: AVRO_DEPTH_MAX of the walker."""
_Fault = tuple[str, int, int, int, list[tuple[int, int] | str]]
_Node = tuple[int, tuple[int, ...], int, int, bytes]

_TEXTS: Final = {
    "varint": "expected {kind}, got a variable-length number that does not end in time",
    "range": "expected {kind} from {low} to {high}, got {got}",
    "boolean": "expected boolean 0 or 1, got {got}",
    "length": "expected {kind}, got a length of {got}",
    "utf-8": "expected UTF-8, got byte 0x{got:02x}",
    "enum": "expected index 0 to {high} of enum {kind}, got {got}",
    "union": "expected branch 0 to {last} of a union, got {got}",
    "count": "expected a count of items, got {got}",
    "block": "the block is {got} bytes longer than it says",
    "depth": "values are nested deeper than 100",
    "work": "more values than a message of {size} bytes may announce",
    "precision": "expected a decimal of at most {precision} digits, got more",
    "uuid": "expected a UUID, got other text",
}


def build_program(root: AvroType) -> tuple[list[AvroType], list[_Node]]:
    """Give each type of a schema a number; the root is 0.

    Returns:
        The types, and for each the node that `AvroWalker` wants.
    """
    types: list[AvroType] = [root]
    numbers = {id(root): 0}
    # WHY: it grows meanwhile; recursion would not survive long chains of references.
    for item in types:
        for child in item.children:
            if id(child) not in numbers:
                numbers[id(child)] = len(types)
                types.append(child)
    children = [tuple(numbers[id(child)] for child in item.children) for item in types]
    empty = _find_empty(types, children)
    nodes = [_node(item, inner, empty) for item, inner in zip(types, children, strict=True)]
    return types, nodes


def _find_empty(types: list[AvroType], children: list[tuple[int, ...]]) -> set[int]:
    """Find the types whose values take no bytes."""
    waiting: list[int] = []  # how many fields of each record are not known to be empty
    holders: list[list[int]] = [[] for _ in types]
    empty: list[int] = []
    for number, item in enumerate(types):
        waiting.append(len(item.children))
        if item.kind == "record":
            for child in children[number]:
                holders[child].append(number)
        is_empty_fixed = item.kind == "fixed" and item.size == 0
        is_empty_record = item.kind == "record" and not item.children
        if item.kind == "null" or is_empty_fixed or is_empty_record:
            empty.append(number)
    # WHY: it grows meanwhile, by each record whose last field turns out to be empty.
    for number in empty:
        for holder in holders[number]:
            waiting[holder] -= 1
            if waiting[holder] == 0:
                empty.append(holder)
    return set(empty)


def _node(item: AvroType, children: tuple[int, ...], empty: set[int]) -> _Node:
    word, low, high, bound = item.kind, 0, 0, b""
    if item.kind == "array":
        high = int(children[0] in empty)
    elif item.kind in ("int", "long"):
        low, high = item.range
    elif item.kind == "enum":
        high = len(item.symbols) - 1
    elif item.kind == "fixed":
        low = item.size
    if item.logical == "decimal":
        largest = 10**item.precision - 1
        bound = largest.to_bytes((largest.bit_length() + 7) // 8, "big")
        word = f"decimal-{item.kind}"
    elif item.logical == "uuid":
        word = "uuid"
    return _OPS[word], children, low, high, bound


def _is_shallow(types: list[AvroType], nodes: list[_Node]) -> bool:
    """Whether the schema has no cycle, and too few types for a value of great depth."""
    holders = sum(1 for item in types if item.children)
    waiting = [0] * len(nodes)  # how many types that hold it are not yet known to be on no cycle
    for node in nodes:
        for child in node[1]:
            waiting[child] += 1
    free = [number for number, count in enumerate(waiting) if count == 0]
    for number in free:  # WHY: it grows meanwhile; what is left over at its end stands on a cycle.
        for child in nodes[number][1]:
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    return holders <= VALUES_OPEN_MAX and len(free) == len(nodes)


class AvroProgram:
    """Judges binary messages.

    Args:
        root: the schema.
    """

    __slots__ = ("_types", "_walker", "find_fault", "has_bound_depth", "has_unions")

    def __init__(self, root: AvroType) -> None:
        self._types, nodes = build_program(root)
        self.has_unions: bool = any(item.kind == "union" for item in self._types)
        """Whether plain and tagged JSON differ."""
        self.has_bound_depth: bool = _is_shallow(self._types, nodes)
        """Whether no value can be nested deeper than 100."""
        self._walker = AvroWalker(nodes)
        self.find_fault = self._walker.find_fault

    def reason(self, message: bytes, fault: _Fault) -> str:
        """Why a message is refused, from what `find_fault` answered."""
        rule, offset, got, node, steps = fault
        item = self._types[node]
        path = self.path(steps)
        if rule == "truncated":
            left = len(message) - offset
            text = f"expected {got} more bytes of {clip(item.label)}, got {left}"
        elif rule == "trailing":
            text = f"expected the end of the message, got {got} more bytes"
        else:
            low, high = item.range
            text = _TEXTS[rule].format(
                kind=clip(item.label),
                got=got,
                low=low,
                high=len(item.symbols) - 1 if item.kind == "enum" else high,
                last=len(item.children) - 1,
                precision=item.precision,
                size=len(message),
            )
        return f"{path}: {text} (byte {offset})"

    def path(self, steps: list[tuple[int, int] | str]) -> str:
        """Write the way to a value: `$`, `.field`, `[item]`, `["key"]`."""
        parts = ["$"]
        for step in steps:
            if isinstance(step, str):
                parts.append(f'["{clip(step)}"]')
            elif step[0] < 0:
                parts.append(f"[{step[1]}]")
            else:
                parts.append(f".{clip(self._types[step[0]].fields[step[1]])}")
        return join_path(parts)


def join_path(parts: list[str]) -> str:
    """Write a path; the middle of a long one is left out, so that a reason keeps its bound."""
    path = "".join(parts)
    room = REASON_CHARS_MAX // 2
    return path if len(path) <= room else f"{path[: room // 2]}…{path[-room // 2 :]}"
