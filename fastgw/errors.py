"""One table from the kind of a failure to its HTTP status, and the exceptions that carry a kind.

What enters: a kind's word and a text that says what was wrong, where, and which limit.
What leaves: a `Fault` that the compiled core and the handlers turn into a JSON answer.
Every module raises these; nothing here imports another module of the project.
It must never carry a secret: texts reach clients and logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which a request can fail.

    Args:
        word: the stable word in the `Error-Code` response header.
        status: HTTP status code.
        closes: whether the connection's state is unknown afterwards, so that it must close.
        retry_after_s: seconds for the `Retry-After` header; 0 leaves the header out.
        retryable: whether the same request may succeed later, unchanged.
    """

    word: str
    status: int
    closes: bool = False
    retry_after_s: int = 0
    retryable: bool = False


_TABLE: Final = (
    # What the client sent could not be read as HTTP: its framing is unknown from here on.
    Kind("bad-request-framing", 400, closes=True),
    Kind("bad-host", 400, closes=True),
    Kind("request-timeout", 408, closes=True, retryable=True),
    Kind("body-too-large", 413, closes=True),
    Kind("target-too-long", 414, closes=True),
    Kind("expectation-failed", 417),
    Kind("head-too-large", 431, closes=True),
    Kind("transfer-coding-unknown", 501, closes=True),
    Kind("version-unsupported", 505, closes=True),
    # The request was read; what it asks for is refused.
    Kind("bad-request", 400),
    Kind("bad-encoding", 400),
    Kind("bad-json", 400),
    Kind("bad-station", 400),
    Kind("bad-subject", 400),
    Kind("bad-header", 400),
    Kind("bad-batch", 400),
    Kind("schema-refused", 400),
    Kind("bad-schema", 400),
    Kind("unauthorized", 401),
    Kind("forbidden", 403),
    Kind("not-found", 404),
    Kind("station-unknown", 404),
    Kind("schema-unknown", 404),
    Kind("method-not-allowed", 405),
    Kind("conflict", 409),
    Kind("sequence-differs", 409),
    Kind("message-too-large", 413),
    Kind("media-type-unsupported", 415),
    # How long to wait depends on the rate; the core says it beside this head.
    Kind("rate-limited", 429, retryable=True),
    Kind("broker-busy", 429, retry_after_s=1, retryable=True),
    Kind("broker-refused", 400),
    # The gateway or the broker cannot do it now.
    Kind("internal", 500),
    Kind("broker-away", 503, retry_after_s=1, retryable=True),
    Kind("stream-full", 503, retry_after_s=5, retryable=True),
    Kind("overloaded", 503, retry_after_s=1, retryable=True),
    Kind("draining", 503, closes=True, retry_after_s=1, retryable=True),
    Kind("outcome-unknown", 503, retry_after_s=1, retryable=True),
    Kind("ack-timeout", 504, retryable=True),
)

KINDS: Final[dict[str, Kind]] = {kind.word: kind for kind in _TABLE}

TEXT_CHARS_MAX: Final = 40
"""LIMIT: clipped values stay short enough to read in a log line (house style, 40 characters)."""


def clip(value: object, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Show `value` in an error text, at most `chars_max` characters and always printable."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text[: chars_max + 1])
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


class Fault(Exception):
    """A failure with a kind from `KINDS`.

    Args:
        word: the kind's word.
        text: what was wrong, what was got, and the limit; no secret.
    """

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.kind: Final = KINDS[word]
        self.text: Final = text


class ClientFault(Fault):
    """The client sent what cannot be served; sending it again will not help."""


class UpstreamFault(Fault):
    """The broker, or the way to it, could not do its part."""


class InternalError(Fault):
    """A defect of the gateway; it is counted and logged, and its text stays in the log."""

    def __init__(self, text: str) -> None:
        super().__init__("internal", text)
