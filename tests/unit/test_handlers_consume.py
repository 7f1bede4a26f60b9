"""Consume's body, its bounds, and groups that vanish, against a fake core and fake stations."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from fastgw.config_types import Config, LimitsConfig
from fastgw.control.stations import StationRecord
from fastgw.errors import ClientFault, Fault, UpstreamFault
from fastgw.handlers import consume as consume_module
from fastgw.handlers.consume import Consume, durable_name
from tests.unit.handler_fakes import FakeRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastgw.control.stations import Stations
    from fastgw.handlers import Request

STATION = StationRecord(name="a.b", stream="a#b", subject="a.b")


class FakeStations:
    """Makes groups, or fails to."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []
        self.forgotten: list[str] = []
        self.fault: Exception | None = None

    async def ensure_consumer(self, record: StationRecord, durable: str) -> None:
        if self.fault is not None:
            raise self.fault
        self.made.append((record.stream, durable))

    def forget_consumer(self, record: StationRecord, durable: str) -> None:
        self.forgotten.append(durable)


class FakeIngress:
    """Remembers the pulls; the first ones may find their consumer missing."""

    def __init__(self, missing: int = 0) -> None:
        self.pulls: list[tuple[Any, ...]] = []
        self.missing = missing
        self.is_broker_live = True

    def pull(
        self,
        request: Request,
        stream: str,
        durable: str,
        batch: int,
        wait_ms: int,
        metadata: bool,
        on_missing: Callable[[], None],
    ) -> None:
        self.pulls.append((stream, durable, batch, wait_ms, metadata))
        if self.missing:
            self.missing -= 1
            asyncio.get_running_loop().call_soon(on_missing)
        else:
            request.respond(200, b"[]")


def make(missing: int = 0, **limits: Any) -> tuple[Consume, FakeStations, FakeIngress]:
    config = Config(limits=LimitsConfig(**limits))
    fakes, ingress = FakeStations(), FakeIngress(missing)
    stations: Stations = fakes  # type: ignore[assignment]
    return Consume(config, stations, ingress), fakes, ingress


async def ask(consume: Consume, **fields: Any) -> Any:
    request = FakeRequest(json.dumps({"consumer_name": "c"} | fields).encode())
    work = consume.batch(request, STATION)
    if work is not None:
        await work
    for _ in range(20):
        if request.answers:
            break
        await asyncio.sleep(0)
    return request.answer


async def test_batch_known_group_needs_no_coroutine() -> None:
    consume, stations, ingress = make()
    assert (await ask(consume))[0] == 200
    request = FakeRequest(b'{"consumer_name":"c"}')
    assert consume.batch(request, STATION) is None
    assert request.answer[0] == 200
    assert stations.made == [("a#b", "rest-gateway")]
    assert ingress.pulls == [("a#b", "rest-gateway", 10, 5000, False)] * 2


async def test_batch_bounds_are_the_configured_ones() -> None:
    consume, _, ingress = make(consume_batch_max=20, consume_wait_ms_max=100)
    assert (await ask(consume, batch_size=20, batch_max_wait_time_ms=10**9))[0] == 200
    assert ingress.pulls[-1] == ("a#b", "rest-gateway", 20, 100, False)
    assert (await ask(consume))[0] == 200
    assert ingress.pulls[-1][3] == 100
    status, fault, _ = await ask(consume, batch_size=21)
    assert (status, fault.text) == (400, "batch_size of 21 is outside 1 to 20")


async def test_batch_default_size_bends_to_a_small_bound() -> None:
    consume, _, ingress = make(consume_batch_max=3)
    assert (await ask(consume))[0] == 200
    assert ingress.pulls[-1][2] == 3


async def test_batch_group_removed_is_made_again_once() -> None:
    consume, stations, ingress = make(missing=1)
    assert (await ask(consume, consumer_group="g"))[0] == 200
    assert stations.forgotten == ["g-rest-gateway"]
    assert stations.made == [("a#b", "g-rest-gateway")] * 2
    assert len(ingress.pulls) == 2


async def test_batch_group_that_stays_missing_is_503() -> None:
    consume, _, ingress = make(missing=5)
    status, fault, _ = await ask(consume)
    assert (status, fault.kind.word) == (503, "broker-away")
    assert len(ingress.pulls) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(UpstreamFault("broker-away", "away"), 503), (RuntimeError("a defect"), 500)],
)
async def test_batch_second_try_always_answers(error: Exception, status: int) -> None:
    consume, stations, _ = make(missing=1)
    work = consume.batch(request := FakeRequest(b'{"consumer_name":"c"}'), STATION)
    assert work is not None
    await work
    stations.fault = error
    for _ in range(20):
        await asyncio.sleep(0)
    assert request.answer[0] == status


async def test_batch_group_that_cannot_be_made_is_its_fault() -> None:
    consume, stations, ingress = make()
    stations.fault = ClientFault("station-unknown", "gone")
    assert (await ask(consume))[0] == 404
    assert ingress.pulls == []


async def test_batch_broker_away_is_503_without_asking() -> None:
    consume, stations, ingress = make()
    ingress.is_broker_live = False
    request = FakeRequest(b'{"consumer_name":"c"}')
    assert consume.batch(request, STATION) is None
    assert request.answer[0] == 503
    assert stations.made == ingress.pulls == []


async def test_batch_client_gone_meanwhile_pulls_nothing() -> None:
    consume, _, ingress = make()
    request = FakeRequest(b'{"consumer_name":"c"}')
    work = consume.batch(request, STATION)
    assert work is not None
    request.closed = True
    await work
    assert ingress.pulls == []


async def test_batch_known_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume_module, "DURABLES_KNOWN_MAX", 3)
    consume, stations, _ = make()
    for n in range(10):
        await ask(consume, consumer_group=f"g{n}")
    assert len(consume._known) <= 3
    assert len(stations.made) == 10


def test_durable_name_of_groups() -> None:
    assert durable_name(None) == durable_name("") == "rest-gateway"
    assert durable_name("a") == "a-rest-gateway"
    assert durable_name("a.b_c-D9") == "a#b_c-D9-rest-gateway"
    assert len(durable_name("g" * 128)) == 141
    for bad in ("g" * 129, ".a", "a.", "-a", "a b", "a*", ">", "a\nb", "a#b", "é", "a/b", "a\\b"):
        with pytest.raises(Fault, match="consumer_group"):
            durable_name(bad)
