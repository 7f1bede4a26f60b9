"""Reads a JSON schema as a list of nodes, each with what it costs the value that it is applied to.

What enters: the guarded schema. What leaves: `Nodes`, in an order in which they can be summed.
`fastgw.schema.json_cost` sums them. It must never follow a reference twice, nor fail for a schema
that the library would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from fastgw.schema.json_guard import (
    DOWN_MAPS,
    REFERENCES,
    SAME_LISTS,
    Documents,
    find_reference,
)

VISIT_NS: Final = 16
"""One keyword for one value, measured: 10 to 16."""
OPTION_NS: Final = 300
"""One array or object of an enum for one value, measured: 290."""
SLOW: Final = 6
"""Patterns with long counts or without case weigh as many as this: up to 60 ns a byte."""

Lanes = tuple[int, int, int, int, int, int]
"""Per value: nanoseconds, numbers compared, linear patterns, back-tracking ones, uniqueItems, and
bounds that are whole numbers."""
ZERO: Final[Lanes] = (0, 0, 0, 0, 0, 0)
_SLOW_PATTERN: Final = re.compile(r"\{\d{2,}|\(\?[a-z]*i")
_SAME_ONES: Final = ("not", "if", "then", "else")
_SAME_MAPS: Final = ("dependentSchemas", "dependencies")
_NUMERIC: Final = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "divisibleBy",
)  # fmt: skip
_STEPS: Final = ("multipleOf", "divisibleBy")
_LEADING: Final = re.compile(
    r"\^((?:\(\?[=!](?:[^()\\\[]|\\.|\[[^\]\\\[]*\]|\((?!\?[=!<])(?:[^()\\\[]|\\.|\[[^\]\\\[]*\])*\))*\))+)"
)


@dataclass(slots=True)
class Node:
    """One schema object, ready to be summed.

    Args:
        own: what it costs a value by itself.
        keys: what it costs each key of an object, or item of an array, by itself.
        same: schemas applied to the same value.
        in_objects: schemas applied to values in an object: of each group one for a value.
        in_arrays: the same for values in an array.
        named: schemas of properties, by name.
        rest: schemas of properties that have no name there; those of patterns and names, of all.
        reaches: whether it leads to a pattern that back-tracks.
    """

    own: Lanes
    keys: Lanes
    same: list[int]
    in_objects: list[list[int]]
    in_arrays: list[list[int]]
    named: dict[str, int] = field(default_factory=dict)
    rest: list[int] = field(default_factory=list)
    reaches: bool = False


class Nodes:
    """The schema objects that a schema leads to, each once."""

    def __init__(self, documents: Documents, is_linear: Callable[[str], bool] | None) -> None:
        self.documents = documents
        self.is_linear = is_linear
        self.nodes: list[Node] = [Node((VISIT_NS, 0, 0, 0, 0, 0), ZERO, [], [], [])]
        self.order: list[int] = [0]
        self.known: dict[int, int] = {}
        self.pending: list[Any] = []

    def add(self, root: Any) -> int:
        """Add a schema and all that it leads to. Returns its place."""
        place = self._place(root)
        while self.pending:
            node = self.pending.pop()
            self._fill(self.nodes[self.known[id(node)]], node)
        self.order = _order(self.nodes)
        return place

    def _place(self, node: Any) -> int:
        if not isinstance(node, dict):
            return 0
        if id(node) not in self.known:
            self.known[id(node)] = len(self.nodes)
            self.nodes.append(Node(ZERO, ZERO, [], [], []))
            self.pending.append(node)
        return self.known[id(node)]

    def _fill(self, made: Node, node: dict[str, Any]) -> None:
        own, keys = self._weigh(node)
        place = self._place
        for word, value in node.items():
            if word in REFERENCES and isinstance(value, str):
                target = find_reference(self.documents, node, value)
                made.same.append(place(target))
            elif isinstance(value, list) and word in SAME_LISTS:
                made.same += [place(child) for child in value]
            elif isinstance(value, dict) and word in _SAME_ONES:
                made.same.append(place(value))
            elif isinstance(value, dict) and word in _SAME_MAPS:
                made.same += [place(child) for child in value.values() if isinstance(child, dict)]
            elif word in ("contains", "unevaluatedItems"):
                made.in_arrays.append([place(value)])
            elif word in ("propertyNames", "unevaluatedProperties"):
                made.in_objects.append([place(value)])
            elif word == "patternProperties" and isinstance(value, dict):
                made.in_objects += [[place(child)] for child in value.values()]
        made.in_objects.append(_options(node, ("properties", "additionalProperties"), place))
        made.in_arrays.append(_options(node, ("prefixItems", "items", "additionalItems"), place))
        if "unevaluatedProperties" in node or "unevaluatedItems" in node:
            # WHY: the library evaluates the other keywords once more to learn what they evaluated.
            made.same += made.same
        made.own, made.keys = own, keys
        if isinstance(node.get("properties"), dict):
            made.named = {name: place(child) for name, child in node["properties"].items()}
        made.rest = [place(node["additionalProperties"])] if "additionalProperties" in node else []

    def _weigh(self, node: dict[str, Any]) -> tuple[Lanes, Lanes]:
        """Weigh the keywords of one node: for its value, and for what is in that value."""
        visit, numbers, linear, hard = VISIT_NS * max(1, len(node)), 0, 0, 0
        for word in ("dependentRequired", "dependencies"):
            visit += VISIT_NS * len(node.get(word) or ()) if isinstance(node.get(word), dict) else 0
        whole = 0
        for word in _NUMERIC:
            bound = node.get(word)
            if isinstance(bound, float):
                numbers += 4 if word in _STEPS else 1
            elif isinstance(bound, int) and not isinstance(bound, bool):
                small = bound.bit_length() <= 63
                whole, numbers = whole + small, numbers + (not small)
        inner = [*(node["enum"] if isinstance(node.get("enum"), list) else ())]
        inner += [node["const"]] if "const" in node else []
        nested, below = 0, 0
        for option in inner:
            if isinstance(option, dict | list):
                visit, below = visit + OPTION_NS, below + 6 * VISIT_NS
                nested += 2 * _count_numbers(option)
            elif isinstance(option, int | float) and not isinstance(option, bool):
                numbers += 2
        if len(inner) > 1 and not all(isinstance(option, str) for option in inner):
            visit += VISIT_NS * len(inner)
        if isinstance(node.get("pattern"), str):
            easy = self._runs_linear(node["pattern"])
            linear, hard = linear + easy * _weigh_pattern(node["pattern"]), hard + (not easy)
        linear += SLOW if str(node.get("format")).startswith("idn") else "format" in node
        keys_visit, keys_hard = below, 0
        patterns = node.get("patternProperties")
        for pattern in patterns if isinstance(patterns, dict) else ():
            easy = self._runs_linear(pattern)
            # WHY twice: additionalProperties matches them once more.
            keys_visit += 4 * VISIT_NS
            linear += easy * _weigh_pattern(pattern)
            keys_hard += 2 * (not easy)
        unique = int(node.get("uniqueItems") is True)
        return (visit, numbers, linear, hard, unique, whole), (
            keys_visit,
            nested,
            0,
            keys_hard,
            0,
            0,
        )

    def _runs_linear(self, pattern: str) -> bool:
        return self.is_linear is None or self.is_linear(pattern)


def _weigh_pattern(pattern: str) -> int:
    return SLOW if _SLOW_PATTERN.search(pattern) else 1


def _options(
    node: dict[str, Any], words: tuple[str, ...], place: Callable[[Any], int]
) -> list[int]:
    """List schemas of which one at most applies to a value."""
    found: list[int] = []
    for word in words:
        value = node.get(word)
        if word in DOWN_MAPS and isinstance(value, dict):
            found += [place(child) for child in value.values()]
        elif isinstance(value, list):
            found += [place(child) for child in value]
        elif value is not None:
            found.append(place(value))
    return found


def _order(nodes: list[Node]) -> list[int]:
    """Order nodes so that each comes after those applied to the same value; cuts cycles."""
    order: list[int] = []
    state = [0] * len(nodes)
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            place = stack[-1]
            if state[place] == 0:
                state[place] = 1
                stack += [child for child in nodes[place].same if state[child] == 0]
            else:
                stack.pop()
                if state[place] == 1:
                    state[place] = 2
                    order.append(place)
    rank = {place: i for i, place in enumerate(order)}
    for place, node in enumerate(nodes):
        node.same = [child for child in node.same if rank[child] < rank[place]]
    return order


def note_reaching(nodes: list[Node]) -> None:
    """Note which nodes lead to a pattern that back-tracks."""
    above: list[list[int]] = [[] for _ in nodes]
    for place, node in enumerate(nodes):
        for group in (*node.in_objects, *node.in_arrays, node.same):
            for child in group:
                above[child].append(place)
    pending = [i for i, node in enumerate(nodes) if node.own[3] or node.keys[3]]
    while pending:
        place = pending.pop()
        if not nodes[place].reaches:
            nodes[place].reaches = True
            pending += above[place]


def _count_numbers(value: Any) -> int:
    """Count the numbers in a schema's own value."""
    count, stack = 0, [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
        else:
            count += isinstance(node, int | float) and not isinstance(node, bool)
    return count


def split_leading(pattern: str) -> list[str] | None:
    """Split a pattern that looks ahead at its very beginning only; None for another.

    Such a pattern runs each part once over a string, when the parts themselves are linear.
    """
    found = _LEADING.match(pattern)
    if found is None:
        return None
    rest = pattern[found.end() :]
    if "|" in re.sub(r"\\.|\[[^\]]*\]|\([^()]*\)", "", rest):
        return None  # another alternative, which the beginning does not hold for
    return ["^" + re.sub(r"\(\?[=!]", "(?:", found[1]), "^" + rest]
