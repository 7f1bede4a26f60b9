"""JSON Schema: compiles a schema to a validator of JSON messages.

What enters: the text of a schema, drafts 4 to 2020-12, then the bytes of messages. What leaves: a
`JsonValidator`. The authority is jsonschema-rs, fed by msgspec's decoder, which keeps integers
whole. In front of it stands the core's walker, whose word counts only when it accepts. Whoever
attaches schemas to stations calls `compile_json`; the core asks the walker by itself, and calls
`check` for each message that the walker does not know.
It must never fetch a reference, nor raise for any bytes of a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import jsonschema_rs
import msgspec

from fastgw._core import JsonWalker
from fastgw.errors import ClientFault, clip
from fastgw.schema.base import Resolve, SchemaError
from fastgw.schema.json_cost import (
    COST_NS_MAX,
    Work,
    measure_schema,
)
from fastgw.schema.json_fast import compile_fast
from fastgw.schema.json_guard import HOME, Documents, escape, read_documents
from fastgw.schema.json_text import describe_error, describe_rule
from fastgw.schema.json_width import VISIT_NS, split_leading

BACKTRACK_MAX: Final = 10_000
"""LIMIT: steps of a pattern that needs look-around or back-references; 0.4 ms at most."""
BACKTRACK_NS_MAX: Final = 150_000_000
"""LIMIT: what patterns that back-track may cost one message: 300 matches of 10,000 steps, or one
with 7,000 characters, because a match that looks ahead at each of them costs their square."""
EXPLAINED_VISITS_MAX: Final = 10_000
"""LIMIT: rules times values for which the failing one is searched among alternatives, 5 us each."""
EXPLAINED_TREE_MAX: Final = 50_000
"""LIMIT: the same where a schema branches and leads back to itself, by the power of the depth."""
EXPLAINED_DEPTH_MAX: Final = 32
"""LIMIT: levels of such a message that are counted."""
EXPLAINED_NS_MAX: Final = 50_000_000
"""LIMIT: a message that may take longer to judge is not judged a second time for its reason."""
EXPLAINED_COPIES_MAX: Final = 16 * 1024 * 1024
"""LIMIT: bytes of a message times rules: the library copies the value into each error."""
EXPLAINED_BURST_S: Final = 0.05
"""LIMIT: time that explanations by one schema with alternatives may take at once."""
EXPLAINED_SHARE: Final = 0.1
"""LIMIT: the part of the time that such explanations may take in the long run."""
DEPTH_BUDGET: Final = 40_000
"""LIMIT: levels of a message times expanded nodes, where a recursive schema branches; the library
takes 0.2 s for it, and the square of that for more."""

_DRAFTS: Final = {
    "Draft4Validator": "draft-04",
    "Draft6Validator": "draft-06",
    "Draft7Validator": "draft-07",
    "Draft201909Validator": "2019-09",
    "Draft202012Validator": "2020-12",
}
_FORMATS_ASSERTED: Final = frozenset(("draft-04", "draft-06", "draft-07"))
_SCHEMA_URIS: Final = {
    "http://json-schema.org/draft-04/schema": "draft-04",
    "http://json-schema.org/draft-06/schema": "draft-06",
    "http://json-schema.org/draft-07/schema": "draft-07",
    "https://json-schema.org/draft/2019-09/schema": "2019-09",
    "https://json-schema.org/draft/2020-12/schema": "2020-12",
}
_OTHERS_TYPES: Final = (
    b"application/avro", b"application/graphql", b"application/protobuf",
    b"application/vnd.apache.avro", b"application/vnd.google.protobuf",
    b"application/x-avro", b"application/x-protobuf", b"avro/",
)  # fmt: skip
_TOP: Final = frozenset((
    "$dynamicRef", "$recursiveRef", "$ref", "additionalItems", "additionalProperties", "allOf",
    "anyOf", "const", "contains", "dependencies", "dependentRequired", "dependentSchemas", "enum",
    "format", "if", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems",
    "exclusiveMaximum", "exclusiveMinimum", "minLength", "minProperties", "minimum", "multipleOf",
    "not", "oneOf", "pattern", "patternProperties", "prefixItems", "properties", "propertyNames",
    "required", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems",
))  # fmt: skip
_BAD: Final = "Bad JSON format - "


class JsonValidator:
    """Judges JSON messages by one schema.

    Args:
        authority: the library's validator.
        fast: tells what is surely valid; None for a schema without a program.
        documents: the guarded schema, for the bounds of its work.
        draft: the draft that the schema is written in.
        clock: tells seconds that never go back.
    """

    __slots__ = (
        "_clock", "_cost", "_decode", "_depth_max", "_documents", "_explain_at", "_explain_left",
        "_is_valid", "_top", "_validate", "accepts", "draft",
    )  # fmt: skip

    def __init__(
        self,
        authority: jsonschema_rs.Validator,
        fast: JsonWalker | None,
        documents: Documents,
        draft: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draft: Final = draft
        self.accepts: Final = fast
        self._decode = msgspec.json.Decoder().decode
        self._is_valid = authority.is_valid
        self._validate = authority.validate
        self._documents = documents
        self._depth_max: int | None = None
        if documents.recursive and documents.branching:
            self._depth_max = max(8, DEPTH_BUDGET // documents.nodes_expanded)
        self._cost = measure_schema(documents, _tell_linear(documents))
        self._top = _name_top(documents.root)
        self._clock = clock
        self._explain_left = EXPLAINED_BURST_S
        self._explain_at = clock()

    def check(self, message: bytes, content_type: bytes | None) -> str | None:
        """Judge one message.

        Args:
            message: its bytes.
            content_type: the request's Content-Type; only another schema type's own is refused.

        Returns:
            None for a valid message, else why it is not, in one line.

        Raises:
            ClientFault: "media-type-unsupported", when the Content-Type is another schema type's.
        """
        if content_type is not None and content_type != b"application/json":
            _check_content_type(content_type)
        if self.accepts is not None and self.accepts.is_surely_good(message):
            return None
        return self.judge(message)

    def judge(self, message: bytes) -> str | None:
        """Judge one message by the authority alone."""
        try:
            value = self._decode(message)
        except RecursionError:
            return f"{_BAD}nested too deep"
        except UnicodeDecodeError as exc:
            return f"{_BAD}not UTF-8 at byte {exc.start} of a string"
        except msgspec.DecodeError as exc:
            return f"{_BAD}{clip(exc, 200)}"
        if self._depth_max is not None and is_deeper(value, self._depth_max):
            return (
                f"nested deeper than {self._depth_max} levels, the limit of a schema that branches"
            )
        work: Work | None = None
        if len(message) > self._cost.free_bytes:
            work = self._cost.measure(value, len(message), COST_NS_MAX)
            refusal = self._refuse_work(work, value, len(message))
            if refusal is not None:
                return refusal
        try:
            return None if self._is_valid(value) else self._explain(value, len(message), work)
        except ValueError as exc:
            return f"cannot be judged: {clip(exc, 200)}"

    def _refuse_work(self, work: Work, value: Any, size: int) -> str | None:
        """Say why a message costs too much to be judged; None when it does not."""
        if work.ns > COST_NS_MAX:
            width = max(lanes[0] for lanes in self._cost.levels) // VISIT_NS
            return (
                f"too much work to judge: {max(1, work.values)} or more values in {size} bytes"
                f" times up to {width} rules for one value exceed the limit of"
                f" {COST_NS_MAX // 10**6} ms"
            )
        backtracks = self._cost.backtracks
        if backtracks and self._cost.measure_matches(value, BACKTRACK_NS_MAX) > BACKTRACK_NS_MAX:
            return (
                "too much work to judge: the matches of patterns that look around or refer back,"
                f" in {size} bytes, exceed the limit of {BACKTRACK_NS_MAX // 10**6} ms"
            )
        return None

    def _explain(self, value: Any, size: int, work: Work | None) -> str:
        """Find the rule that an invalid message breaks."""
        # WHY: for an error the library tries every alternative and keeps what is wrong with each,
        # 5 us apiece, and a copy of the value. So this search is bounded, in one message and in
        # many together.
        if not self._documents.branching and not self._cost.backtracks:
            if work is not None and work.ns > EXPLAINED_NS_MAX:
                return f"{self._top}; the rule is not searched in a message of {size} bytes"
            return self._search(value)
        now = self._clock()
        earned = (now - self._explain_at) * EXPLAINED_SHARE
        self._explain_left = min(EXPLAINED_BURST_S, self._explain_left + earned)
        self._explain_at = now
        if self._explain_left <= 0:
            return f"{self._top}; the rule is not searched while many messages are refused"
        if work is None or work.ns <= EXPLAINED_NS_MAX:
            work = self._cost.measure(value, size, EXPLAINED_NS_MAX, EXPLAINED_VISITS_MAX)
        levels = measure_depth(value, EXPLAINED_DEPTH_MAX) if self._documents.recursive else 0
        copies = size * self._cost.count_rules(work.levels - 1)
        if (
            work.ns > EXPLAINED_NS_MAX
            or work.visits > EXPLAINED_VISITS_MAX
            or copies > EXPLAINED_COPIES_MAX
            or self._documents.nodes_expanded**levels > EXPLAINED_TREE_MAX
        ):
            return (
                f"{self._top}; the rule is not searched in a message of this size or depth,"
                " because the schema has alternatives"
            )
        try:
            return self._search(value)
        finally:
            self._explain_left -= self._clock() - now

    def _search(self, value: Any) -> str:
        try:
            self._validate(value)
        except jsonschema_rs.ValidationError as exc:
            return describe_error(exc, value)
        return "breaks the schema"


def compile_json(text: str, *, resolve: Resolve) -> JsonValidator:
    """Compile the text of a JSON schema.

    Args:
        text: the schema, at most 256 KiB of JSON.
        resolve: finds registered schemas by name or URI; nothing else is ever looked up.

    Raises:
        SchemaError: the schema is broken or hostile, or refers to what is not registered.
    """
    documents = read_documents(text, resolve)
    authority = compile_authority(documents)
    draft = _DRAFTS[type(authority).__name__]
    fast = None
    named = documents.root.get("$schema") if isinstance(documents.root, dict) else None
    # WHY: another schema of schemas may switch rules on that a draft leaves off, such as `format`.
    if named is None or (isinstance(named, str) and named.removesuffix("#") in _SCHEMA_URIS):
        fast = compile_fast(documents, formats_asserted=draft in _FORMATS_ASSERTED)
    return JsonValidator(authority, fast, documents, draft)


def compile_authority(
    documents: Documents, *, validate_formats: bool | None = None
) -> jsonschema_rs.Validator:
    """Compile the library's validator, offline, with the linear engine for patterns if possible.

    Args:
        documents: the guarded schema with all that it refers to.
        validate_formats: whether `format` is a rule; None leaves it to the draft.
    """
    engines = (
        jsonschema_rs.RegexOptions(),
        jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_MAX),
    )
    for engine in engines:
        try:
            registry = None
            if documents.registered:
                resources = [(documents.root_uri, documents.root), *documents.registered.items()]
                registry = jsonschema_rs.Registry(resources, retriever=_refuse_to_fetch)
            return jsonschema_rs.validator_for(
                documents.root,
                offline=True,
                pattern_options=engine,
                registry=registry,
                validate_formats=validate_formats,
                mask="it",
            )
        except jsonschema_rs.ValidationError as exc:
            if engine is engines[0] and _is_about_pattern(exc):
                documents.backtracks = True
                continue
            raise _build_error(documents, exc) from exc
        except (ValueError, jsonschema_rs.ReferencingError) as exc:
            raise _build_error(documents, exc) from exc
    raise AssertionError("unreachable: the second engine's failure is raised")


def _tell_linear(documents: Documents) -> Callable[[str], bool] | None:
    """Make what tells a pattern in linear time from others; None when all are."""
    if not documents.backtracks:
        return None
    known: dict[str, bool] = {}

    def is_linear(pattern: str) -> bool:
        if pattern not in known:
            parts = [pattern] if _compiles(pattern) else split_leading(pattern)
            known[pattern] = parts is not None and all(_compiles(part) for part in parts)
        return known[pattern]

    return is_linear


def _compiles(pattern: str) -> bool:
    try:
        options = jsonschema_rs.RegexOptions()
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=options)
    except (ValueError, jsonschema_rs.ValidationError):
        return False
    return True


def _name_top(root: Any) -> str:
    """Name the rule at the top of a schema, where it has but one."""
    words = [word for word in root if word in _TOP] if isinstance(root, dict) else []
    return f"'' breaks /{words[0]}" if len(words) == 1 else "breaks the schema"


def _is_about_pattern(error: jsonschema_rs.ValidationError) -> bool:
    kind: Any = error.kind
    return bool(kind.name == "format" and kind.format == "regex")


def _build_error(documents: Documents, error: Exception) -> SchemaError:
    """Say what the library found wrong with a schema, and where."""
    unfound = jsonschema_rs.ValidationErrorKind.Referencing
    if isinstance(error, jsonschema_rs.ValidationError) and not isinstance(error.kind, unfound):
        place = "".join(f"/{escape(step)}" for step in error.instance_path)
        if _is_about_pattern(error):
            reason = f"the pattern {clip(error.instance)} does not compile, or is too large"
            return SchemaError(reason, clip(place, 200))
        return SchemaError(describe_rule(error, documents.root), clip(place, 200))
    text = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
    for uri, place in documents.unresolved.items():
        if any(f"'{name}{end}" in text for name in (uri, uri.removeprefix(HOME)) for end in "'#"):
            reason = (
                f"{clip(uri.removeprefix(HOME), 120)} is not registered, and nothing is fetched"
            )
            return SchemaError(reason, clip(place, 200))
    return SchemaError(clip(text, 200))


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{clip(uri, 120)} is not registered, and nothing is fetched")


def _check_content_type(content_type: bytes) -> None:
    """Check that a Content-Type is no other schema type's. Raises ClientFault."""
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type.startswith(_OTHERS_TYPES):
        raise ClientFault(
            "media-type-unsupported",
            f"the station's schema is JSON Schema, which does not fit {clip(media_type)}",
        )


def measure_depth(value: Any, depth_max: int) -> int:
    """Measure how deep a value nests, a single value being 0; stops just past `depth_max`."""
    level: list[Any] = [value]
    depth = 0
    while depth <= depth_max:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
        level = [node for node in below if isinstance(node, dict | list)]
        if not below:
            break
        depth += 1
        if not level:
            break
    return depth


def is_deeper(value: Any, depth_max: int) -> bool:
    """Tell whether a value nests deeper than `depth_max` levels."""
    return measure_depth(value, depth_max) > depth_max
