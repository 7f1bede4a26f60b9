"""GraphQL messages: documents valid against a schema, bare or in a JSON envelope.

What enters: SDL, then message bytes. What leaves: a validator. `compile_graphql` is called at
registration, off the loop; `check` once per message, on the loop: it answers at once for a document
that was seen before, or one of the same shape, and else with an awaitable for what the worker
process says. It must never parse a document itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable
from typing import Any, Final

import msgspec

from fastgw.errors import ClientFault, UpstreamFault, clip
from fastgw.schema.base import REASON_CHARS_MAX, Resolve, SchemaError, Verdict
from fastgw.schema.graphql_pool import WorkerDied, WorkerSlow, compile_apart, find_pool
from fastgw.schema.graphql_shape import find_shape, is_sure
from fastgw.schema.graphql_variables import compile_variables

REASON: Final = "invalid message format, expecting GraphQL: "
"""SOURCE: Memphis' text for a message that is no GraphQL; ours goes on with the cause."""

MISSING: Final = "GraphQL schemas need more packages: install fastgw[schemas]"

SDL_BYTES_MAX: Final = 262_144
DOCUMENT_BYTES_MAX: Final = 65_536
VARIABLES_BYTES_MAX: Final = 1_048_576
NAME_CHARS_MAX: Final = 255
WAITING_MAX: Final = 16_384
"""LIMIT: messages that wait for a verdict, most of them for that on another of their shape."""

ENTRIES_MAX: Final = 4_096
CACHE_BYTES_MAX: Final = 4 << 20
ENTRY_BYTES: Final = 200
"""LIMIT: five caches of a validator, each within 4 MiB with what an entry itself takes."""

EXACT_BYTES_MAX: Final = 16_384
FORMS_MAX: Final = 256

_JSON: Final = re.compile(rb"\s*application/(?:[\w.!#$&^-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_BARE: Final = re.compile(rb"\s*application/graphql\s*(?:;|$)", re.IGNORECASE)
_BRACE: Final = re.compile(rb"[ \t\r\n]*\{")
CLEANED_MAX: Final = 4_096
_LONG: Final = re.compile(r"""'[^']*'|"[^"]*"|\S{41,}""")
"""What a library quotes of a message at length: it is clipped like every value."""

_FOREIGN: Final = re.compile(
    rb"\s*(?:avro/|application/(?:x-|vnd\.(?:apache\.|google\.)?)?(?:avro|protobuf|grpc)\b)",
    re.IGNORECASE,
)


class Envelope(msgspec.Struct):
    """A JSON body; what else it holds is left to who runs the document."""

    query: str
    variables: msgspec.Raw = msgspec.Raw(b"null")
    operation: str | None = msgspec.field(default=None, name="operationName")


_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode


class Cache:
    """Keys of valid documents, bounded in entries and bytes; the oldest goes first."""

    __slots__ = ("_bytes_count", "_sizes", "values")

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self._sizes: dict[Any, int] = {}
        self._bytes_count = 0

    def put(self, key: object, value: object, size: int) -> None:
        """Remember a key of `size` bytes, and forget as many as the bounds ask for."""
        if key in self.values:
            return
        self.values[key] = value
        self._sizes[key] = size + ENTRY_BYTES
        self._bytes_count += size + ENTRY_BYTES
        while len(self.values) > ENTRIES_MAX or self._bytes_count > CACHE_BYTES_MAX:
            oldest = next(iter(self.values))
            del self.values[oldest]
            self._bytes_count -= self._sizes.pop(oldest)


def compile_graphql(text: str, *, resolve: Resolve) -> GraphqlValidator:
    """Compile SDL into a validator; takes about half a second in a process of its own.

    Args:
        text: the type system with a query type; at most 256 KiB.
        resolve: not used: SDL has no references to other files.

    Raises:
        SchemaError: the text is no valid type system, or is too large or too costly.
    """
    del resolve
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > SDL_BYTES_MAX:
        raise SchemaError(f"the schema of {size} bytes exceeds {SDL_BYTES_MAX}")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise SchemaError("the schema holds a lone surrogate")
    try:
        answer = compile_apart(text)
    except (WorkerDied, WorkerSlow) as error:
        raise SchemaError("the schema takes too much time or memory to compile") from error
    if answer is None:
        raise SchemaError(MISSING)
    if answer["error"] is not None:
        raise SchemaError(_clean(answer["error"]), answer["place"])
    return GraphqlValidator(text)


class _Question(msgspec.Struct, frozen=True, gc=False):
    """A message that no cache knew; `key` is None where its document has no shape."""

    message: bytes
    document: bytes
    form: str
    key: object
    shape: bytes | None
    envelope: bool = False
    variables: bytes = b""
    operation: str | None = None


class GraphqlValidator:
    """Judges documents against one schema, on one event loop.

    Args:
        sdl: a text that `compile_graphql` has found good.
    """

    __slots__ = ("_bare", "_exact", "_forms", "_json", "_key", "_running", "_sdl", "_waiting")

    def __init__(self, sdl: str) -> None:
        self._sdl = sdl
        self._key = hashlib.sha256(sdl.encode()).hexdigest()
        self._exact = {form: Cache() for form in ("auto", "json", "bare")}
        self._bare = Cache()
        self._json = Cache()
        self._forms: dict[bytes, str] = {}
        self._running: dict[object, asyncio.Future[None]] = {}
        self._waiting = 0

    def check(self, message: bytes, content_type: bytes | None) -> Verdict | Awaitable[Verdict]:
        """Judge one message; see `Validator.check`.

        Awaiting raises UpstreamFault "overloaded" when too many documents wait already.
        """
        form = "auto" if content_type is None else self._find_form(content_type)
        # WHY: the length is asked first because hashing a long message costs as much as reading it.
        if len(message) <= EXACT_BYTES_MAX and message in self._exact[form].values:
            return None
        if form == "bare" or (form == "auto" and not _BRACE.match(message)):
            return self._check_document(message, form)
        try:
            envelope = _decode_envelope(message)
            # WHY: msgspec skips what is not asked for without looking at its UTF-8.
            if not message.isascii():
                message.decode()
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            if form == "auto":
                return self._check_document(message, form)
            return f'{REASON}expected JSON with a document in "query": {_clean(error)}'
        return self._check_envelope(message, form, envelope)

    def _check_document(self, message: bytes, form: str) -> Verdict | Awaitable[Verdict]:
        if len(message) > DOCUMENT_BYTES_MAX:
            return f"{REASON}a document of {len(message)} bytes exceeds {DOCUMENT_BYTES_MAX}"
        shape = find_shape(message)
        if shape in self._bare.values:
            return None
        if not message.isascii():
            try:
                message.decode()
            except UnicodeDecodeError as error:
                return f"{REASON}byte {error.start} is not UTF-8"
        return self._judge(_Question(message, message, form, shape, shape))

    def _check_envelope(
        self, message: bytes, form: str, envelope: Envelope
    ) -> Verdict | Awaitable[Verdict]:
        document = envelope.query.encode()
        if len(document) > DOCUMENT_BYTES_MAX:
            return f"{REASON}a document of {len(document)} bytes exceeds {DOCUMENT_BYTES_MAX}"
        variables = bytes(envelope.variables)
        if not _BRACE.match(variables):
            if variables != b"null":
                return f"{REASON}variables: expected an object, got {clip(variables)}"
            variables = b"{}"
        shape = find_shape(document)
        key = None if shape is None else (shape, envelope.operation)
        accepts = self._json.values.get(key)
        if accepts is not None and (accepts is True or accepts(variables)):
            return None
        if len(variables) > VARIABLES_BYTES_MAX:
            return f"{REASON}variables of {len(variables)} bytes exceed {VARIABLES_BYTES_MAX}"
        if envelope.operation is not None and len(envelope.operation) > NAME_CHARS_MAX:
            return f"{REASON}operationName is longer than {NAME_CHARS_MAX} characters"
        return self._judge(
            _Question(message, document, form, key, shape, True, variables, envelope.operation)
        )

    async def _judge(self, question: _Question) -> Verdict:
        """Ask the worker, or wait for its verdict on another message of the same shape first."""
        if self._waiting >= WAITING_MAX:
            raise UpstreamFault("overloaded", f"{self._waiting} GraphQL documents wait already")
        self._waiting += 1
        try:
            running = self._running.get(question.key) if question.key is not None else None
            if running is not None:
                await asyncio.shield(running)
                if self._is_known(question):
                    return None
            return await self._ask(question)
        finally:
            self._waiting -= 1

    def _is_known(self, question: _Question) -> bool:
        if not question.envelope:
            return question.key in self._bare.values
        accepts = self._json.values.get(question.key)
        return accepts is True or (accepts is not None and accepts(question.variables))

    async def _ask(self, question: _Question) -> Verdict:
        job = {
            "do": "judge",
            "schema": self._key,
            "query": question.document.decode(),
            "operation": question.operation,
            "variables": question.variables.decode() if question.envelope else None,
        }
        done = find_pool().submit(job, self._sdl)
        key, told = question.key, asyncio.get_running_loop().create_future()
        if key is not None:
            self._running.setdefault(key, told)
        try:
            answer = await asyncio.wrap_future(done)
            if answer["reason"] is not None:
                return REASON + _clean(answer["reason"])
            self._remember(question, answer["kinds"])
            return None
        finally:
            if self._running.get(key) is told:
                del self._running[key]
            told.set_result(None)

    def _remember(self, question: _Question, kinds: Any) -> None:
        size = len(question.message)
        if size <= EXACT_BYTES_MAX:
            self._exact[question.form].put(question.message, True, size)
        if question.shape is None or not is_sure(question.shape):
            return
        size = len(question.shape)
        if not question.envelope:
            self._bare.put(question.key, True, size)
        elif kinds is not None:
            accepts = compile_variables(msgspec.json.encode(kinds)) if kinds else True
            if accepts is not None:
                self._json.put(question.key, accepts, size)

    def _find_form(self, content_type: bytes) -> str:
        form = self._forms.get(content_type)
        if form is not None:
            return form
        if _FOREIGN.match(content_type):
            raise ClientFault(
                "media-type-unsupported",
                f"Content-Type {clip(content_type)!r} contradicts the station's GraphQL schema",
            )
        json = _JSON.match(content_type) is not None
        form = "json" if json else "bare" if _BARE.match(content_type) else "auto"
        if len(self._forms) < FORMS_MAX and len(content_type) <= 256:
            self._forms[content_type] = form
        return form


def _clean(text: object) -> str:
    """Make one short line of a library's text, which may quote the message."""
    if isinstance(text, RecursionError):
        return "nested too deeply"
    line = _LONG.sub(lambda match: clip(match[0]), " ".join(str(text)[:CLEANED_MAX].split()))
    return clip(line, REASON_CHARS_MAX // 2)
