"""What nats-py and JetStream say went wrong, in the gateway's own kinds.

What enters: an exception of a control-plane call. What leaves: a `Fault` with one clear line.
Called by every module of the control plane, as a `with` block around a call to the broker.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from fastgw.errors import ClientFault, Fault, UpstreamFault, clip
from fastgw.nats.library import js_errors, nats_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION_CHARS_MAX: Final = 160

# SOURCE: nats-server server/errors.json
STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
CONSUMER_EXISTS: Final = (10148, 10013)
STREAM_NAME_IN_USE: Final = 10058
SUBJECTS_OVERLAP: Final = 10065
WRONG_LAST_SEQUENCE: Final = (10071, 10164)
_NO_ROOM: Final = frozenset({10002, 10023, 10026, 10027, 10028, 10047, 10077})


@contextlib.contextmanager
def broker_faults(doing: str) -> Iterator[None]:
    """Turn what the broker or the way to it did into a Fault.

    Args:
        doing: what was tried, as in "create stream orders"; it begins the text.

    Raises:
        UpstreamFault: "broker-away", "stream-full", or "broker-refused" with the broker's words.
    """
    try:
        yield
    except Fault:
        raise
    except (
        nats_errors.NoRespondersError,
        js_errors.NoStreamResponseError,
        js_errors.ServiceUnavailableError,
    ) as error:
        if isinstance(error, js_errors.APIError) and error.err_code in _NO_ROOM:
            raise UpstreamFault("stream-full", f"cannot {doing}: {describe(error)}") from error
        raise UpstreamFault(
            "broker-away", f"cannot {doing}: JetStream does not answer now"
        ) from error
    except js_errors.APIError as error:
        kind = "stream-full" if error.err_code in _NO_ROOM else "broker-refused"
        raise UpstreamFault(kind, f"cannot {doing}: {describe(error)}") from error
    except (TimeoutError, nats_errors.TimeoutError) as error:
        raise UpstreamFault(
            "broker-away", f"cannot {doing}: the broker did not answer in time"
        ) from error
    except nats_errors.MaxPayloadError as error:
        raise ClientFault(
            "message-too-large", f"cannot {doing}: the record is too large"
        ) from error
    except (nats_errors.Error, OSError, ValueError) as error:
        raise UpstreamFault("broker-away", f"cannot {doing}: {describe(error)}") from error


def describe(error: Exception) -> str:
    """Return the broker's own words for an error, clipped."""
    text = error.description if isinstance(error, js_errors.APIError) else None
    return clip(text or str(error) or type(error).__name__, DESCRIPTION_CHARS_MAX)
