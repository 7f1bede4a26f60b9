"""Refuses hostile JSON schemas before the library that compiles them sees one.

What enters: the text of a schema and the way to registered ones. What leaves: `Documents`, the
parsed schemas that one schema needs, with the work that they can cause; or SchemaError and a place.
`fastgw.schema.json` calls it. It must never fetch anything, and must stay cheap for any text: each
walk is bounded by the size of the text, and a reference is counted with its target only once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urljoin

import msgspec

from fastgw.errors import clip
from fastgw.schema.base import Resolve, SchemaError

TEXT_BYTES_MAX: Final = 256 * 1024
"""LIMIT: the largest schema of a public collection has 600 KiB, all but a handful below 100."""
DEPTH_MAX: Final = 100
"""LIMIT: schemas that people write nest below 30; the library recurses on its C stack."""
NODES_EXPANDED_MAX: Final = 10_000
"""LIMIT: references expanded, this is the work for one value of a message; about 0.2 ms."""
CHAIN_MAX: Final = 300
"""LIMIT: schemas followed one into the other, through references too; the library recurses."""
DOCUMENTS_MAX: Final = 64
"""LIMIT: registered schemas that one schema may reach."""
METASCHEMA_NODES: Final = 500
"""The drafts' own schemas, counted as one number: they are inside the library."""

HOME: Final = "json-schema:///"
_HOME_HTTP: Final = "http://json-schema.invalid/"
_METASCHEMAS: Final = ("http://json-schema.org/draft", "https://json-schema.org/draft")

REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
SAME_LISTS: Final = ("allOf", "anyOf", "oneOf")
SAME_ONES: Final = ("not", "if", "then", "else", "propertyNames")
SAME_MAPS: Final = ("dependentSchemas", "dependencies")
DOWN_ONES: Final = (
    "additionalProperties",
    "additionalItems",
    "contains",
    "contentSchema",
    "items",
    "unevaluatedItems",
    "unevaluatedProperties",
)
DOWN_LISTS: Final = ("prefixItems", "items")
DOWN_MAPS: Final = ("properties", "patternProperties")
_BRANCHING: Final = frozenset(
    (*SAME_LISTS, *SAME_ONES, *SAME_MAPS, "patternProperties", "contains")
)


@dataclass(slots=True)
class Documents:
    """One schema with all that it refers to.

    Args:
        root: the parsed schema.
        root_uri: the URI that its relative references start from.
        registered: URI and parsed text of each registered schema that is referred to.
        unresolved: reference without a registered schema, and the pointer to it.
        branching: whether one value may be judged by several schemas.
        recursive: whether a schema leads back to itself.
        nodes_expanded: nodes with each reference replaced by its target, cycles cut.
        backtracks: whether a pattern needs the engine that back-tracks; compiling finds out.
    """

    root: Any
    root_uri: str
    registered: dict[str, Any] = field(default_factory=dict)
    unresolved: dict[str, str] = field(default_factory=dict)
    branching: bool = False
    recursive: bool = False
    nodes_expanded: int = 0
    backtracks: bool = False
    _targets: dict[str, Any] = field(default_factory=dict)
    _bases: dict[int, str] = field(default_factory=dict)

    def find_target(self, node: dict[str, Any], reference: str) -> Any:
        """Find what `reference` inside `node` points to; None when that is unknown."""
        uri, fragment = split_uri(join_uri(self._bases.get(id(node), self.root_uri), reference))
        if fragment and not fragment.startswith("/"):
            return self._targets.get(f"{uri}#{unquote(fragment)}")
        target = self._targets.get(uri)
        for token in unquote(fragment).split("/")[1:]:
            step = token.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict):
                target = target.get(step)
            elif isinstance(target, list):
                number = int(step) if step.isdecimal() and len(step) < 7 else len(target)
                target = target[number] if number < len(target) else None
            else:
                return None
        return target


def read_documents(text: str, resolve: Resolve) -> Documents:
    """Parse a schema and what it refers to, and refuse what is too large, deep or expanded.

    Raises:
        SchemaError: with the JSON pointer of what is wrong, where there is one.
    """
    root = parse_text(text, "")
    documents = Documents(root, HOME)
    pending = [("", root, HOME)]
    while pending:
        name, document, uri = pending.pop()
        base = _index(documents, document, uri)
        if not name:
            documents.root_uri = base
        for reference, place in _list_references(documents, document):
            found = _find_registered(documents, reference, resolve)
            if found is None:
                documents.unresolved.setdefault(split_uri(reference[1])[0], place)
            elif found:
                parsed = parse_text(found, reference[1])
                if isinstance(root, dict) and isinstance(parsed, dict) and "$schema" in root:
                    # WHY: a schema that names no draft is read in the draft that refers to it.
                    parsed = {"$schema": root["$schema"], **parsed}
                documents.registered[split_uri(reference[1])[0]] = parsed
                pending.append((reference[1], parsed, split_uri(reference[1])[0]))
                if len(documents.registered) > DOCUMENTS_MAX:
                    raise SchemaError(f"refers to more than {DOCUMENTS_MAX} schemas", place)
    count = count_expanded(documents)
    if count > NODES_EXPANDED_MAX:
        shown = str(count) if count < 10**12 else "more than 10^12"
        raise SchemaError(
            f"expands to {shown} nodes when each $ref is replaced by its target;"
            f" limit {NODES_EXPANDED_MAX}"
        )
    documents.nodes_expanded = count
    return documents


def parse_text(text: str, name: str) -> Any:
    """Parse the text of a schema, within the limits of size and depth."""
    where = f"{clip(name)}: " if name else ""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise SchemaError(f"{where}{size} bytes exceed the limit of {TEXT_BYTES_MAX}")
    try:
        parsed = msgspec.json.decode(text)
    except RecursionError:
        raise SchemaError(f"{where}nested deeper than {DEPTH_MAX} levels") from None
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise SchemaError(f"{where}not JSON: {exc}") from exc
    place = find_too_deep(parsed)
    if place is not None:
        raise SchemaError(f"{where}nested deeper than {DEPTH_MAX} levels", place)
    if not isinstance(parsed, dict | bool):
        raise SchemaError(f"{where}a schema is an object, true or false")
    return parsed


def find_too_deep(value: Any) -> str | None:
    """Find a place deeper than the limit; None when there is none."""
    stack: list[tuple[Any, int, str]] = [(value, 1, "")]
    while stack:
        node, depth, place = stack.pop()
        if depth > DEPTH_MAX:
            return clip(place, 120)
        for step, child in _items(node):
            if isinstance(child, dict | list):
                stack.append((child, depth + 1, f"{place}/{escape(step)}"))
    return None


def escape(step: object) -> str:
    """Write one step of a JSON pointer. SOURCE: RFC 6901 section 3."""
    return str(step).replace("~", "~0").replace("/", "~1")


def split_uri(uri: str) -> tuple[str, str]:
    """Split a URI from its fragment, and change nothing else, as the standard library's does."""
    head, _, fragment = uri.partition("#")
    return head, fragment


def join_uri(base: str, reference: str) -> str:
    """Resolve a reference against its base. SOURCE: RFC 3986 section 5."""
    # WHY: urljoin knows a list of schemes, and the home of schemas without $id has another.
    if reference.startswith("#"):
        return split_uri(base)[0] + reference
    try:
        joined = urljoin(base.replace(HOME, _HOME_HTTP, 1), reference)
    except ValueError:
        return reference
    return joined.replace(_HOME_HTTP, HOME, 1)


def count_expanded(documents: Documents) -> int:
    """Count the nodes of a schema with each reference replaced by its target, cycles cut."""
    return _count(documents, documents.root, 0, {})


def _count(documents: Documents, node: Any, chain: int, memo: dict[int, int]) -> int:
    """Count a node and what it leads to."""
    if not isinstance(node, dict):
        return 1
    key = id(node)
    if key in memo:
        documents.recursive = documents.recursive or not memo[key]
        return memo[key] or 1
    if chain > CHAIN_MAX:
        raise SchemaError(f"more than {CHAIN_MAX} schemas lead one into the other")
    memo[key] = 0  # a cycle that comes back here ends here
    total = 1
    for child in _children(documents, node):
        total = min(total + _count(documents, child, chain + 1, memo), 10**15)
    memo[key] = total
    return total


def _children(documents: Documents, node: dict[str, Any]) -> list[Any]:
    """List what a schema applies to a value and to what is inside it."""
    same: list[Any] = []
    down: list[Any] = []
    for key, value in node.items():
        if key in REFERENCES:
            if isinstance(value, str):
                same.append(find_reference(documents, node, value))
        elif isinstance(value, dict):
            if key in SAME_ONES:
                same.append(value)
            elif key in DOWN_ONES:
                down.append(value)
            elif key in SAME_MAPS:
                same.extend(value.values())
            elif key in DOWN_MAPS:
                down.extend(value.values())
        elif isinstance(value, list) and key in SAME_LISTS:
            same.extend(value)
        elif isinstance(value, list) and key in DOWN_LISTS:
            down.extend(value)
    if "unevaluatedProperties" in node or "unevaluatedItems" in node:
        # WHY: the library evaluates the other keywords once more to learn what they evaluated.
        same += same
    return same + down


def find_reference(documents: Documents, node: dict[str, Any], reference: str) -> Any:
    """Find what a reference leads to; None when that is unknown."""
    target = documents.find_target(node, reference)
    if target is None and join_uri("", reference).startswith(_METASCHEMAS):
        return _METASCHEMA
    return target


_METASCHEMA: Final = {"allOf": [True] * METASCHEMA_NODES}


def _index(documents: Documents, document: Any, uri: str) -> str:
    """Note each object's base, and where identifiers and anchors point. Returns the own base."""
    own = uri
    documents._targets.setdefault(uri, document)
    stack: list[tuple[Any, str]] = [(document, uri)]
    while stack:
        node, base = stack.pop()
        if isinstance(node, dict):
            for word in ("$id", "id"):
                name = node.get(word)
                if isinstance(name, str):
                    full, fragment = split_uri(join_uri(base, name))
                    if fragment:
                        documents._targets.setdefault(f"{full}#{fragment}", node)
                    elif full:
                        base = full
                        documents._targets.setdefault(base, node)
            for word in ("$anchor", "$dynamicAnchor"):
                if isinstance(node.get(word), str):
                    documents._targets.setdefault(f"{base}#{node[word]}", node)
            documents._bases[id(node)] = base
            documents.branching = documents.branching or not _BRANCHING.isdisjoint(node)
            if node is document:
                own = base
        stack.extend((child, base) for _, child in _items(node) if isinstance(child, dict | list))
    return own


def _list_references(documents: Documents, document: Any) -> list[tuple[tuple[str, str], str]]:
    """List the references in a document: as written and in full, each with its place."""
    found: list[tuple[tuple[str, str], str]] = []
    stack: list[tuple[Any, str]] = [(document, "")]
    while stack:
        node, place = stack.pop()
        if isinstance(node, dict):
            for word in (*REFERENCES, "$schema"):
                value = node.get(word)
                if isinstance(value, str) and not value.startswith("#"):
                    full = join_uri(documents._bases[id(node)], value)
                    found.append(((value, full), f"{place}/{word}"))
        stack.extend(
            (child, f"{place}/{escape(step)}")
            for step, child in _items(node)
            if isinstance(child, dict | list)
        )
    return found


def _find_registered(
    documents: Documents, reference: tuple[str, str], resolve: Resolve
) -> str | None:
    """Find the text of a registered schema; "" when the reference is known already."""
    written, full = (split_uri(text)[0] for text in reference)
    if full in documents._targets or full.startswith(_METASCHEMAS):
        return ""
    return resolve(full) or resolve(written)


def _items(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list) else []
