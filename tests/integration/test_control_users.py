"""Users, tokens and their secrets against a real broker, as two gateways see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fastgw.config_types import AuthConfig
from fastgw.control.passwords import CHECKS_WAITING_MAX, PasswordChecker
from fastgw.control.store import Store
from fastgw.control.tokens import TokenError, Tokens
from fastgw.control.users import Users
from fastgw.errors import ClientFault, InternalError, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["broker"]


class Gateway:
    """The control plane of one process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.users = Users(store)
        self.changes: list[str] = []
        self.users.on_change(self.changes.append)


@pytest.fixture
async def pair(broker: Broker) -> AsyncIterator[tuple[Gateway, Gateway]]:
    async with control(broker.config()) as one, control(broker.config()) as two:
        gateways = (Gateway(await Store.open(one, 1)), Gateway(await Store.open(two, 1)))
        for gateway in gateways:
            await gateway.users.start()
        yield gateways
        for gateway in gateways:
            gateway.users.close()
            await gateway.store.close()


async def test_add_user_is_known_here_at_once_and_elsewhere_soon(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    record = await here.users.add("ada@example.org", "pässword", ["consume", "produce"], ["o*"])
    assert here.users.find("ada@example.org") == record
    assert await eventually(lambda: there.users.find(record.name) == record) < CHANGE_S_MAX
    assert there.changes == ["ada@example.org"]
    assert record.permissions == ["produce", "consume"]
    assert record.stations == ["o*"]
    assert record.password_hash not in repr(record)
    assert list(there.users.records) == ["ada@example.org"]


async def test_check_right_and_wrong_passwords(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    record = await here.users.add("ada", "right", ["produce"])
    assert await here.users.check("ada", "right") == record
    assert await here.users.check("ada", "wrong") is None
    assert await here.users.check("bob", "right") is None
    assert await here.users.check("ada", "") is None
    assert await here.users.check("ada", "x" * 5000) is None
    assert await here.users.check("ada", "\udcff") is None


async def test_check_unknown_user_does_the_same_work(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    record = await here.users.add("ada", "right", ["produce"])
    await here.users.add("off", "right", ["produce"])
    await here.users.set_disabled("off", True)
    calls: list[str] = []
    checker = here.users._checker
    run = checker._run

    async def noting(work: object, password: str, stored: str) -> object:
        calls.append(stored.rsplit("$", 2)[0])
        return await run(work, password, stored)

    checker._run = noting
    for name in ("ada", "nobody", "off"):
        await here.users.check(name, "right")
    assert calls == [record.password_hash.rsplit("$", 2)[0]] * 3


async def test_passwd_old_password_ends_everywhere(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    before = await here.users.add("ada", "old", ["produce"])
    await eventually(lambda: there.users.find("ada") is not None)
    after = await here.users.passwd("ada", "new")
    assert after.epoch == before.epoch + 1
    assert await eventually(lambda: there.users.find("ada") == after) < CHANGE_S_MAX
    assert await there.users.check("ada", "old") is None
    assert await there.users.check("ada", "new") == after


async def test_disable_and_enable_user(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    before = await here.users.add("ada", "x", ["produce"])
    disabled = await there.users.set_disabled("ada", True)
    assert disabled.epoch > before.epoch
    await eventually(lambda: here.users.find("ada") == disabled)
    assert await here.users.check("ada", "x") is None
    enabled = await there.users.set_disabled("ada", False)
    await eventually(lambda: here.users.find("ada") == enabled)
    assert await here.users.check("ada", "x") == enabled


async def test_set_permissions_replaces_them(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    before = await here.users.add("ada", "x", ["produce"])
    after = await here.users.set_permissions("ada", ["admin"], ["a", "b", "a"])
    assert (after.permissions, after.stations) == (["admin"], ["a", "b"])
    assert after.epoch > before.epoch


async def test_check_user_changed_meanwhile_refused(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    await here.users.add("ada", "x", ["produce"])
    checking = asyncio.create_task(here.users.check("ada", "x"))
    await here.users.set_disabled("ada", True)
    assert await checking is None


async def test_remove_user_ends_everywhere_and_its_epoch_never_returns(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    before = await here.users.add("ada", "x", ["produce"])
    await here.users.remove("ada")
    assert here.users.find("ada") is None
    await eventually(lambda: there.users.records == {})
    with pytest.raises(ClientFault, match="there is no user ada"):
        await here.users.remove("ada")
    again = await here.users.add("ada", "x", ["produce"])
    assert again.epoch > before.epoch


async def test_add_user_twice_refused(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    results = await asyncio.gather(
        here.users.add("ada", "x", ["produce"]),
        there.users.add("ada", "y", ["produce"]),
        return_exceptions=True,
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert len(faults) == 1
    assert faults[0].text == "the user ada exists already"


@pytest.mark.parametrize(
    ("name", "password", "permissions", "stations", "message"),
    [
        ("", "x", ["produce"], ["*"], "user name of 0 characters"),
        ("n" * 129, "x", ["produce"], ["*"], "user name of 129 characters"),
        ("a:b", "x", ["produce"], ["*"], "the user name a:b has"),
        ("a$1", "x", ["produce"], ["*"], "the user name"),
        (" a", "x", ["produce"], ["*"], "outer spaces"),
        ("a\n", "x", ["produce"], ["*"], "the user name"),
        ("a", "", ["produce"], ["*"], "password of 0 bytes"),
        ("a", "x" * 1025, ["produce"], ["*"], "password of 1025 bytes"),
        ("a", "x", [], ["*"], "permissions are among produce, consume, admin; got none"),
        ("a", "x", ["root"], ["*"], "got root"),
        ("a", "x", ["produce"], [], "0 station globs"),
        ("a", "x", ["produce"], ["a b"], "station glob a b"),
        ("a", "x", ["produce"], ["g" * 129], "station glob"),
    ],
)
async def test_add_user_that_cannot_be_told(
    pair: tuple[Gateway, Gateway],
    name: str,
    password: str,
    permissions: list[str],
    stations: list[str],
    message: str,
) -> None:
    with pytest.raises(ClientFault, match=message) as raised:
        await pair[0].users.add(name, password, permissions, stations)
    assert raised.value.kind.status == 400
    assert pair[0].users.records == {}


async def test_change_unknown_user_told(pair: tuple[Gateway, Gateway]) -> None:
    with pytest.raises(ClientFault, match="there is no user ada"):
        await pair[0].users.passwd("ada", "x")


async def test_check_too_many_waiting_refused_and_the_rest_served(
    pair: tuple[Gateway, Gateway],
) -> None:
    users = pair[0].users
    await users.add("ada", "x", ["produce"])
    checks = [asyncio.create_task(users.check("ada", "x")) for _ in range(CHECKS_WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamFault, match="16 password checks wait already") as raised:
        await users.check("ada", "x")
    assert (raised.value.kind.word, raised.value.kind.status) == ("overloaded", 503)
    checks[0].cancel()
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(result == users.find("ada") for result in results[1:])
    assert await users.check("ada", "x") is not None, "a caller that left frees its place as well"


async def test_checker_close_drops_what_waits() -> None:
    checker = PasswordChecker()
    waiting = [asyncio.create_task(checker.verify("x", None)) for _ in range(8)]
    await asyncio.sleep(0)
    checker.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)


# --- tokens ---------------------------------------------------------------------------------------


async def test_open_secrets_made_once_by_two_gateways_at_once(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    tokens = await asyncio.gather(
        *(Tokens.open(gateway.store, AuthConfig()) for gateway in (here, there, here, there))
    )
    user = await here.users.add("ada", "x", ["produce"])
    issued = tokens[0].issue(user, 7)
    for each in (*tokens, await Tokens.open(there.store, AuthConfig())):
        claims = each.verify(issued.jwt)
        assert (claims.sub, claims.account_id, claims.epoch) == ("ada", 7, user.epoch)
        each.verify(issued.refresh_jwt, "refresh")
        with pytest.raises(TokenError):
            each.verify(issued.refresh_jwt, "access")
    keys = await here.store.keys("")
    assert keys == ["signing.access", "signing.refresh", "users.ada"]


async def test_open_damaged_secret_refused(pair: tuple[Gateway, Gateway]) -> None:
    await pair[0].store.put("secrets.jwt", b"short")
    with pytest.raises(InternalError, match=r"secrets.jwt is missing or shorter than 32"):
        await Tokens.open(pair[0].store, AuthConfig())


async def test_open_configured_secrets_leave_the_store_alone(
    pair: tuple[Gateway, Gateway], caplog: pytest.LogCaptureFixture
) -> None:
    config = AuthConfig(jwt_secret="short-one", refresh_jwt_secret="l" * 32)
    await Tokens.open(pair[0].store, config)
    assert await pair[0].store.keys("secrets.") == []
    assert "short-one" not in caplog.text
