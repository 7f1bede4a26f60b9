"""What an administrator can set of a station, against a real broker and as two gateways see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.js import api

from fastgw.control.schemas import Schemas
from fastgw.control.station_config import is_covered
from fastgw.control.stations import StationRecord, Stations
from fastgw.control.store import Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually
from tests.integration.schema_fakes import Compiler, compiler, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

__all__ = ["broker", "compiler"]


class Gateway:
    def __init__(self, store: Store, broker: Broker) -> None:
        self.store = store
        self.js: JetStreamContext = store.js
        self.schemas = Schemas(store)
        self.stations = Stations(store, store.js, broker.config(), self.schemas)
        self.changes: list[StationRecord | None] = []
        self.stations.on_change(lambda _, record: self.changes.append(record))


@pytest.fixture
async def pair(broker: Broker, compiler: Compiler) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with control(broker.config()) as one, control(broker.config()) as two:
        gateways = (
            Gateway(await Store.open(one, 1), broker),
            Gateway(await Store.open(two, 1), broker),
        )
        for gateway in gateways:
            await gateway.schemas.start()
            await gateway.stations.start()
        yield gateways
        for gateway in gateways:
            gateway.schemas.close()
            await gateway.store.close()


def test_record_of_an_older_gateway_is_read() -> None:
    old = b'{"name":"a","stream":"a","subject":"a","headers":"none","header_allow":[],"owned":true}'
    record = msgspec.json.decode(old, type=StationRecord)
    assert (record.schema, record.dead_letter, record.allow_suffix) == (None, None, True)
    assert (record.allow_no_wait, record.message_bytes_max, record.filters) == (False, None, [])


@pytest.mark.parametrize(
    ("subject", "pattern", "covered"),
    [
        ("a", "a", True),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("a.b", "a.*", True),
        ("a.>", "a.*", False),
        ("a.>", "a.>", True),
        ("a.b.>", "a.>", True),
        ("a", "a.>", False),
        ("a.b", ">", True),
        ("a.*", "a.b", False),
        ("b.a", "a.>", False),
    ],
)
def test_is_covered(subject: str, pattern: str, covered: bool) -> None:
    assert is_covered(subject, pattern) is covered


async def test_add_with_everything_makes_such_a_stream(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    await here.stations.add("dls")
    record = await here.stations.add(
        "a",
        storage="memory",
        retention="workqueue",
        replicas=1,
        max_age_s=3600,
        max_messages=10,
        max_bytes=100_000,
        duplicate_window_s=5,
        schema="s",
        dead_letter="dls",
        allow_no_wait=True,
        allow_suffix=False,
        message_bytes_max=1000,
    )
    assert (record.schema, record.schema_version, record.dead_letter) == ("s", 1, "dls")
    assert (record.allow_no_wait, record.allow_suffix) == (True, False)
    assert await eventually(lambda: there.stations.find("a") == record) < CHANGE_S_MAX
    config = (await here.js.stream_info("a")).config
    assert config.retention == api.RetentionPolicy.WORK_QUEUE
    info = await there.stations.info("a")
    assert (info.retention, info.max_messages, info.max_bytes) == ("workqueue", 10, 100_000)
    assert (info.max_age_s, info.duplicate_window_s, info.storage) == (3600, 5, "memory")


async def test_change_is_in_force_elsewhere_whole_and_soon(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema("a"))
    await here.schemas.add_version("s", schema("b"))
    first = await here.stations.add("a", headers=["X-*"], max_messages=5)
    await eventually(lambda: "a" in there.stations.records)
    there.changes.clear()
    changed = await here.stations.change(
        "a", headers="none", schema="s", allow_no_wait=True, max_messages=None, max_age_s=60
    )
    assert changed == msgspec.structs.replace(
        first, headers="none", schema="s", schema_version=2, allow_no_wait=True
    )
    assert await eventually(lambda: there.stations.find("a") == changed) < CHANGE_S_MAX
    assert there.changes == [changed], "in one step"
    info = await there.stations.info("a")
    assert (info.max_messages, info.max_age_s, info.duplicate_window_s) == (None, 60, 60)
    await here.schemas.add_version("s", schema("c"))
    assert (await here.stations.change("a", allow_suffix=False)).schema_version == 2
    assert (await here.stations.attach("a", "s")).schema_version == 3
    assert (await here.stations.attach("a", "s", 1)).schema_version == 1
    detached = await here.stations.detach("a")
    assert (detached.schema, detached.schema_version) == (None, None)


async def test_change_of_different_settings_at_once_loses_none(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    await here.stations.add("a")
    await here.stations.add("dls")
    await asyncio.gather(
        here.stations.change("a", headers="none"),
        there.stations.change("a", allow_no_wait=True),
        here.stations.change("a", message_bytes_max=7),
        there.stations.change("a", dead_letter="dls"),
    )
    record = (await here.stations.info("a")).record
    assert (record.headers, record.allow_no_wait) == ("none", True)
    assert (record.message_bytes_max, record.dead_letter) == (7, "dls")


async def test_change_keeps_what_the_broker_knows_and_we_do_not(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    await here.stations.add("a")
    config = (await here.stations._streams._ask("STREAM.INFO.a", {}))["config"]
    config |= {"allow_msg_ttl": True, "compression": "s2", "description": "mine"}
    await here.stations._streams._ask("STREAM.UPDATE.a", config)
    await here.stations.change("a", max_bytes=1 << 20)
    now = (await here.stations._streams._ask("STREAM.INFO.a", {}))["config"]
    assert (now["allow_msg_ttl"], now["compression"], now["max_bytes"]) == (True, "s2", 1 << 20)
    assert now["description"] == "mine"


async def test_change_that_cannot_be_refused_and_nothing_changes(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    record = await here.stations.add("a")
    with pytest.raises(ClientFault, match="there is no station b") as raised:
        await here.stations.change("b", headers="none")
    assert raised.value.kind.status == 404
    wrong: list[dict[str, Any]] = [
        {"schema": "nowhere"},
        {"dead_letter": "a"},
        {"dead_letter": "nowhere"},
        {"max_age_s": -1},
        {"storage": "ssd"},
        {"headers": "some"},
    ]
    for settings in wrong:
        with pytest.raises(ClientFault):
            await here.stations.change("a", **settings)
    with pytest.raises(UpstreamFault, match="can not change storage type"):
        await here.stations.change("a", storage="memory", allow_no_wait=True)
    assert (await here.stations.info("a")).record == record


async def test_adopt_stream_with_other_subjects(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    await here.js.add_stream(name="old", subjects=["in.>", "other"])
    with pytest.raises(ClientFault, match="the stream old has several subjects"):
        await here.stations.adopt("a", "old")
    record = await here.stations.adopt("a", "old", "in.web", headers="none")
    assert (record.stream, record.subject, record.owned) == ("old", "in.web", False)
    assert (record.filters, record.allow_suffix) == (["in.web", "in.web.>"], True)
    for subject in ("in.web", "in.web.x", "in.app", "other"):
        await here.js.publish(subject, subject.encode())
    await there.stations.ensure_consumer(record, "g")
    pulled = await here.js.pull_subscribe_bind("g", stream="old")
    found = [message.subject for message in await pulled.fetch(10, timeout=0.3)]
    assert found == ["in.web", "in.web.x"]
    with pytest.raises(ClientFault, match="the stream old is station a's already") as raised:
        await there.stations.adopt("b", "old", "other")
    assert raised.value.kind.status == 409
    with pytest.raises(ClientFault, match="was there before the station; max_bytes stays"):
        await here.stations.change("a", max_bytes=5)
    assert (await here.stations.change("a", allow_suffix=True)).allow_suffix
    await here.stations.remove("a")
    assert (await here.js.stream_info("old")).state.messages == 4


async def test_adopt_stream_of_one_subject_takes_no_suffix(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    await here.js.add_stream(name="one", subjects=["only"])
    record = await here.stations.adopt("a", "one")
    assert (record.subject, record.allow_suffix, record.filters) == ("only", False, [])
    with pytest.raises(ClientFault, match=r"the stream one does not capture only\.>"):
        await here.stations.change("a", allow_suffix=True)
    await here.js.add_stream(name="below", subjects=["deep.>"])
    whole = await here.stations.adopt("b", "below", "deep.er")
    assert whole.filters == ["deep.er", "deep.er.>"]


@pytest.mark.parametrize(
    ("existing", "subject", "settings", "message"),
    [
        (None, "x", {}, "there is no stream old"),
        ({"subjects": ["x"], "no_ack": True}, "x", {}, "old has no_ack"),
        ({"subjects": ["x"]}, "y", {}, "the stream old does not capture y"),
        ({"subjects": ["x"]}, "x", {"allow_suffix": True}, r"does not capture x\.>"),
        ({"subjects": ["x.>"]}, "x.*", {}, r"the subject x\.\* has a wildcard"),
        ({"subjects": ["x.>"]}, "x..y", {}, "an empty token"),
        ({"subjects": ["x"]}, "x", {"max_age_s": 5}, "max_age_s stays"),
        ({"subjects": ["x"]}, "$JS.API.x", {}, "the subject .* has a wildcard"),
    ],
)
async def test_adopt_stream_that_cannot_serve_refused(
    pair: tuple[Gateway, Gateway],
    existing: dict[str, Any] | None,
    subject: str,
    settings: Any,
    message: str,
) -> None:
    here, _ = pair
    if existing is not None:
        await here.js.add_stream(name="old", **existing)
    with pytest.raises(ClientFault, match=message):
        await here.stations.adopt("a", "old", subject, **settings)
    assert here.stations.records == {}


async def test_remove_dead_letter_station_in_use_refused(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    await here.stations.add("dls")
    await here.stations.add("a", dead_letter="dls")
    with pytest.raises(ClientFault, match="dls takes the dead letters of a") as raised:
        await here.stations.remove("dls")
    assert raised.value.kind.status == 409
    await here.stations.change("a", dead_letter=None)
    await here.stations.remove("dls")


async def test_add_with_a_schema_that_is_removed_meanwhile_leaves_no_station(
    pair: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    await here.schemas.create("s", "json", schema())
    await here.schemas.create("t", "json", schema())
    create = here.stations._mirror.create

    async def late(name: str, record: StationRecord) -> None:
        await there.schemas._mirror.remove("s")
        await create(name, record)

    monkeypatch.setattr(here.stations._mirror, "create", late)
    with pytest.raises(ClientFault, match="there is no schema s"):
        await here.stations.add("a", schema="s")
    assert here.stations.find("a") is None


async def test_attach_without_a_registry_refused(
    pair: tuple[Gateway, Gateway], broker: Broker
) -> None:
    alone = Stations(pair[0].store, pair[0].js, broker.config())
    with pytest.raises(ClientFault, match="no schema registry"):
        await alone.add("a", schema="s")
