"""Sends small requests that ask for much work, and watches what they do to a gateway.

What enters: a running gateway, and bytes.
What leaves: the answers, once they came in time, while another connection asked `/healthz` again
and again and had its answers too, and while the memory of the process stayed within a bound.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Response

PROBE_S_MAX: Final = 2.0
"""LIMIT: what a good client may wait while a bomb is looked at, on a busy machine of two cores."""

ANSWER_S_MAX: Final = 12.0
"""LIMIT: the longest wait for a bomb's answer; compilers of schemas have some seconds."""

RSS_GROWTH_BYTES_MAX: Final = 160 * 1024 * 1024
"""LIMIT: the largest body is 8 MiB; held as received, inflated and split, with much to spare."""

BODY_BYTES_MAX: Final = 1 << 20
"""SOURCE: limits.body_bytes_max, which is the broker's max_payload when it is not set."""

REFUSED: Final = frozenset({400, 413, 415, 431})


def status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def reset_peak(pid: int) -> None:
    """Have VmHWM start from the memory of now. SOURCE: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def watched(gateway: Gateway) -> Iterator[None]:
    """Do something while another connection asks; check its waits and the memory at the end."""
    assert gateway.process is not None
    pid = gateway.process.pid
    reset_peak(pid)
    before = status_bytes(pid, "VmRSS")
    ended = threading.Event()
    waits: list[float] = []
    wrong: list[object] = []

    def probe() -> None:
        while True:
            start = time.monotonic()
            try:
                response = gateway.ask("/healthz", None, method="GET")
                if response.status != 200:
                    wrong.append(response)
            except (OSError, AssertionError) as error:
                wrong.append(error)
            waits.append(time.monotonic() - start)
            if ended.wait(0.02):
                return

    prober = threading.Thread(target=probe)
    prober.start()
    try:
        yield
    finally:
        ended.set()
        prober.join()
    assert not wrong, wrong[:3]
    assert max(waits) < PROBE_S_MAX, f"a good client waited {max(waits):.2f} s"
    growth = status_bytes(pid, "VmHWM") - before
    assert growth < RSS_GROWTH_BYTES_MAX, f"{growth >> 20} MiB"
    assert gateway.process.poll() is None


def send(gateway: Gateway, data: bytes) -> list[Response]:
    """Send it while the gateway is watched; its answer must come in time."""
    with watched(gateway), gateway.wire() as wire:
        start = time.monotonic()
        wire.send(data)
        wire.half_close()
        responses = []
        while (response := wire.receive(ANSWER_S_MAX)) is not None:
            responses.append(response)
        assert time.monotonic() - start < ANSWER_S_MAX
    return responses


def check(responses: list[Response], statuses: frozenset[int] | set[int] = REFUSED) -> Response:
    assert len(responses) == 1, responses
    (response,) = responses
    assert response.status in statuses, response
    if response.status >= 400:
        told = response.json()
        assert "error" in told or "errors" in told or "message" in told
        assert len(response.body) < 4096, "an answer is no bomb either"
    return response


def post(gateway: Gateway, target: str, body: bytes, **fields: str) -> list[Response]:
    method = fields.pop("method", "POST")
    fields.setdefault("Content_Type", "application/json")
    return send(gateway, build(target, body, method=method, headers=gateway.auth(**fields)))
