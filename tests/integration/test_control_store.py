"""The key-value store against a real broker: writes, races, watches, and a broker that dies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest

from fastgw.control import watch as watch_module
from fastgw.control.mirror import Mirror
from fastgw.control.store import STREAM, Conflict, Exists, Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import (
    CHANGE_S_MAX,
    Broker,
    broker,
    control,
    eventually,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker"]


class Seen:
    """What a watch delivered, and the state that follows from it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes | None]] = []
        self.state: dict[str, bytes] = {}

    def __call__(self, key: str, value: bytes | None, _revision: int) -> None:
        self.calls.append((key, value))
        if value is None:
            del self.state[key]
        else:
            self.state[key] = value


@pytest.fixture
async def store(broker: Broker) -> AsyncIterator[Store]:
    async with control(broker.config()) as client:
        one = await Store.open(client, 1)
        yield one
        await one.close()


@pytest.fixture
async def other(broker: Broker) -> AsyncIterator[Store]:
    """The store of another gateway."""
    async with control(broker.config()) as client:
        one = await Store.open(client, 1)
        yield one
        await one.close()


async def test_put_get_delete_round_trip(store: Store) -> None:
    assert await store.get("users.a") is None
    first = await store.put("users.a", b"1")
    assert await store.get("users.a") == (b"1", first)
    second = await store.put("users.a", b"")
    assert await store.get("users.a") == (b"", second)
    assert second > first
    await store.delete("users.a")
    assert await store.get("users.a") is None


async def test_create_key_that_is_there_refused(store: Store) -> None:
    await store.create("k", b"1")
    with pytest.raises(Exists):
        await store.create("k", b"2")
    await store.delete("k")
    await store.create("k", b"3")
    found = await store.get("k")
    assert found is not None and found[0] == b"3"


async def test_create_from_many_at_once_one_wins(store: Store, other: Store) -> None:
    for attempt in range(5):
        key = f"secrets.{attempt}"
        if attempt % 2:
            await store.put(key, b"old")
            await store.delete(key)
        tries = [who.create(key, who_name) for who, who_name in ((store, b"a"), (other, b"b"))]
        results = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, Exists) for result in results) == 1


async def test_update_of_an_older_revision_refused(store: Store, other: Store) -> None:
    revision = await store.put("k", b"1")
    await other.put("k", b"2")
    with pytest.raises(Conflict):
        await store.update("k", b"3", revision)
    with pytest.raises(Conflict):
        await store.delete("k", revision)
    found = await store.get("k")
    assert found is not None
    assert await store.update("k", b"3", found[1]) > found[1]


async def test_keys_lists_the_living_under_a_prefix(store: Store) -> None:
    assert await store.keys("users.") == []
    for key in ("users.b", "users.a", "users.gone", "stations.a"):
        await store.put(key, b"x")
    await store.delete("users.gone")
    assert await store.keys("users.") == ["users.a", "users.b"]
    assert await store.keys("") == ["stations.a", "users.a", "users.b"]


async def test_open_twice_at_once_same_bucket(broker: Broker) -> None:
    async with control(broker.config()) as one, control(broker.config()) as two:
        stores = await asyncio.gather(Store.open(one, 1), Store.open(two, 1))
        await stores[0].put("k", b"1")
        assert await stores[1].get("k") is not None
        config = (await stores[0].js.stream_info(STREAM)).config
        assert (config.max_msgs_per_subject, config.allow_direct) == (1, True)


async def test_open_bucket_with_other_settings_is_taken(broker: Broker) -> None:
    async with control(broker.config()) as client:
        js = client.jetstream()
        await js.add_stream(name=STREAM, subjects=["$KV.fastgw.>"], max_msgs_per_subject=5)
        store = Store(client, 1)
        info = await store._create_bucket()
        assert info.config.max_msgs_per_subject == 5
        await Store.open(client, 1)


async def test_open_stream_that_is_no_bucket_refused(broker: Broker) -> None:
    async with control(broker.config()) as client:
        await client.jetstream().add_stream(name=STREAM, subjects=["other"])
        with pytest.raises(UpstreamFault, match="KV_fastgw is no key-value bucket"):
            await Store.open(client, 1)


async def test_open_more_replicas_than_servers_told(broker: Broker) -> None:
    async with control(broker.config()) as client:
        with pytest.raises(UpstreamFault, match="replicas > 1 not supported"):
            await Store.open(client, 3)


async def test_write_value_too_large_told(store: Store) -> None:
    with pytest.raises(UpstreamFault, match="message size exceeds maximum allowed"):
        await store.put("k", b"x" * 600_000)
    with pytest.raises(ClientFault, match="too large"):
        await store.put("k", b"x" * 2_000_000)


async def test_write_broker_away_refused_at_once_and_never_sent(
    broker: Broker, store: Store
) -> None:
    broker.kill()
    await eventually(lambda: not store.nc.is_connected)
    for call in (store.put("k", b"1"), store.get("k"), store.keys("")):
        with pytest.raises(UpstreamFault, match="the broker is away") as raised:
            await call
        assert raised.value.kind.word == "broker-away"
    broker.start()
    await eventually(lambda: store.nc.is_connected)
    assert await store.get("k") is None


async def test_read_jetstream_silent_told(
    broker: Broker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.js, "_timeout", 0.1)
    await store.js.delete_stream(STREAM)
    with pytest.raises(UpstreamFault, match="cannot read k: stream not found"):
        await store.get("k")
    with pytest.raises(UpstreamFault, match="JetStream does not answer now"):
        await store.put("k", b"x")


async def test_watch_delivers_the_present_then_changes(store: Store, other: Store) -> None:
    await store.put("users.a", b"1")
    await store.put("users.gone", b"1")
    await store.delete("users.gone")
    await store.put("stations.a", b"1")
    seen = Seen()
    await store.watch("users.", seen)
    assert seen.calls == [("users.a", b"1")]
    await other.put("users.b", b"2")
    assert await eventually(lambda: len(seen.calls) == 2) < CHANGE_S_MAX
    await other.delete("users.a")
    await eventually(lambda: len(seen.calls) == 3)
    assert seen.calls[1:] == [("users.b", b"2"), ("users.a", None)]


async def test_watch_empty_bucket_returns_at_once(store: Store) -> None:
    seen = Seen()
    async with asyncio.timeout(CHANGE_S_MAX):
        await store.watch("users.", seen)
    assert seen.calls == []


async def test_watch_thousands_of_keys_delivers_each_once(store: Store) -> None:
    await asyncio.gather(*(store.put(f"users.{i}", b"x") for i in range(3000)))
    seen = Seen()
    await store.watch("users.", seen)
    assert len(seen.calls) == len(seen.state) == 3000


async def test_watch_survives_kill_and_restart(broker: Broker, store: Store, other: Store) -> None:
    for key in ("users.stays", "users.changes", "users.goes"):
        await store.put(key, b"1")
    seen = Seen()
    await store.watch("users.", seen)
    # A second death must be survived just as the first.
    for value in (b"2", b"3"):
        seen.calls.clear()
        broker.kill()
        await eventually(lambda: not store.nc.is_connected)
        broker.start()
        await eventually(lambda: other.nc.is_connected)
        await other.put("users.changes", value)
        await other.delete("users.goes")
        await eventually(
            lambda value=value: seen.state == {"users.stays": b"1", "users.changes": value}
        )
        assert ("users.stays", b"1") not in seen.calls, "what is known is not told again"
        await other.put("users.goes", b"back")
        assert await eventually(lambda: "users.goes" in seen.state) < CHANGE_S_MAX


async def test_watch_change_while_disconnected_is_told_after(
    broker: Broker, store: Store, other: Store
) -> None:
    await store.put("users.a", b"1")
    await store.put("users.b", b"1")
    seen = Seen()
    await store.watch("users.", seen)
    store.nc._transport._io_writer.transport.abort()
    await other.delete("users.a")
    await other.put("users.b", b"2")
    await other.put("users.c", b"1")
    await eventually(lambda: seen.state == {"users.b": b"2", "users.c": b"1"})


async def test_watch_consumer_lost_is_made_again(store: Store, other: Store) -> None:
    seen = Seen()
    await store.watch("users.", seen)
    for consumer in await store.js.consumers_info(STREAM):
        await store.js.delete_consumer(STREAM, consumer.name)
    await other.put("users.a", b"1")
    took_s = await eventually(lambda: seen.state == {"users.a": b"1"})
    assert took_s < watch_module.SILENCE_S_MAX + CHANGE_S_MAX


async def test_watch_keys_purged_from_the_stream_are_told_as_removed(store: Store) -> None:
    await store.put("users.a", b"1")
    await store.put("users.b", b"1")
    seen = Seen()
    await store.watch("users.", seen)
    await store.js.purge_stream(STREAM, subject="$KV.fastgw.users.a")
    store._watches[0]._on_reconnect()
    await eventually(lambda: seen.state == {"users.b": b"1"})


async def test_watch_bucket_deleted_and_made_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put("users.a", b"1")
    seen = Seen()
    await store.watch("users.", seen)
    await store.js.delete_stream(STREAM)
    await eventually(lambda: "watching users.* is interrupted" in caplog.text)
    assert seen.state == {"users.a": b"1"}, "the last known state stays in force"
    again = await Store.open(store.nc, 1)
    await again.put("users.b", b"1")
    await eventually(lambda: seen.state == {"users.b": b"1"})


async def test_watch_gap_in_deliveries_reads_anew(store: Store) -> None:
    seen = Seen()
    await store.watch("users.", seen)
    reader = store._watches[0]._reader
    assert reader is not None
    reader.delivered += 1
    await store.put("users.a", b"1")
    await eventually(lambda: seen.state == {"users.a": b"1"})
    assert store._watches[0]._reader is not reader


async def test_watch_callback_that_raises_is_logged_and_read_again(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RETRY_S", 0.01)
    seen = Seen()
    await store.watch("users.", seen)
    one = store._watches[0]
    failures = [RuntimeError("defect")]
    read_anew = one._read_anew

    async def failing() -> None:
        if failures:
            raise failures.pop()
        await read_anew()

    monkeypatch.setattr(one, "_read_anew", failing)
    one._on_reconnect()
    await eventually(lambda: "defect in a watch" in caplog.text)
    await store.put("users.a", b"1")
    await eventually(lambda: seen.state == {"users.a": b"1"})


async def test_watch_first_reading_fails_nothing_runs(store: Store) -> None:
    await store.js.delete_stream(STREAM)
    with pytest.raises(UpstreamFault, match=r"cannot watch users.: stream not found"):
        await store.watch("users.", Seen())
    assert store._watches == []
    assert store.nc.on_reconnect == []


class Record(msgspec.Struct, frozen=True):
    number: int


async def test_mirror_modify_collides_again_and_again_all_count(store: Store, other: Store) -> None:
    one, two = Mirror(store, "r.", Record), Mirror(other, "r.", Record)
    await one.start()
    await one.start()
    await two.start()
    await one.create("x.y", Record(0))
    assert one.records["x.y"].number == 0, "a writer reads what it wrote"

    def more(record: Record) -> Record:
        return Record(record.number + 1)

    await asyncio.gather(*(mirror.modify("x.y", more) for mirror in (one, two) for _ in range(4)))
    assert (await one.read("x.y") or (None, 0))[0] == Record(8)
    await eventually(lambda: one.records == two.records == {"x.y": Record(8)})
    assert await two.remove("x.y")
    assert two.records == {}
    assert not await two.remove("x.y")
    assert await two.modify("x.y", more) is None


async def test_mirror_modify_never_first_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(store, "r.", Record)
    await mirror.create("x", Record(0))

    async def conflict(*_: object) -> int:
        raise Conflict

    monkeypatch.setattr(store, "update", conflict)
    with pytest.raises(UpstreamFault, match="8 other changes of x came first"):
        await mirror.modify("x", lambda _: Record(9))


async def test_mirror_damaged_record_does_not_count(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(store, "r.", Record)
    await mirror.start()
    told: list[tuple[str, Record | None]] = []
    mirror.on_change(lambda name, record: told.append((name, record)))
    await mirror.create("x", Record(1))
    await store.put("r.x", b"{damaged")
    await eventually(lambda: len(told) == 2)
    assert told == [("x", Record(1)), ("x", None)]
    assert mirror.records == {}
    assert "is damaged and does not count" in caplog.text
    with pytest.raises(UpstreamFault, match=r"the record r\.x is damaged"):
        await mirror.read("x")
    await store.put("r.not=name", b"{}")
    await eventually(lambda: "encodes no name" in caplog.text)
