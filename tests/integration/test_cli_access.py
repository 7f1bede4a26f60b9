"""Users' permissions, API keys, signing secrets and webhooks on the command line, on a broker."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest

from fastgw import cli
from fastgw.cli import key as key_module
from fastgw.cli import secret as secret_module
from fastgw.cli.station_options import _WEBHOOK_FIELDS, SECRETS_CHARS_MAX, WEBHOOKS
from fastgw.config import Config, NatsConfig
from fastgw.config_types import AuthConfig, ListenerConfig, TlsConfig
from fastgw.control.keys import KeyRecord, Keys
from fastgw.control.secrets import SECRET_BYTES, SECRETS_MAX, USES, Secrets
from fastgw.control.station_config import StationRecord
from fastgw.control.store import Store
from fastgw.control.users import Users
from fastgw.errors import ClientFault
from fastgw.nats.connection import open_control
from fastgw.nats.embedded import EmbeddedBroker, running_broker
from fastgw.senders.signatures import Preset, VerifierConfig
from tests.integration.brokers import Broker, broker, control

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["broker"]

NOT_OURS = ("FASTGW_", "JWT_", "REFRESH_JWT_", "HTTP_PORT", "MEMPHIS_", "ROOT_")
HOOK_SECRET = "a-secret-of-the-sender-1"


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

    def __call__(self, *words: str, stdin: str | None = None) -> Result:
        self.capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            if stdin is not None:
                patch.setattr("sys.stdin", io.StringIO(stdin))
            code = cli.run([*words, "--data", self.data])
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err
        assert HOOK_SECRET not in captured.out + captured.err
        return Result(code, captured.out, captured.err)

    def add_user(self, name: str, *words: str) -> None:
        assert self("user", "add", name, "--generate", *words).code == 0


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, EmbeddedBroker]]:
    data = str(tmp_path_factory.mktemp("access") / "data")
    with EmbeddedBroker.start(data, NatsConfig()) as started:
        yield data, started


@pytest.fixture
def shell(
    embedded: tuple[str, EmbeddedBroker],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    for name in os.environ:
        if name.startswith(NOT_OURS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Shell(capsys, embedded[0])


def at_store(shell: Shell, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Do `work` on the store of the shell's broker."""

    async def run() -> Any:
        running = running_broker(shell.data)
        assert running is not None
        client = await open_control(running.apply(NatsConfig()))
        try:
            store = await Store.open(client, 1)
            result = await work(store)
            await store.close()
            return result
        finally:
            await client.close()

    return asyncio.run(run())


def test_help_texts_of_all_commands(shell: Shell) -> None:
    for words in (
        ("user", "permissions"),
        ("user", "disable"),
        ("user", "enable"),
        ("key", "add"),
        ("key", "rm"),
        ("secret", "rotate"),
        ("station", "add"),
    ):
        result = shell(*words, "--help")
        assert (result.code, result.out.startswith("Usage: fastgw")) == (0, True)


# --- users ----------------------------------------------------------------------------------------


def test_user_permissions_replace_what_is_named(shell: Shell) -> None:
    shell.add_user("ada")
    changed = shell("user", "permissions", "ada", "--permission", "consume", "--station", "a.*")
    assert changed.out == "User ada may now consume on a.*.\n"
    changed = shell("user", "permissions", "ada", "--permission", "produce", "--json")
    assert (changed.value["permissions"], changed.value["stations"]) == (["produce"], ["a.*"])
    changed = shell("user", "permissions", "ada", "--station", "*", "--station", "b")
    assert changed.out == "User ada may now produce on *, b.\n"
    nothing = shell("user", "permissions", "ada")
    assert nothing.code == 2
    assert "Say what to change" in nothing.err
    assert shell("user", "rm", "ada").code == 0


def test_user_disabled_and_enabled(shell: Shell) -> None:
    shell.add_user("bob")
    assert shell("user", "disable", "bob").out == "Disabled user bob.\n"
    (line,) = [one for one in shell("user", "list").out.splitlines() if one.startswith("bob")]
    assert "disabled" in line
    assert shell("user", "enable", "bob", "--json").value["disabled"] is False
    assert shell("user", "disable", "bob", "--json").value["disabled"] is True
    assert shell("user", "enable", "bob").out == "Enabled user bob.\n"
    assert shell("user", "rm", "bob").code == 0
    for words in (("disable", "bob"), ("enable", "bob"), ("permissions", "bob", "--station", "a")):
        gone = shell("user", *words)
        assert (gone.code, gone.err) == (1, "fastgw: there is no user bob\n")


def test_last_administrator_of_all_stations_stays(shell: Shell) -> None:
    shell.add_user("boss", "--permission", "admin")
    shell.add_user("some", "--permission", "admin", "--station", "a.*")
    text = "fastgw: boss is the last user that may administer all stations; add another one first\n"
    for words in (
        ("rm", "boss"),
        ("disable", "boss"),
        ("permissions", "boss", "--permission", "produce"),
        ("permissions", "boss", "--station", "a.*"),
    ):
        refused = shell("user", *words)
        assert (refused.code, refused.err) == (1, text), words
    # What leaves it in charge is done, and the others may go.
    added = shell("user", "permissions", "boss", "--permission", "admin", "--permission", "produce")
    assert added.code == 0
    assert shell("user", "passwd", "boss", "--generate").code == 0
    shell.add_user("second", "--permission", "admin")
    assert shell("user", "disable", "second").code == 0
    assert shell("user", "rm", "boss").err == text, "a disabled one does not count"
    assert shell("user", "enable", "second").code == 0
    assert shell("user", "rm", "boss").code == 0
    assert shell("user", "rm", "second").code == 1
    assert shell("user", "rm", "some").code == 0


async def test_change_that_changes_nothing_leaves_the_tokens(broker: Broker) -> None:
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        users = Users(store)
        await users.start()
        first = await users.add("ada", "x", ["produce"], disabled=True)
        assert first.disabled
        same = await users.change("ada", permissions=["produce"], stations=["*"], disabled=True)
        assert same == first
        assert await users.change("ada") == first
        changed = await users.change("ada", password="y", disabled=False, permissions=["consume"])
        assert changed.epoch == first.epoch + 1
        assert (changed.disabled, changed.permissions) == (False, ["consume"])
        assert await users.check("ada", "y") == changed
        with pytest.raises(ClientFault, match="permissions are among"):
            await users.change("ada", permissions=[])
        users.close()
        await store.close()


async def test_last_administrator_is_judged_by_what_the_store_holds(broker: Broker) -> None:
    """The other one was demoted by another gateway, and the mirror does not know yet."""
    async with control(broker.config()) as client:
        store = await Store.open(client, 1)
        users = Users(store)
        await users.start()
        for name in ("ada", "bob"):
            await users.add(name, "x", ["admin"])
        stale = users.records["bob"]
        await users.set_disabled("bob", True)
        users.records["bob"] = stale
        with pytest.raises(ClientFault, match="ada is the last user") as raised:
            await users.remove("ada")
        assert raised.value.kind.status == 409
        with pytest.raises(ClientFault, match="ada is the last user"):
            await users.set_disabled("ada", True)
        assert await users.set_disabled("bob", True) is not None
        await users.remove("bob")
        users.close()
        await store.close()


# --- keys -----------------------------------------------------------------------------------------


def test_key_is_shown_once_listed_disabled_and_removed(shell: Shell) -> None:
    added = shell("key", "add", "web", "--station", "orders.*", "--expires", "90d")
    assert added.code == 0
    first, second, third = added.out.splitlines()
    assert first == "Added key web: may produce on orders.*."
    text = second.removeprefix("Key, shown only now: ")
    assert text.startswith("fgw_")
    assert len(text) == 47
    words = shlex.split(third.removeprefix("Try it: "))
    assert words[0] == "curl"
    assert words[1] == "http://127.0.0.1:4444/stations/orders.hello/produce/single"
    assert f"Authorization: Bearer {text}" in words
    listed = shell("key", "list")
    headings = ["KEY", "PERMISSIONS", "STATIONS", "ORIGINS", "STATE", "EXPIRES", "SINCE"]
    assert listed.out.splitlines()[0].split() == headings
    shown = shell("key", "list", "--json").value[0]
    assert sorted(shown) == [
        "created_at",
        "disabled",
        "expired",
        "expires_at",
        "name",
        "origins",
        "permissions",
        "stations",
    ]
    ends = datetime.fromisoformat(shown["expires_at"]).timestamp()
    assert 0 <= time.time() + 90 * 86_400 - ends < 60
    record = at_store(shell, _find_key("web"))
    for hidden in (text, record.hash):
        assert hidden not in listed.out + shell("key", "list", "--json").out
    assert shell("key", "disable", "web").out == "Disabled key web.\n"
    assert "disabled" in shell("key", "list").out
    assert shell("key", "disable", "web", "--json").value == {"name": "web", "disabled": True}
    assert shell("key", "enable", "web").out == "Enabled key web.\n"
    assert shell("key", "enable", "web", "--json").value == {"name": "web", "disabled": False}
    assert shell("key", "rm", "web").out == "Removed key web.\n"
    assert shell("key", "list").out.startswith("There are no keys yet; add one with: fastgw key")
    gone = shell("key", "rm", "web")
    assert (gone.code, gone.err) == (1, "fastgw: there is no key web\n")


def _find_key(name: str) -> Callable[[Store], Awaitable[KeyRecord]]:
    async def work(store: Store) -> KeyRecord:
        keys = Keys(store)
        await keys.start()
        record = keys.find(name)
        assert record is not None
        return record

    return work


def test_key_json_holds_its_text_once(shell: Shell) -> None:
    words = ("--permission", "consume", "--permission", "admin", "--expires", "2999-01-01")
    added = shell("key", "add", "script", *words, "--json").value
    assert added["key"].startswith("fgw_")
    assert added["expires_at"] == "2999-01-01T00:00:00Z"
    assert added["permissions"] == ["consume", "admin"]
    twice = shell("key", "add", "script")
    assert (twice.code, twice.err) == (1, "fastgw: the key script exists already\n")
    assert shell("key", "rm", "script", "--json").value == {"name": "script", "removed": True}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--expires", "soon"], 2, "'soon' is no time like 90d or 2027-01-01."),
        (["--expires", "2027-13-01"], 2, "is no time like"),
        (["--expires", "999999999d"], 2, "is no time like"),
        (["--expires", "9999999999d"], 2, "is no time like"),
        (["--expires", "0d"], 2, "0d has passed already."),
        (["--expires", "2001-01-01"], 2, "2001-01-01 has passed already."),
        (["--permission", "fly"], 2, "'fly' is not one of"),
        (["--origin", "https://A.example/path"], 1, "the origin https://A.example/path is not"),
        (["--origin", "https://a.example", "--permission", "consume"], 1, "may only produce"),
        (["--station", "a b"], 1, "the station glob a b"),
    ],
)
def test_key_that_cannot_be_is_refused(
    shell: Shell, words: list[str], code: int, text: str
) -> None:
    refused = shell("key", "add", "never", *words)
    assert refused.code == code
    assert text in refused.err
    assert refused.err.count("\n") == 1
    assert shell("key", "list", "--json").value == []


def test_key_that_has_expired_is_shown_so() -> None:
    record = KeyRecord(name="k", hash="", permissions=["produce"], expires_at=5.0)
    assert key_module._state(record) == "expired"


@pytest.mark.parametrize(
    ("permissions", "stations", "origins", "line"),
    [
        (["produce"], ["*"], [], "{}/stations/hello/produce/single {} -d hello"),
        (["produce"], ["a?[xy].*"], [], "{}/stations/aax.hello/produce/single {} -d hello"),
        (["produce"], ["[!a]*"], [], "{}/stations/STATION/produce/single {} -d hello"),
        (["produce"], ["*."], [], "{}/stations/STATION/produce/single {} -d hello"),
        (
            ["produce"],
            ["shop"],
            ["https://a.example"],
            "{}/stations/shop/produce/single {} -H 'Origin: https://a.example' -d hello",
        ),
        (
            ["consume"],
            ["a"],
            [],
            '{}/stations/a/consume/batch {} -d \'{{"consumer_name": "k"}}\'',
        ),
        (["admin"], ["a"], [], "{}/stations {}"),
    ],
)
def test_key_line_to_try_is_one_that_it_may(
    permissions: list[Any], stations: list[str], origins: list[str], line: str
) -> None:
    record = KeyRecord(
        name="k", hash="", permissions=permissions, stations=stations, origins=origins
    )
    config = Config(data="nowhere", listen="gateway:80")
    shown = key_module._try_line(config, record, "fgw_x")
    assert shown == "curl " + line.format("http://gateway:80", "-H 'Authorization: Bearer fgw_x'")


def test_key_line_to_try_finds_the_gateway(tmp_path: Path) -> None:
    data = str(tmp_path)
    for config, expected in (
        (Config(data=data, listen="0.0.0.0:80"), (None, "http://127.0.0.1:80")),
        (Config(data=data, listen="[::]:80"), (None, "http://[::1]:80")),
        (
            Config(data=data, listen="h:443", tls=TlsConfig(cert_file="c", key_file="k")),
            (None, "https://h:443"),
        ),
        (Config(data=data, listen="unix:/run/gw"), ("/run/gw", "http://localhost")),
        (
            Config(
                data=data,
                listeners=[
                    ListenerConfig(listen="127.0.0.1:1", serves="admin"),
                    ListenerConfig(listen="127.0.0.1:2", serves="data"),
                ],
            ),
            (None, "http://127.0.0.1:2"),
        ),
    ):
        assert key_module._find_gateway(config) == expected
    announced = tmp_path / "gateway.json"
    announced.write_text("[]")
    assert key_module._find_gateway(Config(data=data, listen="h:1")) == (None, "http://h:1")
    announced.write_text('{"address":"http://127.0.0.1:5"}')
    assert key_module._find_gateway(Config(data=data, listen="h:1")) == (None, "http://127.0.0.1:5")
    record = KeyRecord(name="k", hash="", permissions=["admin"])
    announced.unlink()
    line = key_module._try_line(Config(data=data, listen="unix:/run/gw"), record, "fgw_x")
    assert line.startswith("curl --unix-socket /run/gw http://localhost/stations ")


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_listed_rotated_and_removed_and_never_shown(shell: Shell) -> None:
    listed = shell("secret", "list")
    assert listed.out.splitlines()[0].split() == ["KID", "USE", "ALGORITHM", "SINCE", "STATE"]
    before = shell("secret", "list", "--json").value
    assert [(one["use"], one["state"]) for one in before] == [
        ("access", "signing"),
        ("refresh", "signing"),
    ]
    assert sorted(before[0]) == ["algorithm", "configured", "created_at", "kid", "state", "use"]
    made = shell("secret", "rotate", "--use", "access", "--algorithm", "EdDSA", "--json").value
    assert [(one["use"], one["algorithm"], one["state"]) for one in made] == [
        ("access", "EdDSA", "waiting")
    ]
    said = shell("secret", "rotate")
    assert said.out.count("Made secret ") == 2
    assert "fastgw secret rm KID" in said.out
    after = shell("secret", "list", "--json").value
    assert len(after) == 5
    stored = at_store(shell, lambda store: store.read_all("signing."))
    texts = [one["secret"] for value in stored.values() for one in json.loads(value)["secrets"]]
    assert len(texts) == 5
    shown = said.out + shell("secret", "list").out + shell("secret", "list", "--json").out
    assert not any(text in shown for text in texts)
    (kid,) = {one["kid"] for one in before if one["use"] == "access"}
    removed = shell("secret", "rm", kid)
    assert removed.out == f"Removed secret {kid}; the tokens that it signed no longer work.\n"
    gone = shell("secret", "rm", kid)
    assert (gone.code, gone.err) == (1, f"fastgw: there is no signing secret {kid}\n")
    other = made[0]["kid"]
    assert shell("secret", "rm", other, "--json").value == {"kid": other, "removed": True}
    last = [one["kid"] for one in shell("secret", "list", "--json").value if one["use"] == "access"]
    assert len(last) == 1
    kept = shell("secret", "rm", last[0])
    assert kept.code == 1
    assert "is the last secret of access tokens; rotate first" in kept.err


def test_secrets_that_are_configured_are_told_and_stay(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "configured-secret-of-the-tests-0123456789"
    monkeypatch.setenv("JWT_SECRET", secret)
    rows = [line.split(maxsplit=4) for line in shell("secret", "list").out.splitlines()[1:]]
    assert rows[0][1:] == ["access", "HS256", "-", "signing, from configuration"]
    refused = shell("secret", "rotate")
    assert refused.code == 1
    assert refused.err.startswith("fastgw: the secret of access tokens is configured as auth.jwt")
    refused = shell("secret", "rm", rows[0][0])
    assert refused.code == 1
    assert secret not in refused.err
    assert shell("secret", "rotate", "--use", "refresh").code == 0


def test_secrets_past_their_bound_are_refused(shell: Shell) -> None:
    def count() -> int:
        shown = shell("secret", "list", "--json").value
        return len([one for one in shown if one["use"] == "refresh"])

    async def fill(store: Store) -> None:
        secrets = Secrets(store, AuthConfig())
        await secrets.start()
        for _ in range(SECRETS_MAX - before):
            await secrets.rotate("refresh")

    before = count()
    at_store(shell, fill)
    assert count() == SECRETS_MAX
    refused = shell("secret", "rotate", "--use", "refresh")
    assert refused.code == 1
    assert f"{SECRETS_MAX} secrets of refresh tokens are as many as may be" in refused.err


def test_words_of_the_options_are_those_of_the_control_plane() -> None:
    assert get_args(Preset) == WEBHOOKS
    assert set(_WEBHOOK_FIELDS) == {*VerifierConfig.__struct_fields__} - {"preset", "secrets"}
    assert tuple(SECRET_BYTES) == secret_module.ALGORITHMS
    assert secret_module.USES == USES


def test_commands_without_a_running_broker_start_one(
    shell: Shell, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = Shell(capsys, str(tmp_path / "own"))
    for words in (("key", "list"), ("secret", "list"), ("user", "disable", "x")):
        missing = own(*words)
        assert missing.code == 1
        assert "there is no data folder" in missing.err
    assert own("key", "add", "first").code == 0
    assert running_broker(own.data) is None
    assert [one["name"] for one in own("key", "list", "--json").value] == ["first"]
    assert len(own("secret", "list", "--json").value) == 2


# --- webhooks -------------------------------------------------------------------------------------


def verifier_of(shell: Shell, name: str) -> VerifierConfig | None:
    async def work(store: Store) -> VerifierConfig | None:
        found = await store.get(f"stations.{name}")
        assert found is not None
        return msgspec.json.decode(found[0], type=StationRecord).verifier

    result = at_store(shell, work)
    assert result is None or isinstance(result, VerifierConfig)
    return result


def test_station_webhook_is_added_rotated_and_taken_away(shell: Shell) -> None:
    words = ("--webhook", "github", "--webhook-secret-stdin")
    added = shell("station", "add", "hooks", *words, "--json", stdin=HOOK_SECRET + "\n")
    assert added.code == 0, added.err
    assert added.value["verifier"] == {"preset": "github", "secrets": 1}
    found = verifier_of(shell, "hooks")
    assert found is not None
    assert found.secrets == [HOOK_SECRET]
    Path("new").write_text(f"{HOOK_SECRET}-new\r\n")
    Path("old").write_text(HOOK_SECRET)
    files = ("--webhook-secret-file", "new", "--webhook-secret-file", "old")
    assert shell("station", "change", "hooks", "--webhook", "github", *files).code == 0
    found = verifier_of(shell, "hooks")
    assert found is not None
    assert found.secrets == [f"{HOOK_SECRET}-new", HOOK_SECRET]
    for command in (("list",), ("info", "hooks")):
        value = shell("station", *command, "--json").value
        shown = value[0] if isinstance(value, list) else value
        assert shown["verifier"] == {"preset": "github", "secrets": 2}
    assert "webhooks         signed by github, 2 secret(s)" in shell("station", "info", "hooks").out
    assert shell("station", "change", "hooks", "--headers", "none").code == 0
    assert verifier_of(shell, "hooks") == found, "what is not named stays"
    assert shell("station", "change", "hooks", "--no-webhook", "--json").value["verifier"] is None
    assert verifier_of(shell, "hooks") is None
    assert shell("station", "rm", "hooks", "--yes").code == 0


def test_station_webhook_of_ones_own_scheme(shell: Shell) -> None:
    fields = ("header=X-Sign", "signed=ts.body", "timestamp_header=X-Time", "tolerance_s=60")
    words = [word for field in fields for word in ("--webhook-field", field)]
    base = ("station", "add", "own", "--webhook", "hmac", "--webhook-secret-stdin")
    added = shell(*base, *words, "--json", stdin=f"{HOOK_SECRET}\n\n{HOOK_SECRET}-2\n")
    assert added.code == 0, added.err
    assert added.value["verifier"] == {
        "preset": "hmac",
        "secrets": 2,
        "header": "X-Sign",
        "signed": "ts.body",
        "timestamp_header": "X-Time",
        "tolerance_s": 60,
    }
    assert shell("station", "rm", "own", "--yes").code == 0


@pytest.mark.parametrize(
    ("words", "stdin", "code", "text"),
    [
        (["--webhook", "github"], "", 2, "--webhook needs the sender's secret"),
        (["--webhook", "github", "--webhook-secret-stdin"], "\n", 2, "needs the sender's secret"),
        (["--webhook", "none"], "", 2, "'none' is not one of"),
        (["--webhook-secret-stdin"], HOOK_SECRET, 2, "go with --webhook and its sender"),
        (["--webhook-field", "header=X"], "", 2, "go with --webhook and its sender"),
        (["--no-webhook", "--webhook", "github"], "", 2, "--no-webhook stands alone"),
        (["--webhook", "github", "--webhook-secret-file", "missing"], "", 2, "does not exist"),
        (["--webhook", "hmac", "--webhook-secret-stdin"], HOOK_SECRET, 1, "header is required"),
        (
            ["--webhook", "github", "--webhook-secret-stdin", "--webhook-field", "frob=1"],
            HOOK_SECRET,
            2,
            "--webhook-field frob is not one of header",
        ),
        (
            ["--webhook", "github", "--webhook-secret-stdin", "--webhook-field", "tolerance_s=x"],
            HOOK_SECRET,
            2,
            "--webhook-field: Expected `int`, got `str` - at `$.tolerance_s`",
        ),
        (
            ["--webhook", "github", "--webhook-secret-stdin"],
            HOOK_SECRET * (SECRETS_CHARS_MAX // len(HOOK_SECRET) + 1),
            2,
            f"The webhook secrets exceed {SECRETS_CHARS_MAX} characters",
        ),
        (
            ["--webhook", "github", "--webhook-secret-stdin"],
            f"{HOOK_SECRET}\n" * 9,
            1,
            "secrets are 1 to 8; got 9",
        ),
    ],
)
def test_station_webhook_that_cannot_be_is_refused(
    shell: Shell, words: list[str], stdin: str, code: int, text: str
) -> None:
    refused = shell("station", "add", "never", *words, stdin=stdin)
    assert refused.code == code
    assert text in refused.err
    assert refused.err.count("\n") == 1


def test_webhook_secret_is_no_argument(shell: Shell) -> None:
    for words in (("--webhook-secret", "x"), ("--webhook-secret-stdin=x",)):
        refused = shell("station", "add", "never", "--webhook", "github", *words)
        assert refused.code == 2
