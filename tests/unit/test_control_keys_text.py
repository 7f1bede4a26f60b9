"""API keys without a broker: what a text finds, what a record may say, and what is shown."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec
import pytest

from fastgw.control import keys as keys_module
from fastgw.control.keys import (
    EXPIRES_AT_MAX,
    KEY_CHARS,
    ORIGIN_CHARS_MAX,
    ORIGINS_MAX,
    PREFIX,
    KeyRecord,
    Keys,
)
from fastgw.control.mirror import Exists
from fastgw.control.store import Store
from fastgw.control.users import GLOB_CHARS_MAX, NAME_CHARS_MAX, STATIONS_MAX
from fastgw.errors import ClientFault

NOW = 1_700_000_000.0


class Door:
    """Keys whose store is a dict, with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.keys = Keys(Store.__new__(Store), clock=lambda: self.now)
        self.keys._mirror.create = self._create  # type: ignore[method-assign]

    async def _create(self, name: str, record: KeyRecord) -> None:
        if name in self.keys.records:
            raise Exists(name)
        self.deliver(name, record)

    def deliver(self, name: str, record: KeyRecord | None, revision: int = 1) -> None:
        value = None if record is None else msgspec.json.encode(record)
        self.keys._mirror._on_change(f"keys.{name}", value, revision)


async def test_add_text_is_random_and_only_its_hash_is_kept() -> None:
    door = Door()
    record, text = await door.keys.add("shop", ["consume", "produce"], ["o*"])
    _, other = await door.keys.add("till", ["produce"])
    assert text.startswith("fgw_")
    assert len(text) == len(other) == KEY_CHARS == 47
    assert text != other
    assert record.hash == hashlib.sha256(text.encode()).hexdigest()
    assert (record.permissions, record.stations) == (["produce", "consume"], ["o*"])
    assert (record.created_at, record.expires_at, record.disabled) == (NOW, None, False)
    assert text not in msgspec.json.encode(record).decode()
    assert record.hash not in repr(record)
    assert door.keys.find_by_text(text) == door.keys.find("shop") == record


async def test_find_by_text_one_hash_and_one_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    for number in range(50):
        _, text = await door.keys.add(f"k{number}", ["produce"])
    hashed: list[str] = []
    real = keys_module._hash

    def counting(value: str) -> str:
        hashed.append(value)
        return real(value)

    class Counted(dict[str, KeyRecord]):
        looks = 0

        def get(self, key: str, default: Any = None) -> Any:
            Counted.looks += 1
            return super().get(key, default)

        def __iter__(self) -> Any:
            raise AssertionError("nothing walks over all keys")

    monkeypatch.setattr(keys_module, "_hash", counting)
    monkeypatch.setattr(door.keys, "_by_hash", Counted(door.keys._by_hash))
    found = door.keys.find_by_text(text)
    assert found is not None and found.name == "k49"
    assert (len(hashed), Counted.looks) == (1, 1)
    for other in (text[:-1], text + "A", PREFIX + "A" * 2**20, "x" * KEY_CHARS):
        assert door.keys.find_by_text(other) is None
    assert (len(hashed), Counted.looks) == (1, 1), "what can be no key costs nothing"


@pytest.mark.parametrize(
    "text",
    [
        "",
        PREFIX,
        PREFIX + "A" * 43,
        PREFIX + "A" * 42,
        PREFIX + "A" * 44,
        "x" * KEY_CHARS,
        PREFIX + "é" * 43,
        PREFIX + "\udcff" * 43,
        PREFIX + "\x00" * 43,
        PREFIX + "A" * 2**20,
    ],
)
async def test_find_by_text_others_find_nothing(text: str) -> None:
    door = Door()
    _, real = await door.keys.add("shop", ["produce"])
    assert door.keys.find_by_text(text) is None
    assert door.keys.find_by_text(real.swapcase()) is None
    assert door.keys.find_by_text(real + " ") is None


async def test_find_by_text_the_hash_itself_is_no_key() -> None:
    door = Door()
    record, _ = await door.keys.add("shop", ["produce"])
    assert door.keys.find_by_text(record.hash) is None
    assert door.keys.find_by_text((PREFIX + record.hash)[:KEY_CHARS]) is None


async def test_find_by_text_ends_with_the_expiry() -> None:
    door = Door()
    record, text = await door.keys.add("shop", ["produce"], expires_at=NOW + 10)
    door.now = NOW + 9.99
    assert door.keys.find_by_text(text) == record
    door.now = NOW + 10
    assert door.keys.find_by_text(text) is None
    assert door.keys.find("shop") == record, "an administrator still sees it"


async def test_find_by_text_disabled_removed_and_replaced() -> None:
    door = Door()
    changes: list[str] = []
    seen: list[KeyRecord | None] = []

    def note(name: str) -> None:
        changes.append(name)
        seen.append(door.keys.find_by_text(text))

    record, text = await door.keys.add("shop", ["produce"])
    door.keys.on_change(note)
    door.deliver("shop", msgspec.structs.replace(record, disabled=True), 2)
    door.deliver("shop", record, 3)
    door.deliver("shop", None, 4)
    assert changes == ["shop"] * 3
    assert seen == [None, record, None], "who listens finds what is true already"
    again, other = await door.keys.add("shop", ["produce"])
    assert door.keys.find_by_text(text) is None
    assert door.keys.find_by_text(other) == again


async def test_record_copied_under_another_name_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door()
    record, text = await door.keys.add("shop", ["produce"])
    wide = msgspec.structs.replace(record, permissions=["admin"])
    door.deliver("copy", wide, 2)
    door.deliver("twin", msgspec.structs.replace(wide, name="twin"), 3)
    assert door.keys.find_by_text(text) == record
    assert "the key copy does not count" in caplog.text
    assert "the key twin does not count" in caplog.text
    door.deliver("twin", None, 4)
    assert door.keys.find_by_text(text) == record
    door.deliver("shop", None, 5)
    assert door.keys.find_by_text(text) is None


async def test_record_that_names_another_key_does_not_count() -> None:
    door = Door()
    record, text = await door.keys.add("shop", ["produce"])
    door.deliver("shop", None, 2)
    door.deliver("till", record, 3)
    assert door.keys.find_by_text(text) is None


async def test_record_damaged_ends_the_key() -> None:
    door = Door()
    _, text = await door.keys.add("shop", ["produce"])
    door.keys._mirror._on_change("keys.shop", b"{", 2)
    assert door.keys.find_by_text(text) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://shop.example",
        "http://localhost:3000",
        "https://shop.example:8443",
        "http://[::1]:8080",
        "http://127.0.0.1",
        "https://xn--kse-qla.example",
        "capacitor://localhost",
        "chrome-extension://abcdefghijklmnop",
        "https://a_b.example:65535",
    ],
)
async def test_add_origin_legal(origin: str) -> None:
    record, _ = await Door().keys.add("shop", ["produce"], origins=[origin, origin])
    assert record.origins == [origin]


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "*",
        "null",
        "shop.example",
        "//shop.example",
        "https://",
        "https://*.shop.example",
        "https://shop.example/",
        "https://shop.example/path",
        "https://shop.example?x",
        "https://shop.example#x",
        "https://ann@shop.example",
        "https://Shop.example",
        "HTTPS://shop.example",
        "https://shop.example:",
        "https://shop.example:0",
        "https://shop.example:65536",
        "https://shop.example:08443",
        "https://shop..example",
        "https://shop.example.",
        "https://.example",
        "https://shop.example ",
        "https://shop.example\n",
        "https://käse.example",
        "https://shop.example, https://x",
        "https://[::1",
        "https://" + "a" * (ORIGIN_CHARS_MAX - 7),
        "https://shop.example:443",
        "http://shop.example:80",
    ],
)
async def test_add_origin_that_no_browser_sends_told(origin: str) -> None:
    door = Door()
    with pytest.raises(ClientFault, match="the origin ") as raised:
        await door.keys.add("shop", ["produce"], origins=[origin])
    assert raised.value.kind.status == 400
    assert door.keys.records == {}


async def test_add_origins_up_to_the_limit() -> None:
    pages = [f"https://{number}.example" for number in range(ORIGINS_MAX + 1)]
    record, _ = await Door().keys.add("shop", ["produce"], origins=pages[:ORIGINS_MAX])
    assert len(record.origins) == ORIGINS_MAX
    with pytest.raises(ClientFault, match="65 origins exceed 64"):
        await Door().keys.add("shop", ["produce"], origins=pages)
    longest = "https://" + "a" * (ORIGIN_CHARS_MAX - 8)
    assert (await Door().keys.add("shop", ["produce"], origins=[longest]))[0].origins == [longest]


@pytest.mark.parametrize("permissions", [["consume"], ["produce", "consume"], ["admin"]])
async def test_add_key_for_web_pages_may_only_produce(permissions: list[str]) -> None:
    with pytest.raises(ClientFault, match="a key with origins may only produce"):
        await Door().keys.add("shop", permissions, origins=["https://shop.example"])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("", {}, "key name of 0 characters"),
        ("n" * (NAME_CHARS_MAX + 1), {}, "key name of 129 characters"),
        ("a:b", {}, "the key name a:b has"),
        (" a", {}, "outer spaces"),
        ("a\n", {}, "the key name"),
        ("a", {"permissions": []}, "got none"),
        ("a", {"permissions": ["root"]}, "got root"),
        ("a", {"stations": []}, "0 station globs"),
        ("a", {"stations": [str(n) for n in range(STATIONS_MAX + 1)]}, "257 station globs"),
        ("a", {"stations": ["a b"]}, "station glob a b"),
        ("a", {"stations": ["g" * (GLOB_CHARS_MAX + 1)]}, "station glob"),
        ("a", {"expires_at": NOW}, "expires_at of 1700000000.0 is not a unix time"),
        ("a", {"expires_at": -1.0}, "expires_at of -1.0 is not"),
        ("a", {"expires_at": math.nan}, "expires_at of nan is not"),
        ("a", {"expires_at": math.inf}, "expires_at of inf is not"),
        ("a", {"expires_at": EXPIRES_AT_MAX + 1.0}, "expires_at of 253402300800.0 is not"),
    ],
)
async def test_add_key_that_cannot_be_told(name: str, fields: dict[str, Any], message: str) -> None:
    door = Door()
    with pytest.raises(ClientFault, match=message) as raised:
        await door.keys.add(name, **{"permissions": ["produce"], **fields})
    assert raised.value.kind.status == 400
    assert door.keys.records == {}


async def test_add_key_twice_refused_and_the_first_stays() -> None:
    door = Door()
    record, text = await door.keys.add("n" * NAME_CHARS_MAX, ["produce"])
    with pytest.raises(ClientFault, match=r"the key n+… exists already"):
        await door.keys.add("n" * NAME_CHARS_MAX, ["admin"], expires_at=float(EXPIRES_AT_MAX))
    assert door.keys.find_by_text(text) == record
