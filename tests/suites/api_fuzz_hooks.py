"""What schemathesis must be told to send requests to this gateway; `api_fuzz` names this module.

What enters: values that were generated for a media type. What leaves: their bytes.
"""

from __future__ import annotations

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(ctx: Any, value: Any) -> bytes:
    """Return one JSON value a line; a text is taken for the lines that it is."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(one) for one in values).encode()
