"""Dead letters on a real broker: what they hold, and that sending them again loses none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastgw.control import dead_letters
from fastgw.control.dead_letters import DeadLetter, DeadLetters, build_block, build_headers
from fastgw.control.schemas import Schemas
from fastgw.control.stations import StationRecord, Stations
from fastgw.control.store import Store
from fastgw.control.verdicts import Verdicts
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import Broker, broker, control
from tests.integration.schema_fakes import Compiler, Required, compiler, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from fastgw.nats.client import ControlClient

__all__ = ["broker", "compiler"]


class Scene:
    """A station `a` with a schema, whose dead letters go to `dls`."""

    def __init__(self, client: ControlClient, store: Store, broker: Broker) -> None:
        self.client = client
        self.js: JetStreamContext = store.js
        self.schemas = Schemas(store)
        self.stations = Stations(store, store.js, broker.config(), self.schemas)
        self.station: StationRecord
        self.place: StationRecord
        self.letters: DeadLetters

    async def prepare(self) -> None:
        await self.schemas.start()
        await self.stations.start()
        await self.schemas.create("s", "json", schema("a"))
        self.place = await self.stations.add("dls")
        self.station = await self.stations.add("a", schema="s", dead_letter="dls")
        self.letters = DeadLetters(self.client, self.place, self.station)

    async def refuse(self, payload: bytes, original: bytes = b"", **fields: Any) -> None:
        """Store a dead letter as the gateway does."""
        headers = build_headers(
            self.station, "missing properties: a", user="ada", client="192.0.2.1", **fields
        )
        block = build_block(headers, original)
        await self.letters._request_block(self.place.subject, block, payload)

    async def read(self, letters: DeadLetters | None = None) -> list[DeadLetter]:
        return [one async for _, one in (letters or self.letters).read() if one is not None]


@pytest.fixture
async def scene(broker: Broker, compiler: Compiler) -> AsyncIterator[Scene]:
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        one = Scene(client, store, broker)
        await one.prepare()
        yield one
        one.schemas.close()
        await store.close()


def test_headers_are_one_safe_line_each() -> None:
    record = StationRecord(name="a", stream="a", subject="a.x", schema="s", schema_version=3)
    found = build_headers(
        record,
        "bad\r\nNats-Rollup: all\x00" + "x" * 600,
        user="a\nb\u2028c",
        client="::1",
        subject="a.x",
        message_id="\ud800id",
    )
    values = dict(found)
    assert values[b"Fastgw-Dead-Letter-Reason"].startswith(b"bad Nats-Rollup: all x")
    assert len(values[b"Fastgw-Dead-Letter-Reason"].decode()) == dead_letters.VALUE_CHARS_MAX
    assert values[b"Fastgw-Dead-Letter-User"] == b"a b c"
    assert values[b"Fastgw-Dead-Letter-Schema-Version"] == b"3"
    assert values[b"Fastgw-Dead-Letter-Message-Id"] == b"?id"
    assert b"Fastgw-Dead-Letter-Subject" not in values, "the station's own is no news"
    assert not any(b"\r" in value or b"\n" in value or b"\0" in value for _, value in found)


def test_block_holds_no_header_of_the_client_that_acts() -> None:
    original = (
        b"NATS/1.0\r\nX-One: 1\r\nx-one: 2\r\nNats-Msg-Id: i\r\nnats-rollup: all\r\n"
        b"Fastgw-Dead-Letter-User: root\r\nfastgw-dead-letter-STATION: b\r\nX-Raw: \xff\r\n\r\n"
    )
    block = build_block([(b"Fastgw-Dead-Letter-User", b"ada")], original)
    assert block == (
        b"NATS/1.0\r\nFastgw-Dead-Letter-User: ada\r\nX-One: 1\r\nx-one: 2\r\nX-Raw: \xff\r\n\r\n"
    )
    assert build_block([], b"") == b"NATS/1.0\r\n\r\n"


async def test_read_tells_what_was_refused(scene: Scene) -> None:
    await scene.refuse(b"\xff\x00{}", b"X-One: 1\r\nX-One: 2\r\n", subject="a.b", message_id="id1")
    await scene.js.publish("dls", b"no dead letter")
    (letter,) = await scene.read()
    assert (letter.seq, letter.station, letter.schema, letter.schema_version) == (1, "a", "s", "1")
    assert (letter.reason, letter.user) == ("missing properties: a", "ada")
    assert (letter.client, letter.subject, letter.message_id) == ("192.0.2.1", "a.b", "id1")
    assert letter.headers == [(b"X-One", b"1"), (b"X-One", b"2")]
    assert letter.payload == b"\xff\x00{}"
    other = msg_of_another_station(scene)
    assert await scene.read(other) == []
    assert await scene.read(DeadLetters(scene.client, scene.place, None)) == [letter]


def msg_of_another_station(scene: Scene) -> DeadLetters:
    return DeadLetters(
        scene.client, scene.place, StationRecord(name="other", stream="other", subject="other")
    )


async def test_resend_stores_the_message_then_deletes_the_letter(scene: Scene) -> None:
    original = b"X-One: 1\r\nX-One: \xc3\xa9\r\n"
    await scene.refuse(b'{"b":1}', original, subject="a.deep", message_id="id1")
    await scene.refuse(b"{}", subject="elsewhere")
    await scene.refuse(b'{"b":2}', subject="a.*")
    verdicts = Verdicts(Required(["b"]))
    first, second, third = await scene.read()
    assert await scene.letters.resend(first, verdicts) is None
    assert await scene.letters.resend(second, verdicts) == "missing properties: b"
    with pytest.raises(ClientFault, match="has a wildcard"):
        await scene.letters.resend(third, verdicts)
    assert await scene.letters.resend(second, None) is None
    stored = [await scene.js.get_msg("a", seq) for seq in (1, 2)]
    assert [(one.subject, one.data) for one in stored] == [("a.deep", b'{"b":1}'), ("a", b"{}")]
    assert not any("Dead-Letter" in name for one in stored for name in one.headers or {})
    assert await scene.read() == [third]
    await scene.letters._delete(first.seq)


async def test_resend_messages_of_one_batch_share_an_id_and_all_are_stored(scene: Scene) -> None:
    for payload in (b"1", b"2"):
        await scene.refuse(payload, message_id="batch")
    for letter in await scene.read():
        assert await scene.letters.resend(letter, None) is None
    assert [(await scene.js.get_msg("a", seq)).data for seq in (1, 2)] == [b"1", b"2"]
    assert await scene.read() == []


async def test_resend_judges_by_the_content_type_it_was_sent_with(scene: Scene) -> None:
    await scene.refuse(b"{}", b"Content-Type: text/plain\r\n")
    await scene.refuse(b"{}", b"Content-Type: text/plain\r\n", content_type=b"avro/binary")
    plain, avro = await scene.read()
    assert (plain.content_type, avro.content_type) == (b"text/plain", b"avro/binary")
    verdicts = Verdicts(Required([]))
    assert await scene.letters.resend(avro, verdicts) == "avro on a json station"
    assert await scene.letters.resend(plain, verdicts) is None


async def test_resend_not_stored_keeps_the_letter(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.refuse(b"{}")
    (letter,) = await scene.read()
    await scene.js.update_stream(name="a", subjects=["a", "a.>"], max_msg_size=1)
    with pytest.raises(UpstreamFault, match="cannot publish dead letter 1: message size exceeds"):
        await scene.letters.resend(letter, None)
    await scene.js.delete_stream("a")
    with pytest.raises(UpstreamFault, match="no stream captures a now"):
        await scene.letters.resend(letter, None)
    assert await scene.read() == [letter]
    with pytest.raises(ClientFault, match="to its own station only"):
        await msg_of_another_station(scene).resend(letter, None)


async def test_resend_interrupted_behind_the_publish_stores_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.refuse(b"{}")
    (letter,) = await scene.read()

    async def lost(sequence: int) -> None:
        raise UpstreamFault("broker-away", "gone")

    with monkeypatch.context() as patch:
        patch.setattr(scene.letters, "_delete", lost)
        with pytest.raises(UpstreamFault):
            await scene.letters.resend(letter, None)
    assert await scene.read() == [letter]
    assert await scene.letters.resend(letter, None) is None
    assert (await scene.js.stream_info("a")).state.messages == 1
    assert await scene.read() == []


async def test_read_what_the_broker_refuses_is_told(scene: Scene) -> None:
    await scene.js.delete_stream("dls")
    with pytest.raises(UpstreamFault, match="cannot read the dead letters in dls: stream not fou"):
        await scene.read()
