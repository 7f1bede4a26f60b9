"""What every handler shares: the face of a request, and how a body is read and answered.

What enters: a `Request` that left the compiled core after its route was found.
What leaves: exactly one `respond` or `fail` on it; nobody else answers that request.
Called by `gateway`, which maps routes to the methods of the handler classes here.
Handlers must never block the event loop, nor let a password, token or secret into a text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

from fastgw.errors import ClientFault, Fault

if TYPE_CHECKING:
    from fastgw._core import Principal

Header = tuple[bytes, bytes]
Struct = TypeVar("Struct", bound=msgspec.Struct)


class Request(Protocol):
    """The part of the core's request that handlers use; the core owns the connection under it."""

    @property
    def method(self) -> str:
        """The request's method, upper case."""

    @property
    def path(self) -> str:
        """The path, percent-decoded once, without the query."""

    @property
    def query(self) -> bytes:
        """The raw bytes behind the first question mark."""

    @property
    def body(self) -> bytes:
        """The whole body."""

    @property
    def client(self) -> str:
        """The address that the connection came from."""

    @property
    def principal(self) -> Principal | None:
        """Who asks; None on the routes that need no credentials."""

    @property
    def credential_sent(self) -> tuple[str, bytes] | None:
        """Kind and bytes of the credential that counts; see the core's request."""

    @property
    def closed(self) -> bool:
        """Whether the client went away."""

    def header(self, name: bytes, /) -> bytes | None:
        """Find a header by its lower-case name."""

    def respond(
        self,
        status: int,
        body: bytes,
        headers: tuple[Header, ...] = ...,
        content_type: bytes = ...,
    ) -> None:
        """Answer, once."""

    def fail(self, fault: Fault) -> None:
        """Answer with the status and the error body of `fault`, once."""


class BodyError(ClientFault):
    """A JSON body that cannot be read; the text names the field where one is to blame."""

    def __init__(self, text: str) -> None:
        super().__init__("bad-json", text)


_VALIDATION: Final = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_TYPE_WORDS: Final = {
    "str": "string",
    "int": "integer",
    "float": "fractional number",
    "bool": "boolean",
    "null": "null",
}


def parse_body(decoder: msgspec.json.Decoder[Struct], body: bytes) -> Struct:
    """Parse a JSON body into the decoder's type.

    Raises:
        BodyError: the body is not JSON, or a field has another type; the text names the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BodyError(_explain(str(error))) from error
    except (ValueError, RecursionError) as error:
        # WHY: msgspec raises RecursionError for 1,000 open brackets, UnicodeDecodeError for
        # bytes that are not UTF-8, and its own errors are ValueErrors too.
        raise BodyError("Request body is not a valid JSON object") from error


def _explain(text: str) -> str:
    """Say a type error of msgspec in JSON's words, the field first."""
    found = _VALIDATION.match(text)
    if found is None:
        field = text.rpartition("$.")[2].strip("`")
        return f"{field}: value out of range" if "$." in text else "Request body: wrong type"
    wanted = [word for word in found[1].split(" | ") if word != "null"]
    expected = " or ".join(_TYPE_WORDS.get(word, word) for word in wanted)
    got = _TYPE_WORDS.get(found[2], found[2])
    return f"{found[3] or 'Request body'}: expected {expected}, got {got}"


def encode_json(value: object) -> bytes:
    """Encode compactly, keys in the order given."""
    return msgspec.json.encode(value)


def fault_headers(fault: Fault) -> tuple[Header, ...]:
    """Build the headers that go with a fault: the stable word, and when to come again."""
    headers: tuple[Header, ...] = ((b"Error-Code", fault.kind.word.encode()),)
    if fault.kind.retry_after_s:
        headers += ((b"Retry-After", str(fault.kind.retry_after_s).encode()),)
    return headers


def fail_with_message(request: Request, fault: Fault) -> None:
    """Answer a fault in the shape of the `/auth/` routes, `{"message":…}`.

    WHY: Zapier's connector reads `message`, where the other routes say `error` and `success`.
    """
    if fault.kind.status in (401, 500):
        # WHY: the core says these alike everywhere: with WWW-Authenticate, and without the text.
        request.fail(fault)
        return
    body = encode_json({"message": fault.text})
    request.respond(fault.kind.status, body, fault_headers(fault))
