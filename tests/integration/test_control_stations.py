"""Stations and consumers against a real broker, as two gateways see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nats.js.errors
import pytest
from nats.js import api

from fastgw.control import consumers, station_config, stations
from fastgw.control.stations import MARK, StationRecord, Stations
from fastgw.control.store import Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

__all__ = ["broker"]


class Gateway:
    """The control plane of one process."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self.store = store
        self.js: JetStreamContext = store.js
        self.stations = Stations(store, store.js, broker.config())
        self.changes: list[tuple[str, StationRecord | None]] = []
        self.stations.on_change(lambda name, record: self.changes.append((name, record)))


@pytest.fixture
async def pair(broker: Broker) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with control(broker.config()) as one, control(broker.config()) as two:
        gateways = (
            Gateway(await Store.open(one, 1), broker),
            Gateway(await Store.open(two, 1), broker),
        )
        for gateway in gateways:
            await gateway.stations.start()
        yield gateways
        for gateway in gateways:
            await gateway.store.close()


async def test_add_station_stores_and_is_known_elsewhere_soon(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    record = await here.stations.add(
        "a.b", headers=["X-*"], header_allow=["Nats-TTL"], storage="memory", max_age_s=60
    )
    assert (record.stream, record.subject, record.owned) == ("a#b", "a.b", True)
    assert (record.headers, record.header_allow) == (["X-*"], ["Nats-TTL"])
    assert here.stations.find("a.b") == record
    assert await eventually(lambda: there.stations.find("a.b") == record) < CHANGE_S_MAX
    assert there.changes == [("a.b", record)]
    await here.js.publish("a.b", b"1")
    await here.js.publish("a.b.sub.ject", b"2")
    info = await there.stations.info("a.b")
    assert (info.messages, info.first_seq, info.last_seq, info.max_age_s) == (2, 1, 2, 60)
    assert (info.storage, info.replicas, info.consumers) == ("memory", 1, 0)
    assert info.subjects == ["a.b", "a.b.>"]
    assert info.bytes > 0
    assert info.record == record


async def test_list_is_sorted(pair: tuple[Gateway, Gateway]) -> None:
    for name in ("b", "a", "c"):
        await pair[0].stations.add(name)
    assert [record.name for record in pair[0].stations.list()] == ["a", "b", "c"]
    assert list(pair[0].stations.records) == ["b", "a", "c"]


async def test_add_station_twice_refused(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    results = await asyncio.gather(
        here.stations.add("a"), there.stations.add("a"), return_exceptions=True
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert [fault.text for fault in faults] == ["the station a exists already"]
    with pytest.raises(ClientFault, match="the station a exists already"):
        await there.stations.add("a")


async def test_ensure_from_everywhere_at_once_one_station(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    asked = [gateway.stations.ensure("orders") for _ in range(20) for gateway in (here, there)]
    records = await asyncio.gather(*asked)
    assert len(set(map(repr, records))) == 1
    assert records[0].owned
    names = [info.config.name for info in await here.js.streams_info()]
    assert sorted(names) == ["KV_fastgw", "orders"]
    assert await here.stations.ensure("orders") is here.stations.find("orders")


async def test_ensure_one_caller_leaves_the_others_are_served(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    first = asyncio.create_task(here.stations.ensure("orders"))
    second = asyncio.create_task(here.stations.ensure("orders"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "orders"


async def test_ensure_stream_with_the_same_subjects_is_taken(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    await here.js.add_stream(name="old", subjects=["old.>", "old"], max_msgs=5)
    await here.js.publish("old", b"kept")
    record = await here.stations.ensure("old")
    assert not record.owned
    await here.stations.remove("old")
    assert (await here.js.stream_info("old")).state.messages == 1, "it was not ours to delete"


@pytest.mark.parametrize(
    ("existing", "name", "message"),
    [
        ({"name": "other", "subjects": ["a.>"]}, "a.b", "overlap those of stream other$"),
        ({"name": "other", "subjects": ["a.x"]}, "a", "overlap those of stream other$"),
        ({"name": "a", "subjects": ["z"]}, "a", r"stream a exists with other subjects \(z\)$"),
        ({"name": "a", "subjects": ["a", "a.>"], "no_ack": True}, "a", "stream a has no_ack"),
    ],
)
async def test_ensure_stream_that_cannot_serve_refused(
    pair: tuple[Gateway, Gateway], existing: dict[str, Any], name: str, message: str
) -> None:
    here, _ = pair
    await here.js.add_stream(**existing)
    with pytest.raises(ClientFault, match=message) as raised:
        await here.stations.ensure(name)
    assert raised.value.kind.word == "bad-station"
    assert here.stations.records == {}


async def test_ensure_name_of_the_store_refused(pair: tuple[Gateway, Gateway]) -> None:
    with pytest.raises(ClientFault, match="KV_fastgw exists with other subjects"):
        await pair[0].stations.ensure("KV_fastgw")


async def test_ensure_name_that_cannot_be_refused(pair: tuple[Gateway, Gateway]) -> None:
    with pytest.raises(ClientFault, match="the station name a>b"):
        await pair[0].stations.ensure("a>b")
    with pytest.raises(ClientFault, match="a station name of 0 characters"):
        await pair[0].stations.add("")


async def test_ensure_too_many_at_once_refused(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stations, "CREATIONS_MAX", 1)
    here, _ = pair
    first = asyncio.create_task(here.stations.ensure("one"))
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFault, match="1 stations are being created"):
        await here.stations.ensure("two")
    await first
    await here.stations.ensure("two")


async def test_ensure_broker_away_told(broker: Broker, pair: tuple[Gateway, Gateway]) -> None:
    broker.kill()
    await eventually(lambda: not pair[0].store.nc.is_connected)
    with pytest.raises(UpstreamFault) as raised:
        await pair[0].stations.ensure("a")
    assert raised.value.kind.word == "broker-away"


async def test_add_header_globs_that_cannot_be_refused(pair: tuple[Gateway, Gateway]) -> None:
    for headers in ("some", ["a b"], ["x"] * 65, ["a\r\nb"]):
        with pytest.raises(ClientFault, match="header"):
            await pair[0].stations.add("a", headers=headers)


async def test_add_more_replicas_than_servers_told(broker: Broker) -> None:
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        three = Stations(store, store.js, broker.config(replicas=3))
        with pytest.raises(UpstreamFault, match="cannot create stream a: replicas > 1"):
            await three.add("a")


async def test_add_bound_on_bytes_drops_the_oldest(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    await here.stations.add("a", max_bytes=2000)
    for _ in range(20):
        await here.js.publish("a", b"x" * 200)
    info = await here.stations.info("a")
    assert info.bytes <= 2000
    assert info.last_seq == 20


async def test_remove_station_removes_its_stream_unless_kept(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    for name in ("goes", "stays"):
        await here.stations.add(name)
    await here.stations.remove("goes")
    assert here.stations.find("goes") is None
    await here.stations.remove("stays", keep_stream=True)
    await eventually(lambda: there.stations.records == {})
    assert there.changes[-2:] == [("goes", None), ("stays", None)]
    with pytest.raises(nats.js.errors.NotFoundError):
        await here.js.stream_info("goes")
    info = await here.js.stream_info("stays")
    assert (info.config.metadata or {})[MARK] == "stays"
    assert (await here.stations.ensure("stays")).owned, "made for it once, it is so still"
    await here.js.delete_stream("stays")
    await here.stations.remove("stays")
    with pytest.raises(ClientFault, match="there is no station stays") as raised:
        await here.stations.remove("stays")
    assert raised.value.kind.status == 404


async def test_info_stream_gone_told(pair: tuple[Gateway, Gateway]) -> None:
    await pair[0].stations.add("a")
    await pair[0].js.delete_stream("a")
    with pytest.raises(UpstreamFault, match="cannot read stream a: stream not found"):
        await pair[0].stations.info("a")


# --- consumers ------------------------------------------------------------------------------------


async def test_ensure_consumer_made_once_and_remembered(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    record = await here.stations.add("a")
    asked = [
        gateway.stations.ensure_consumer(record, "g-rest-gateway")
        for _ in range(10)
        for gateway in (here, there)
    ]
    await asyncio.gather(*asked)
    info = await here.js.consumer_info("a", "g-rest-gateway")
    config = info.config
    assert (config.ack_policy, config.ack_wait) == (api.AckPolicy.EXPLICIT, 30)
    assert (config.deliver_policy, config.deliver_subject) == (api.DeliverPolicy.ALL, None)
    monkeypatch.setattr(here.js, "consumer_info", None)
    await here.stations.ensure_consumer(record, "g-rest-gateway")


async def test_ensure_consumer_gone_made_again_after_forget(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    record = await here.stations.add("a")
    await here.stations.ensure_consumer(record, "g")
    await here.js.delete_consumer("a", "g")
    here.stations.forget_consumer(record, "g")
    await here.stations.ensure_consumer(record, "g")
    assert (await here.js.consumer_info("a", "g")).name == "g"


async def test_ensure_consumer_station_made_again_is_asked_again(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    await here.stations.ensure_consumer(await here.stations.add("a"), "g")
    await here.stations.remove("a")
    await here.stations.ensure_consumer(await here.stations.add("a"), "g")
    assert (await here.js.consumer_info("a", "g")).name == "g"


async def test_ensure_consumer_of_someone_else_is_taken_or_refused(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    record = await here.stations.add("a")
    await here.js.add_consumer("a", durable_name="tuned", name="tuned", ack_wait=5)
    await here.stations.ensure_consumer(record, "tuned")
    assert (await here.js.consumer_info("a", "tuned")).config.ack_wait == 5
    await here.js.add_consumer("a", durable_name="push", name="push", deliver_subject="x")
    await here.js.add_consumer("a", durable_name="none", name="none", ack_policy=api.AckPolicy.NONE)
    for durable in ("push", "none"):
        with pytest.raises(ClientFault, match="is no pull consumer with explicit ack"):
            await here.stations.ensure_consumer(record, durable)


async def test_ensure_consumer_made_between_question_and_order_is_taken(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    record = await here.stations.add("a")
    request = here.store.nc.request

    async def late(subject: str, *arguments: Any, **fields: Any) -> Any:
        if subject.startswith("$JS.API.CONSUMER.CREATE."):
            await there.js.add_consumer("a", durable_name="g", name="g", ack_wait=5)
        return await request(subject, *arguments, **fields)

    monkeypatch.setattr(here.store.nc, "request", late)
    await here.stations.ensure_consumer(record, "g")
    assert (await there.js.consumer_info("a", "g")).config.ack_wait == 5


async def test_ensure_consumer_that_cannot_be_told(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = pair
    record = await here.stations.add("a")
    for durable in ("", "a b", "a.b", "a>", "a*", "a/b", "a\r", "g" * 201):
        with pytest.raises(ClientFault, match="the consumer group"):
            await here.stations.ensure_consumer(record, durable)
    await here.js.delete_stream("a")
    with pytest.raises(ClientFault, match="the stream a is gone") as raised:
        await here.stations.ensure_consumer(record, "g")
    assert raised.value.kind.word == "station-unknown"
    monkeypatch.setattr(consumers, "CREATIONS_MAX", 0)
    with pytest.raises(UpstreamFault, match="consumers are being created"):
        await here.stations.ensure_consumer(record, "h")


async def test_ensure_consumer_more_groups_than_allowed_told(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(station_config, "CONSUMERS_MAX", 1)
    monkeypatch.setattr(consumers, "REMEMBERED_MAX", 1)
    here, _ = pair
    record = await here.stations.add("a")
    await here.stations.ensure_consumer(record, "g")
    with pytest.raises(UpstreamFault, match="maximum consumers limit reached"):
        await here.stations.ensure_consumer(record, "h")
    other = await here.stations.add("b")
    await here.stations.ensure_consumer(other, "g")
    assert list(here.stations._consumers._known) == [("b", "g")]
