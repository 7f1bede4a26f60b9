"""Good clients: they produce on connections that stay, and measure how long each answer takes.

What enters: the gateway's address, a token, how long. What leaves: latencies in milliseconds.
They run in a process of their own, so that the slow clients' work is not in their figures.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from typing import Final

CONNECTIONS: Final = 4
PAUSE_S: Final = 0.005
"""LIMIT: at most 200 requests a second and connection, far from what the gateway can do."""


def measure(address: tuple[str, int], token: str, seconds: float) -> dict[str, float]:
    """Produce for so long; return count, faults, p50 and p99."""
    latencies: list[float] = []
    faults: list[str] = []
    threads = [
        threading.Thread(target=_produce, args=(address, token, seconds, latencies, faults))
        for _ in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    return {
        "count": len(latencies),
        "faults": len(faults),
        "p50_ms": quantile(latencies, 0.50),
        "p99_ms": quantile(latencies, 0.99),
    }


def quantile(ordered: list[float], part: float) -> float:
    """The value below which `part` of the ordered values lie."""
    if not ordered:
        return math.nan
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3)


def _produce(
    address: tuple[str, int],
    token: str,
    seconds: float,
    latencies: list[float],
    faults: list[str],
) -> None:
    connection = http.client.HTTPConnection(*address, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        before = time.perf_counter()
        connection.request("POST", "/stations/good/produce/single", b'{"a":1}', headers)
        answer = connection.getresponse()
        answer.read()
        latencies.append((time.perf_counter() - before) * 1000)
        if answer.status != 200:
            faults.append(str(answer.status))
        time.sleep(PAUSE_S)
    connection.close()
