"""API keys against a real broker, as two gateways and two processes see them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fastgw.control.keys import KeyRecord, Keys
from fastgw.control.store import Store
from fastgw.errors import ClientFault, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker"]

PROCESS_S_MAX = 30

ADD = """
import asyncio, json, sys
from fastgw.config_types import NatsConfig
from fastgw.control.keys import Keys
from fastgw.control.store import Store
from fastgw.nats.connection import open_control

async def main() -> None:
    client = await open_control(NatsConfig(url=[sys.argv[1]]))
    store = await Store.open(client, 1)
    record, text = await Keys(store).add("from elsewhere", ["produce"], ["o*"])
    print(json.dumps({"text": text, "hash": record.hash}))
    await store.close()
    await client.close()

asyncio.run(main())
"""


class Gateway:
    """The keys of one gateway, and the changes that it heard of."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.keys = Keys(store)
        self.changes: list[str] = []
        self.keys.on_change(self.changes.append)


@pytest.fixture
async def pair(broker: Broker) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with control(broker.config()) as one, control(broker.config()) as two:
        gateways = (Gateway(await Store.open(one, 1)), Gateway(await Store.open(two, 1)))
        for gateway in gateways:
            await gateway.keys.start()
        yield gateways
        for gateway in gateways:
            await gateway.store.close()


async def test_add_key_is_known_here_at_once_and_elsewhere_soon(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    record, text = await here.keys.add(
        "shop/1", ["produce"], ["o*"], ["https://shop.example"], expires_at=4e9
    )
    assert here.keys.find_by_text(text) == record
    assert await eventually(lambda: there.keys.find_by_text(text) == record) < CHANGE_S_MAX
    assert there.keys.find("shop/1") == record
    assert there.changes == here.changes == ["shop/1"]
    values = await here.store.read_all("")
    assert all(text.encode() not in value for value in values.values())


async def test_add_in_another_process_is_found_here(
    broker: Broker, pair: tuple[Gateway, Gateway]
) -> None:
    here, _ = pair
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ADD, broker.url, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(PROCESS_S_MAX):
        output, _ = await child.communicate()
    assert child.returncode == 0
    made: dict[str, Any] = json.loads(output)
    await eventually(lambda: here.keys.find("from elsewhere") is not None)
    found = here.keys.find_by_text(made["text"])
    assert found is not None and found.hash == made["hash"]
    assert (found.permissions, found.stations) == (["produce"], ["o*"])


async def test_disable_enable_and_remove_key_take_effect_everywhere(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    record, text = await here.keys.add("shop", ["produce"])
    await eventually(lambda: there.keys.find_by_text(text) == record)
    disabled = await there.keys.set_disabled("shop", True)
    assert disabled.disabled
    assert there.keys.find_by_text(text) is None
    assert await eventually(lambda: here.keys.find_by_text(text) is None) < CHANGE_S_MAX
    assert await here.keys.set_disabled("shop", False) == record
    assert here.keys.find_by_text(text) == record
    assert await eventually(lambda: there.keys.find_by_text(text) == record) < CHANGE_S_MAX
    await here.keys.remove("shop")
    assert here.keys.find_by_text(text) is None
    assert await eventually(lambda: there.keys.find_by_text(text) is None) < CHANGE_S_MAX
    assert there.keys.records == {}
    assert there.changes == ["shop"] * 4


async def test_removed_key_s_text_stays_refused_when_the_name_returns(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    _, text = await here.keys.add("shop", ["produce"])
    await here.keys.remove("shop")
    again, other = await here.keys.add("shop", ["produce"])
    await eventually(lambda: there.keys.find_by_text(other) == again)
    for gateway in pair:
        assert gateway.keys.find_by_text(text) is None


async def test_add_one_name_from_two_gateways_at_once_one_wins(
    pair: tuple[Gateway, Gateway],
) -> None:
    results = await asyncio.gather(
        *(gateway.keys.add("shop", ["produce"]) for gateway in pair), return_exceptions=True
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert [fault.text for fault in faults] == ["the key shop exists already"]
    ((record, text),) = [result for result in results if not isinstance(result, BaseException)]
    for gateway in pair:
        await eventually(lambda keys=gateway.keys: keys.find_by_text(text) == record)  # type: ignore[misc]


async def test_unknown_key_told(pair: tuple[Gateway, Gateway]) -> None:
    for change in (pair[0].keys.set_disabled("shop", True), pair[0].keys.remove("shop")):
        with pytest.raises(ClientFault, match="there is no key shop") as raised:
            await change
        assert raised.value.kind.status == 404


async def test_restart_of_the_broker_keeps_keys_and_the_watch(
    broker: Broker, pair: tuple[Gateway, Gateway]
) -> None:
    here, there = pair
    record, text = await here.keys.add("shop", ["produce"])
    await eventually(lambda: there.keys.find_by_text(text) == record)
    broker.kill()
    assert there.keys.find_by_text(text) == record, "who has a key goes on without the broker"
    await eventually(lambda: not here.store.nc.is_connected)
    with pytest.raises(UpstreamFault, match="the broker is away"):
        await here.keys.add("other", ["produce"])
    broker.start()
    await eventually(lambda: here.store.nc.is_connected and there.store.nc.is_connected)
    removed = False
    while not removed:
        try:
            await here.keys.remove("shop")
            removed = True
        except UpstreamFault:
            await eventually(lambda: here.store.nc.is_connected)
        except ClientFault:
            removed = True
    await eventually(lambda: there.keys.find_by_text(text) is None)


async def test_start_reads_what_is_there(pair: tuple[Gateway, Gateway], broker: Broker) -> None:
    here, _ = pair
    made: list[tuple[KeyRecord, str]] = [
        await here.keys.add(f"k{number}", ["produce"]) for number in range(20)
    ]
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        late = Keys(store)
        await late.start()
        assert all(late.find_by_text(text) == record for record, text in made)
        await store.close()
