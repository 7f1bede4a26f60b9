"""Stations with `ack = "fsync"`, on real brokers of every kind that can or cannot keep it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.aio.client import ServerVersion
from nats.js import api

from fastgw.config_types import NatsConfig
from fastgw.control.stations import StationRecord, Stations
from fastgw.control.store import Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import control, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """The control plane on a broker that syncs before each answer."""
    folder = tmp_path / "broker"
    options = {"jetstream": {"store_dir": str(folder), "sync_interval": "always"}}
    with running(folder, options) as broker:
        async with control(broker.config()) as client:
            opened = await Store.open(client, 1)
            yield opened
            await opened.close()


@pytest.fixture
async def stations(store: Store) -> Stations:
    return await start(store)


async def start(store: Store, sync_interval: str | None = None) -> Stations:
    found = Stations(store, store.js, NatsConfig(), None, sync_interval)
    await found.start()
    return found


async def is_atomic(stations: Stations, stream: str) -> bool:
    config = (await stations._streams._ask(f"STREAM.INFO.{stream}", {}))["config"]
    return bool(config.get("allow_atomic"))


def test_record_of_an_older_gateway_means_stored() -> None:
    old = b'{"name":"a","stream":"a","subject":"a"}'
    assert msgspec.json.decode(old, type=StationRecord).ack == "stored"


async def test_add_fsync_makes_an_atomic_stream(stations: Stations) -> None:
    record = await stations.add("a", ack="fsync")
    assert (record.ack, record.owned) == ("fsync", True)
    assert await is_atomic(stations, "a")
    info = await stations.info("a")
    assert (info.record.ack, info.storage) == ("fsync", "file")
    plain = await stations.add("b")
    assert plain.ack == "stored"
    assert not await is_atomic(stations, "b")


async def test_change_to_fsync_and_back_of_an_owned_stream(stations: Stations) -> None:
    await stations.add("a")
    changed = await stations.change("a", ack="fsync", max_messages=5)
    assert changed.ack == "fsync"
    assert await is_atomic(stations, "a")
    assert (await stations.info("a")).max_messages == 5
    assert await stations.change("a", ack="fsync") == changed
    assert (await stations.change("a", headers="none")).ack == "fsync", "what is not named stays"
    assert (await stations.change("a", ack="stored")).ack == "stored"
    # Another gateway may send a batch until it sees the change.
    assert await is_atomic(stations, "a")


async def test_add_fsync_takes_a_stream_that_it_left(stations: Stations) -> None:
    await stations.add("a")
    await stations.remove("a", keep_stream=True)
    record = await stations.add("a", ack="fsync")
    assert (record.ack, record.owned) == ("fsync", True)
    assert await is_atomic(stations, "a")


@pytest.mark.parametrize("adopts", [False, True])
async def test_fsync_on_the_stream_of_others_needs_allow_atomic(
    stations: Stations, store: Store, adopts: bool
) -> None:
    await store.js.add_stream(name="old", subjects=["old", "old.>"])
    text = "the stream old was there before the station and has no allow_atomic"
    doing = (
        stations.adopt("old", "old", ack="fsync") if adopts else stations.add("old", ack="fsync")
    )
    with pytest.raises(ClientFault, match=text) as raised:
        await doing
    assert raised.value.kind.status == 409
    assert stations.find("old") is None
    await stations.adopt("old", "old")
    with pytest.raises(ClientFault, match="set allow_atomic on it first"):
        await stations.change("old", ack="fsync")
    assert not await is_atomic(stations, "old"), "theirs is never changed"
    await store.js.update_stream(name="old", subjects=["old", "old.>"], allow_atomic=True)
    record = await stations.change("old", ack="fsync")
    assert (record.ack, record.owned) == ("fsync", False)


async def test_adopt_atomic_stream_with_fsync(stations: Stations, store: Store) -> None:
    await store.js.add_stream(name="old", subjects=["in.>"], allow_atomic=True)
    assert (await stations.adopt("a", "old", "in.web", ack="fsync")).ack == "fsync"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"storage": api.StorageType.MEMORY, "allow_atomic": True}, "old has memory storage"),
        ({"persist_mode": api.PersistMode.ASYNC}, "old has persist_mode async"),
    ],
)
async def test_fsync_on_a_stream_that_is_never_synced_refused(
    stations: Stations, store: Store, fields: dict[str, Any], message: str
) -> None:
    await store.js.add_stream(name="old", subjects=["in.>"], **fields)
    with pytest.raises(ClientFault, match=f"ack fsync cannot be kept: the stream {message}") as one:
        await stations.adopt("a", "old", "in.web", ack="fsync")
    assert one.value.kind.word == "bad-station"
    await stations.adopt("a", "old", "in.web")
    with pytest.raises(ClientFault, match=message):
        await stations.change("a", ack="fsync")
    assert (await stations.info("a")).record.ack == "stored"


async def test_fsync_in_memory_refused(stations: Stations, store: Store) -> None:
    with pytest.raises(ClientFault, match="ack fsync goes with file storage") as raised:
        await stations.add("a", ack="fsync", storage="memory")
    assert raised.value.kind.status == 400
    await stations.add("a", storage="memory")
    with pytest.raises(ClientFault, match="the stream a has memory storage"):
        await stations.change("a", ack="fsync")
    await stations.add("b", ack="fsync")
    with pytest.raises(UpstreamFault, match="can not change storage type"):
        await stations.change("b", storage="memory")
    wrong: Any = "disk"
    with pytest.raises(ClientFault, match="ack is stored or fsync; got disk"):
        await stations.add("c", ack=wrong)


async def test_fsync_on_an_embedded_broker_that_answers_first_refused(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    late = await start(store, "100ms")
    await late.add("a")
    text = r'the embedded broker syncs up to 100ms after .* set nats\.sync_interval = "always"'
    for doing in (
        late.add("b", ack="fsync"),
        late.adopt("b", "b", ack="fsync"),
        late.change("a", ack="fsync"),
    ):
        with pytest.raises(ClientFault, match=text) as raised:
            await doing
        assert raised.value.kind.status == 409
    assert [record.ack for record in late.list()] == ["stored"]
    assert not await is_atomic(late, "a")
    always = await start(store, "always")
    assert (await always.change("a", ack="fsync")).ack == "fsync"
    assert not caplog.records
    # The setting may have been taken back since then.
    await start(store, "1s")
    assert [(one.levelno, one.getMessage().partition(";")[0]) for one in caplog.records] == [
        (
            logging.ERROR,
            "station a: its ack fsync is not kept: "
            "the embedded broker syncs up to 1s after it answered",
        )
    ]


async def test_fsync_on_an_older_broker_refused_before_anything_is_made(
    stations: Stations, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stations.add("a")
    old = ServerVersion("2.11.9")
    monkeypatch.setattr(type(store.nc), "connected_server_version", old)
    for doing in (stations.add("b", ack="fsync"), stations.change("a", ack="fsync")):
        with pytest.raises(UpstreamFault, match=r"nats-server 2\.12 or newer; nats-server 2\.11"):
            await doing
    assert [record.name for record in stations.list()] == ["a"]
    assert (await store.js.account_info()).streams == 2, "the records' and a's"


@pytest.mark.parametrize("version", ["2.12.0", "main", "0.0.0-unknown"])
async def test_fsync_that_the_stream_did_not_take_is_noticed(
    stations: Stations, store: Store, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A newer server at the door of a cluster may stand before an older one with the stream."""
    await stations.add("a")
    ask = stations._streams._ask

    async def drop(what: str, order: dict[str, Any]) -> dict[str, Any]:
        order.pop("allow_atomic", None)
        return await ask(what, order)

    monkeypatch.setattr(stations._streams, "_ask", drop)
    # A version that says nothing, of a build of one's own or of no connection, refuses nothing.
    monkeypatch.setattr(type(store.nc), "connected_server_version", ServerVersion(version))
    with pytest.raises(UpstreamFault, match="the stream's server does not know allow_atomic"):
        await stations.change("a", ack="fsync")
    assert (await stations.info("a")).record.ack == "stored"
