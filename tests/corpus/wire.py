"""Cases over a real socket: whole or byte by byte, against any server.

What enters: an address, a case, how it is cut. What leaves: the responses, then a `Seen`.
Called by tests/wire/test_wire_corpus.py and `python -m tests.conformance`. It reads by
tests/wire/raw_http.py, which shares no code with a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.corpus.case import PROBE
from tests.corpus.verdict import Seen
from tests.wire.raw_http import Wire

if TYPE_CHECKING:
    from tests.corpus.case import Case
    from tests.wire.raw_http import Mode, Response

BYTES_MAX: Final = 3000
"""LIMIT: longer cases are not sent byte by byte; what is cut in them lies at their start."""


def play(
    address: tuple[str, int],
    case: Case,
    mode: Mode = "whole",
    *,
    half_closes: bool = True,
    timeout_s: float = 15.0,
) -> tuple[Seen, list[Response]]:
    """Send a case and the probe behind it, and read until the server closes.

    Args:
        half_closes: say that nothing follows; not every server then still answers.
    """
    data = case.raw if case.is_cut else case.raw + PROBE
    responses: list[Response] = []
    trouble = ""
    with Wire(address, list(case.methods)) as wire:
        wire.send(data, mode)
        if half_closes or case.is_cut:
            wire.half_close()
        try:
            while (response := wire.receive(timeout_s)) is not None:
                responses.append(response)
        except (AssertionError, OSError, ValueError) as error:
            trouble = f"{error} behind {[response.status for response in responses]}"
    says_close = bool(responses) and "close" in (responses[-1].header("connection") or "").lower()
    statuses = tuple(response.status for response in responses)
    return Seen(statuses, says_close, messages=None, trouble=trouble), responses
