"""What nats-py raises, in the gateway's own kinds."""

from __future__ import annotations

import nats.errors
import pytest
from nats.js import errors as js_errors

from fastgw.control.faults import broker_faults
from fastgw.errors import ClientFault, Fault, UpstreamFault


@pytest.mark.parametrize(
    ("error", "word", "text"),
    [
        (nats.errors.NoRespondersError(), "broker-away", "JetStream does not answer now"),
        (js_errors.NoStreamResponseError(), "broker-away", "JetStream does not answer now"),
        (js_errors.ServiceUnavailableError(), "broker-away", "JetStream does not answer now"),
        (
            js_errors.ServiceUnavailableError(503, "insufficient resources", 10023),
            "stream-full",
            "insufficient resources",
        ),
        (
            js_errors.BadRequestError(400, "limits exceeded", 10002),
            "stream-full",
            "limits exceeded",
        ),
        (js_errors.BadRequestError(400, "no\r\nway", 1), "broker-refused", r"no\x0d\x0away"),
        (js_errors.NotFoundError(), "broker-refused", "NotFoundError"),
        (nats.errors.TimeoutError(), "broker-away", "the broker did not answer in time"),
        (TimeoutError(), "broker-away", "the broker did not answer in time"),
        (nats.errors.ConnectionClosedError(), "broker-away", "connection closed"),
        (ConnectionResetError("reset"), "broker-away", "reset"),
        (ValueError("no JSON"), "broker-away", "no JSON"),
        (nats.errors.MaxPayloadError(), "message-too-large", "too large"),
    ],
)
def test_broker_faults_each_error_has_a_kind(error: Exception, word: str, text: str) -> None:
    with pytest.raises(Fault) as raised, broker_faults("do it"):
        raise error
    assert raised.value.kind.word == word
    assert raised.value.text.startswith("cannot do it: ")
    assert text in raised.value.text
    assert raised.value.__cause__ is error


def test_broker_faults_our_own_pass_unchanged() -> None:
    fault = ClientFault("bad-station", "no")
    with pytest.raises(ClientFault) as raised, broker_faults("do it"):
        raise fault
    assert raised.value is fault
    with pytest.raises(KeyError), broker_faults("do it"):
        raise KeyError("a defect is no broker trouble")
    assert issubclass(UpstreamFault, Fault)
