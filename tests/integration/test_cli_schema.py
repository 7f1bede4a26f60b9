"""`fastgw schema` and the newer `fastgw station` commands on an embedded broker."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from fastgw import cli
from fastgw.config import NatsConfig
from fastgw.control.dead_letters import DeadLetters, build_block, build_headers
from fastgw.control.stations import StationRecord
from fastgw.nats.connection import open_control
from fastgw.nats.embedded import EmbeddedBroker
from tests.integration.schema_fakes import Compiler, compiler, schema

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compiler"]


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def value(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs command lines on one data folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str], data: str) -> None:
        self.capsys = capsys
        self.data = data

    def __call__(self, *words: str, at_broker: bool = True) -> Result:
        self.capsys.readouterr()
        code = cli.run([*words, "--data", self.data] if at_broker else words)
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, EmbeddedBroker]]:
    data = str(tmp_path_factory.mktemp("schema") / "data")
    with EmbeddedBroker.start(data, NatsConfig()) as started:
        yield data, started


@pytest.fixture
def shell(
    broker: tuple[str, EmbeddedBroker],
    compiler: Compiler,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, broker[0])


def write(name: str, text: str | bytes) -> str:
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def give_stdin(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8"))


def test_schema_life(shell: Shell) -> None:
    one, two = write("1.json", schema("a")), write("2.json", schema("b"))
    added = shell("schema", "add", "order", one, "--type", "json")
    assert (added.code, added.out) == (0, "Added schema order, version 1 of type json.\n")
    again = shell("schema", "add", "order", one, "--type", "json")
    assert (again.code, again.err) == (1, "fastgw: the schema order exists already\n")
    same = shell("schema", "version", "order", one)
    assert same.out == "Schema order has this text already as version 1.\n"
    assert shell("schema", "version", "order", two).out == "Schema order now has version 2.\n"
    assert shell("schema", "version", "order", two, "--json").value["version"] == 2
    shown = shell("schema", "show", "order", "--version", "1").out
    assert "version   1 of 2" in shown
    assert shown.endswith(f"\n\n{schema('a')}\n")
    assert shell("schema", "show", "order", "--text").out == schema("b")
    value = shell("schema", "show", "order", "--json").value
    assert ([one["version"] for one in value["versions"]], value["text"]) == ([1, 2], schema("b"))
    assert '-    "a"\n' in shell("schema", "diff", "order").out
    assert (
        shell("schema", "diff", "order", "2", "2").out
        == "Versions 2 and 2 of order are the same.\n"
    )
    assert shell("schema", "diff", "order", "1", "2", "--json").value["from"] == 1
    assert shell("station", "add", "orders", "--schema", "order@1").code == 0
    listed = shell("schema", "list").out.splitlines()
    assert listed[1].split()[:4] == ["order", "json", "2", "orders"]
    assert shell("schema", "list", "--json").value[0]["stations"] == ["orders"]
    kept = shell("schema", "rm", "order", "--yes")
    assert (kept.code, kept.err) == (1, "fastgw: the schema order is attached to station orders\n")
    attached = shell("station", "attach", "orders", "order")
    assert attached.out == "Attached order version 2 to station orders.\n"
    assert shell("station", "detach", "orders").out == "Station orders has no schema now.\n"
    assert shell("schema", "rm", "order", "--yes").out == "Removed schema order.\n"
    assert shell("schema", "list").out.startswith("There are no schemas yet")
    assert shell("schema", "show", "order").err == "fastgw: there is no schema order\n"
    assert shell("station", "rm", "orders", "--yes").code == 0


def test_schema_that_cannot_be_told_and_not_stored(shell: Shell) -> None:
    broken = write("broken.json", "{")
    refused = shell("schema", "add", "s", broken, "--type", "json")
    assert refused.code == 1
    assert refused.err == "fastgw: the schema does not compile: line 1: no JSON\n"
    latin = shell("schema", "add", "s", write("latin", b"\xff"), "--type", "json")
    assert latin.err == "fastgw: the schema's file is not UTF-8 at byte 0\n"
    large = shell("schema", "add", "s", write("large", b" " * 262_145), "--type", "json")
    assert large.err == "fastgw: the schema's file has more than 262144 bytes\n"
    assert shell("schema", "add", "s", broken, "--type", "xml").code == 2
    assert shell("schema", "rm", "s").err.startswith("fastgw: This deletes every version")
    assert shell("schema", "list", "--json").value == []


def test_schema_rm_asks_on_a_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    assert shell("schema", "rm", "s").err == "fastgw: nothing was deleted\n"


def test_check_needs_no_broker_and_tells_each_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("s.json", schema("a"))
    give_stdin(monkeypatch, b'\xef\xbb\xbf{"a":1}\r\n\n{}\n{"a":2}')
    result = shell("schema", "check", file, "--type", "json", at_broker=False)
    assert (result.code, result.err) == (1, "")
    assert result.out == "line 3: missing properties: a\n2 of 3 are good, 1 are not.\n"
    good = write("good.ndjson", '{"a":1}\n' * 3)
    result = shell("schema", "check", file, good, "--type", "json", "--all", at_broker=False)
    assert (result.code, result.out.splitlines()[0]) == (0, "line 1: good")
    result = shell("schema", "check", file, good, "--type", "json", "--json", at_broker=False)
    assert (result.value["valid"], result.value["results"][2]) == (3, {"line": 3, "valid": True})
    whole = write("whole.json", '{\n"a":1}')
    words = ("schema", "check", file, whole, "--type", "json", "--whole")
    assert shell(*words, at_broker=False).code == 0
    assert shell(*words, "--content-type", "avro/binary", at_broker=False).code == 1


def test_check_schema_that_refers_to_others(shell: Shell) -> None:
    file, other = write("s.json", schema(**{"$ref": "key"})), write("key.json", schema("k"))
    events = write("events", "{}\n")
    words = ("schema", "check", file, events, "--type", "json")
    alone = shell(*words, at_broker=False)
    assert alone.code == 2
    assert alone.err.endswith("#/$ref: nothing is registered as key\n")
    result = shell(*words, "--with", other, at_broker=False)
    assert result.out.splitlines()[0] == "line 1: missing properties: k"


def test_station_change_and_info(shell: Shell) -> None:
    shell("station", "add", "dls")
    keeps = ("--max-messages", "10", "--retention", "ack", "--duplicate-window", "5s")
    policy = ("--no-wait", "--no-suffix", "--dead-letter", "dls", "--message-bytes", "64KiB")
    assert shell("station", "add", "st", *keeps, *policy).code == 0
    value = shell("station", "info", "st", "--json").value
    assert (value["retention"], value["max_messages"], value["duplicate_window_s"]) == (
        "interest",
        10,
        5,
    )
    assert (value["allow_no_wait"], value["allow_suffix"]) == (True, False)
    assert (value["dead_letter"], value["message_bytes_max"]) == ("dls", 65536)
    info = shell("station", "info", "st").out
    assert "message limit    64.0 KiB" in info
    assert "at most          10 messages" in info
    none = ("--max-messages", "none", "--dead-letter", "none", "--message-bytes", "none")
    changed = shell("station", "change", "st", *none, "--suffix", "--wait")
    assert (changed.code, changed.out) == (0, "Changed station st.\n")
    value = shell("station", "info", "st", "--json").value
    assert (value["max_messages"], value["dead_letter"]) == (None, None)
    assert (value["message_bytes_max"], value["allow_suffix"]) == (None, True)
    assert shell("station", "change", "st").err.startswith("fastgw: Say what to change.")
    assert shell("station", "change", "st", "--schema", "s@x").code == 2
    assert shell("station", "attach", "st", "none").code == 2
    assert shell("station", "attach", "st", "nowhere").err == "fastgw: there is no schema nowhere\n"
    for name in ("st", "dls"):
        assert shell("station", "rm", name, "--yes").code == 0


def test_station_ack_fsync_goes_by_the_broker_that_runs(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What this command's own configuration says does not count: the broker runs with 100 ms.
    monkeypatch.setenv("FASTGW_NATS_SYNC_INTERVAL", "always")
    refused = shell("station", "add", "st", "--ack", "fsync")
    assert (refused.code, refused.err) == (
        1,
        "fastgw: ack fsync cannot be kept: the embedded broker syncs up to 100ms after it answered;"
        ' set nats.sync_interval = "always" and start again\n',
    )
    assert shell("station", "info", "st").err == "fastgw: there is no station st\n"
    assert shell("station", "add", "st", "--ack", "disk").code == 2
    monkeypatch.delenv("FASTGW_NATS_SYNC_INTERVAL")
    always = NatsConfig(sync_interval="always")
    with EmbeddedBroker.start(tmp_path / "always", always) as started:
        assert started.address.apply(NatsConfig()) == started.address.apply(always)
        there = Shell(shell.capsys, str(tmp_path / "always"))
        assert there("station", "add", "st", "--ack", "fsync").code == 0
        assert there("station", "info", "st", "--json").value["ack"] == "fsync"
        info = there("station", "info", "st").out
        assert [line.split() for line in info.splitlines() if line.startswith("ack")] == [
            ["ack", "fsync"]
        ]
        changed = there("station", "change", "st", "--ack", "stored", "--json")
        assert changed.value["ack"] == "stored"


def test_station_adopt(shell: Shell, broker: tuple[str, EmbeddedBroker]) -> None:
    async def make() -> None:
        client = await open_control(broker[1].address.apply(NatsConfig()))
        await client.jetstream().add_stream(name="old", subjects=["in.>", "out"])
        await client.close()

    asyncio.run(make())
    result = shell("station", "adopt", "st", "old", "--subject", "in.web", "--headers", "none")
    assert result.out == "Added station st on stream old, publishing to in.web.\n"
    assert shell("station", "adopt", "x", "none-such").code == 1
    removed = shell("station", "rm", "st", "--yes")
    assert removed.out == "Removed station st and left its stream as it is.\n"


def test_dead_letters_are_shown_and_sent_again(
    shell: Shell, broker: tuple[str, EmbeddedBroker]
) -> None:
    shell("schema", "add", "s", write("s.json", schema("a")), "--type", "json")
    shell("station", "add", "dls")
    shell("station", "add", "st", "--schema", "s")
    alone = shell("station", "dead-letters", "st")
    assert alone.err.startswith("fastgw: the station st has no dead-letter station; give it one")
    shell("station", "change", "st", "--dead-letter", "dls")
    assert shell("station", "dead-letters", "st").out == "There are no dead letters of st.\n"

    async def refuse() -> None:
        record = StationRecord(name="st", stream="st", subject="st", schema="s", schema_version=1)
        place = StationRecord(name="dls", stream="dls", subject="dls")
        client = await open_control(broker[1].address.apply(NatsConfig()))
        letters = DeadLetters(client, place, record)
        headers = build_headers(record, "missing properties: a", user="ada", client="::1")
        for payload in (b'{"b":1}', b"\xff"):
            await letters._request_block("dls", build_block(headers, b"X-One: 1\r\n"), payload)
        await client.close()

    asyncio.run(refuse())
    rows = shell("station", "dead-letters", "st").out.splitlines()
    assert rows[1].split()[2:] == ["st", "s@1", "ada", "::1", "7", "missing", "properties:", "a"]
    value = shell("station", "dead-letters", "dls", "--json", "--payload").value
    assert [(one["message"], one.get("encoding")) for one in value] == [
        ('{"b":1}', None),
        ("/w==", "base64"),
    ]
    assert value[0]["headers"] == [["X-One", "1"]]
    assert len(shell("station", "dead-letters", "st", "--limit", "1", "--json").value) == 1
    assert shell("station", "dead-letters", "dls", "--resend").code == 1
    kept = shell("station", "dead-letters", "st", "--resend")
    assert kept.code == 1
    assert kept.out.splitlines() == [
        "1: missing properties: a",
        "2: no JSON",
        "Sent 0 again, kept 2.",
    ]
    shell("schema", "version", "s", write("s2.json", schema("b")))
    shell("station", "attach", "st", "s")
    sent = shell("station", "dead-letters", "st", "--resend", "--json")
    assert (sent.code, sent.value["sent"], list(sent.value["kept"])) == (1, 1, ["2"])
    shell("station", "detach", "st")
    assert shell("station", "dead-letters", "st", "--resend").out == "Sent 1 again, kept 0.\n"
    assert shell("station", "info", "st", "--json").value["messages"] == 2
    assert (
        shell("station", "dead-letters", "nowhere").err == "fastgw: there is no station nowhere\n"
    )
    kept_by = shell("station", "rm", "dls", "--yes")
    assert kept_by.err == "fastgw: the station dls takes the dead letters of st\n"
