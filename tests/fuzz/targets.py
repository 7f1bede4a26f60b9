"""The targets by name.

What enters: a name. What leaves: a function that takes bytes and raises when a rule is broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.fuzz.avro_bytes import fuzz_avro
from tests.fuzz.broker_bytes import fuzz_broker
from tests.fuzz.front_door import fuzz_inflate, fuzz_proxy
from tests.fuzz.header_bytes import fuzz_headers
from tests.fuzz.http_bytes import fuzz_http
from tests.fuzz.json_bytes import fuzz_batch, fuzz_schema
from tests.fuzz.usual_bytes import fuzz_usual

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "http": fuzz_http,
    "headers": fuzz_headers,
    "usual": fuzz_usual,
    "broker": fuzz_broker,
    "batch": fuzz_batch,
    "schema": fuzz_schema,
    "avro": fuzz_avro,
    "proxy": fuzz_proxy,
    "inflate": fuzz_inflate,
}
