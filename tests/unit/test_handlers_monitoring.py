"""The probes: three that always answer, one that tells the trouble."""

from __future__ import annotations

from fastgw.errors import UpstreamFault
from fastgw.handlers.monitoring import Monitoring
from tests.unit.handler_fakes import FakeRequest


def test_probes_say_ok() -> None:
    monitoring = Monitoring(lambda: None)
    for probe in (monitoring.root, monitoring.status, monitoring.healthz, monitoring.readyz):
        request = FakeRequest()
        probe(request)
        assert request.answer == (200, {"status": "ok"}, {})


def test_readyz_alone_tells_the_trouble() -> None:
    trouble = UpstreamFault("draining", "stopping")
    monitoring = Monitoring(lambda: trouble)
    for probe in (monitoring.root, monitoring.status, monitoring.healthz):
        request = FakeRequest()
        probe(request)
        assert request.answer[0] == 200
    request = FakeRequest()
    monitoring.readyz(request)
    assert request.answer == (503, trouble, {})
