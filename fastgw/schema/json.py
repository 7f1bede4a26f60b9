"""JSON Schema: compiles a schema to a validator of JSON messages.

What enters: the text of a schema, drafts 4 to 2020-12, then the bytes of messages. What leaves: a
`JsonValidator`. The authority is jsonschema-rs, fed by msgspec's decoder, which keeps integers
whole. In front of it stands a msgspec type whose word counts only when it accepts. Whoever attaches
schemas to stations calls `compile_json`; the core calls `check` once per message.
It must never fetch a reference, nor raise for any bytes of a message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jsonschema_rs
import msgspec

from fastgw.errors import ClientFault, clip
from fastgw.schema.base import Resolve, SchemaError
from fastgw.schema.json_fast import compile_fast
from fastgw.schema.json_guard import HOME, Documents, count_visits, escape, read_documents
from fastgw.schema.json_text import describe_error, describe_rule

BACKTRACK_MAX: Final = 10_000
"""LIMIT: steps of a pattern that needs look-around or back-references; 0.4 ms at most."""
EXPLAINED_VALUES_MAX: Final = 20_000
"""LIMIT: values times visits of a branching schema for which the failing rule is searched."""
EXPLAINED_DEPTH_MAX: Final = 32
"""LIMIT: levels of a message for which visits are counted."""
DEPTH_BUDGET: Final = 40_000
"""LIMIT: levels of a message times expanded nodes, where a recursive schema branches; the library
takes 0.2 s for it, and the square of that for more."""
WASTED_MAX: Final = 32
"""LIMIT: good messages in a row that the fast path did not know, before it is left out."""
LEFT_OUT: Final = 512
"""LIMIT: messages for which the fast path is left out, before it is tried again."""

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
_BAD: Final = "Bad JSON format - "


class JsonValidator:
    """Judges JSON messages by one schema.

    Args:
        authority: the library's validator.
        fast: decodes what is surely valid and raises for the rest; None without a type.
        documents: the guarded schema, for the bounds of its work.
        draft: the draft that the schema is written in.
    """

    __slots__ = (
        "_decode", "_depth_max", "_documents", "_fast", "_is_valid", "_left_out", "_validate",
        "_wasted", "draft", "has_fast_path",
    )  # fmt: skip

    def __init__(
        self,
        authority: jsonschema_rs.Validator,
        fast: Callable[[bytes], Any] | None,
        documents: Documents,
        draft: str,
    ) -> None:
        self.draft: Final = draft
        self.has_fast_path: Final = fast is not None
        self._decode = msgspec.json.Decoder().decode
        self._is_valid = authority.is_valid
        self._validate = authority.validate
        self._fast = fast
        self._documents = documents
        self._depth_max: int | None = None
        if documents.recursive and documents.branching:
            self._depth_max = max(8, DEPTH_BUDGET // documents.nodes_expanded)
        self._wasted = 0
        self._left_out = 0

    @property
    def accepts(self) -> Callable[[bytes], Any] | None:
        """The fast path itself: decodes what is surely valid, raises ValueError for the rest."""
        return self._fast

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
        if self._left_out:
            self._left_out -= 1
        elif self._fast is not None:
            try:
                self._fast(message)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return self._judge_unknown(message)
            self._wasted = 0
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
        try:
            return None if self._is_valid(value) else self._explain(value)
        except ValueError as exc:
            return f"cannot be judged: {clip(exc, 200)}"

    def _judge_unknown(self, message: bytes) -> str | None:
        """Judge what the fast path did not accept, and note whether it is worth its time."""
        reason = self.judge(message)
        if reason is None:
            self._wasted += 1
            if self._wasted >= WASTED_MAX:
                self._wasted, self._left_out = 0, LEFT_OUT
        return reason

    def _explain(self, value: Any) -> str:
        """Find the rule that an invalid message breaks."""
        # WHY: for an error the library tries every alternative and keeps what is wrong with each,
        # 13 us apiece, without the memory that keeps `is_valid` short. So this search is bounded.
        documents = self._documents
        if documents.branching:
            levels = measure_depth(value, EXPLAINED_DEPTH_MAX)
            limit = EXPLAINED_VALUES_MAX
            if levels <= EXPLAINED_DEPTH_MAX and documents.recursive:
                limit //= count_visits(documents, levels)
            elif levels <= EXPLAINED_DEPTH_MAX:
                limit //= documents.nodes_expanded
            else:
                limit = 0
            if count_values(value, limit) > limit:
                return (
                    "breaks the schema; the rule is not searched in a message of this size or"
                    " depth, because the schema has alternatives"
                )
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
                continue
            raise _build_error(documents, exc) from exc
        except (ValueError, jsonschema_rs.ReferencingError) as exc:
            raise _build_error(documents, exc) from exc
    raise AssertionError("unreachable: the second engine's failure is raised")


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


def count_values(value: Any, count_max: int) -> int:
    """Count a value and those in it; stops just past `count_max`."""
    count, stack = 0, [value]
    while stack and count <= count_max:
        node = stack.pop()
        count += 1
        if isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return count
