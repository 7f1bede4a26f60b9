"""Signing secrets against a real broker: several gateways that start, rotate and remove at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest

from fastgw.config_types import AuthConfig
from fastgw.control.secrets import (
    LEGACY_KID,
    PREFIX,
    SECRETS_MAX,
    SIGNS_AFTER_S,
    Secrets,
    SecretSet,
)
from fastgw.control.store import Store
from fastgw.control.tokens import TokenError, Tokens
from fastgw.control.users import UserRecord
from fastgw.errors import ClientFault, InternalError, UpstreamFault
from tests.integration.brokers import CHANGE_S_MAX, Broker, broker, control, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["broker"]

PROCESSES = 3
PROCESS_S_MAX = 60
USER = UserRecord(name="ada", password_hash="", permissions=["produce"], epoch=7)

OPEN = """
import asyncio, json, sys
from fastgw.config_types import AuthConfig, NatsConfig
from fastgw.control.store import Store
from fastgw.control.tokens import Tokens
from fastgw.control.users import UserRecord
from fastgw.nats.connection import open_control

async def main() -> None:
    client = await open_control(NatsConfig(url=[sys.argv[1]]))
    store = await Store.open(client, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    tokens = await Tokens.open(store, AuthConfig(algorithm=sys.argv[2]))
    user = UserRecord(name="ada", password_hash="", permissions=["produce"], epoch=7)
    pair = tokens.issue(user, 1)
    print(json.dumps([pair.jwt, pair.refresh_jwt]))
    await store.close()
    await client.close()

asyncio.run(main())
"""


class Gateway:
    """The secrets and tokens of one gateway, with a clock that a test sets."""

    def __init__(self, store: Store, **fields: Any) -> None:
        self.now = time.time()
        self.store = store
        config = AuthConfig(**fields)
        self.secrets = Secrets(store, config, clock=lambda: self.now)
        self.tokens = Tokens(self.secrets, config)
        self.changes = 0
        self.removals = 0
        self.secrets.on_change(self._note_change)
        self.secrets.on_removal(self._note_removal)

    def _note_change(self) -> None:
        self.changes += 1

    def _note_removal(self) -> None:
        self.removals += 1

    def kids(self, use: str = "access") -> list[str]:
        return [one.kid for one in self.secrets.list() if one.use == use]

    def issue(self) -> str:
        return self.tokens.issue(USER, 1).jwt

    def knows(self, token: str) -> bool:
        try:
            return self.tokens.verify(token).sub == "ada"
        except TokenError:
            return False


@pytest.fixture
async def stores(broker: Broker) -> AsyncIterator[tuple[Store, Store]]:
    """The stores of two gateways, each with a connection of its own."""
    async with control(broker.config()) as one, control(broker.config()) as two:
        both = (await Store.open(one, 1), await Store.open(two, 1))
        yield both
        for store in both:
            await store.close()


@pytest.fixture
async def pair(stores: tuple[Store, Store]) -> tuple[Gateway, Gateway]:
    """Two gateways that started at once on an empty store."""
    here, there = (Gateway(store) for store in stores)
    await asyncio.gather(here.secrets.start(), there.secrets.start())
    return here, there


def kid_of(token: str) -> str | None:
    kid = jwt.get_unverified_header(token).get("kid")
    return None if kid is None else str(kid)


def legacy_token(raw: bytes, use: str = "a") -> str:
    """A token as it was signed before secrets had kids."""
    now = int(time.time())
    payload = {"sub": "ada", "acc": 1, "ep": 7, "exp": now + 60, "iat": now, "jti": "j"}
    return jwt.encode({**payload, "use": use}, raw, "HS256")


# --- start ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithms", [("HS256", "HS256", "HS256"), ("HS512", "EdDSA", "HS384")])
async def test_open_in_processes_that_start_at_once_one_secret_for_all(
    broker: Broker, stores: tuple[Store, Store], algorithms: tuple[str, ...]
) -> None:
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OPEN, broker.url, algorithm),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for algorithm in algorithms
    ]
    issued: list[list[str]] = []
    async with asyncio.timeout(PROCESS_S_MAX):
        for child in children:
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
        for child in children:
            output, _ = await child.communicate()
            assert child.returncode == 0
            issued.append(json.loads(output))
    tokens = await Tokens.open(stores[0], AuthConfig())
    for access, refresh in issued:
        assert tokens.verify(access).sub == tokens.verify(refresh, "refresh").sub == "ada"
        with pytest.raises(TokenError):
            tokens.verify(refresh)
    assert len({kid_of(access) for access, _ in issued}) == 1
    assert await stores[0].keys("") == ["signing.access", "signing.refresh"]
    assert [one.use for one in tokens.secrets.list()] == ["access", "refresh"]


async def test_start_many_at_once_in_two_gateways_agree(stores: tuple[Store, Store]) -> None:
    for attempt in range(10):
        for key in await stores[0].keys(PREFIX):
            await stores[0].delete(key)
        gateways = [Gateway(stores[number % 2]) for number in range(4)]
        await asyncio.gather(*(gateway.secrets.start() for gateway in gateways))
        token = gateways[attempt % 4].issue()
        assert all(gateway.knows(token) for gateway in gateways)
        assert len({tuple(gateway.secrets.records) for gateway in gateways}) == 1


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "EdDSA"])
async def test_start_again_what_was_issued_before_counts(
    stores: tuple[Store, Store], algorithm: str
) -> None:
    before = Gateway(stores[0], algorithm=algorithm)
    await before.secrets.start()
    token = before.issue()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    after = Gateway(stores[1], algorithm=algorithm)
    await after.secrets.start()
    assert after.knows(token)
    assert after.kids() == before.kids() == [kid_of(token)]


async def test_start_with_another_algorithm_signs_on_until_the_rotation(
    stores: tuple[Store, Store], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await Gateway(stores[0]).secrets.start()
    gateway = Gateway(stores[1], algorithm="EdDSA")
    await gateway.secrets.start()
    assert "access tokens are signed with HS256; EdDSA comes with the next rotation" in caplog.text
    before = gateway.issue()
    await gateway.secrets.rotate()
    gateway.now += SIGNS_AFTER_S
    after = gateway.issue()
    assert [jwt.get_unverified_header(one)["alg"] for one in (before, after)] == ["HS256", "EdDSA"]
    assert gateway.knows(before) and gateway.knows(after)


async def test_start_waits_for_what_another_gateway_made_just_now(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    await Gateway(stores[0]).secrets.start()
    late = stores[1]
    watch = late.watch

    async def lag(prefix: str, on_change: Callable[..., None]) -> None:
        loop = asyncio.get_running_loop()

        def later(*change: object) -> None:
            loop.call_later(0.05, on_change, *change)

        await watch(prefix, later)

    monkeypatch.setattr(late, "watch", lag)
    gateway = Gateway(late)
    await gateway.secrets.start()
    assert gateway.knows(gateway.issue())


async def test_start_damaged_record_refused(stores: tuple[Store, Store]) -> None:
    await stores[0].put("signing.refresh", b"{")
    with pytest.raises(UpstreamFault, match=r"the record signing.refresh is damaged"):
        await Gateway(stores[0]).secrets.start()


async def test_start_without_a_usable_secret_refused(stores: tuple[Store, Store]) -> None:
    await stores[0].put("signing.access", msgspec.json.encode(SecretSet([])))
    with pytest.raises(InternalError, match="no secret for access tokens is in force"):
        await Gateway(stores[0]).secrets.start()


# --- secrets of before kids -----------------------------------------------------------------------


async def test_legacy_secret_is_taken_over_and_signs_until_the_rotation(
    stores: tuple[Store, Store],
) -> None:
    raw, refresh_raw = b"\x00\xff" * 16, b"r" * 40
    await stores[0].put("secrets.jwt", raw)
    await stores[0].put("secrets.refresh", refresh_raw)
    here, there = (Gateway(store) for store in stores)
    await asyncio.gather(here.secrets.start(), there.secrets.start())
    old = legacy_token(raw)
    for gateway in (here, there):
        assert gateway.knows(old)
        assert gateway.tokens.verify(legacy_token(refresh_raw, "r"), "refresh").sub == "ada"
        assert not gateway.knows(legacy_token(refresh_raw))
        assert gateway.kids() == [LEGACY_KID["access"]]
    issued = here.issue()
    assert jwt.decode(issued, raw, algorithms=["HS256"])["sub"] == "ada", "as older gateways do"
    await here.secrets.rotate("access")
    here.now = there.now = here.now + SIGNS_AFTER_S
    await eventually(lambda: len(there.kids()) == 2)
    for token in (old, issued, here.issue()):
        assert here.knows(token) and there.knows(token)
    assert kid_of(there.issue()) == here.kids()[1]


async def test_legacy_secret_removed_ends_its_tokens_and_never_returns(
    stores: tuple[Store, Store],
) -> None:
    raw = b"l" * 32
    await stores[0].put("secrets.jwt", raw)
    here, there = (Gateway(store) for store in stores)
    await asyncio.gather(here.secrets.start(), there.secrets.start())
    await here.secrets.rotate("access")
    await here.secrets.remove(LEGACY_KID["access"])
    assert not here.knows(legacy_token(raw))
    await eventually(lambda: not there.knows(legacy_token(raw)))
    assert await stores[0].get("secrets.jwt") is None
    late = Gateway(stores[1])
    await late.secrets.start()
    assert not late.knows(legacy_token(raw))
    assert late.kids() == here.kids()


async def test_legacy_secret_too_short_refused(stores: tuple[Store, Store]) -> None:
    await stores[0].put("secrets.jwt", b"short")
    with pytest.raises(InternalError, match=r"secrets.jwt is missing or shorter than 32"):
        await Tokens.open(stores[0], AuthConfig())


# --- rotation -------------------------------------------------------------------------------------


async def test_rotate_logs_nobody_out_and_every_gateway_knows_before_the_first_token(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    before = here.issue()
    made = await here.secrets.rotate()
    assert [(one.use, one.algorithm, one.secret) for one in made] == [
        ("access", "HS256", ""),
        ("refresh", "HS256", ""),
    ]
    assert [one.signs_from for one in made] == [one.created_at + SIGNS_AFTER_S for one in made]
    assert await eventually(lambda: there.kids() == here.kids()) < CHANGE_S_MAX
    assert here.kids()[1] == made[0].kid
    assert kid_of(here.issue()) == kid_of(there.issue()) == kid_of(before)
    here.now = there.now = here.now + SIGNS_AFTER_S
    after = here.issue()
    assert kid_of(after) == kid_of(there.issue()) == made[0].kid
    for gateway in pair:
        assert gateway.knows(before) and gateway.knows(after)
        assert gateway.removals == 0


async def test_remove_ends_tokens_everywhere_at_once(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    before = here.issue()
    await here.secrets.rotate("access", "EdDSA")
    here.now = there.now = here.now + SIGNS_AFTER_S
    await eventually(lambda: len(there.kids()) == 2)
    after = there.issue()
    assert jwt.get_unverified_header(after)["alg"] == "EdDSA"
    await there.secrets.remove(str(kid_of(before)))
    assert not there.knows(before)
    assert there.removals == 1
    assert await eventually(lambda: not here.knows(before)) < CHANGE_S_MAX
    assert here.removals == 1
    with pytest.raises(TokenError, match="signed by no secret in force"):
        here.tokens.verify(before)
    assert here.knows(after) and there.knows(after)
    assert here.tokens.verify(here.tokens.issue(USER, 1).refresh_jwt, "refresh").sub == "ada"


async def test_remove_before_the_new_one_may_sign_it_signs_at_once(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    first = here.kids()[0]
    await here.secrets.rotate("access")
    await here.secrets.remove(first)
    assert here.knows(here.issue())
    assert kid_of(here.issue()) != first


async def test_remove_the_last_or_an_unknown_secret_told(pair: tuple[Gateway, Gateway]) -> None:
    here, _ = pair
    for use in ("access", "refresh"):
        with pytest.raises(ClientFault, match=f"is the last secret of {use} tokens") as raised:
            await here.secrets.remove(here.kids(use)[0])
        assert raised.value.kind.status == 409
    for kid in ("", "nothing", "../access", "x" * 5000):
        with pytest.raises(ClientFault, match="there is no signing secret") as raised:
            await here.secrets.remove(kid)
        assert raised.value.kind.status == 404
    assert here.knows(here.issue())


async def test_remove_all_but_what_cannot_be_used_refused(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    found = await here.store.get("signing.access")
    assert found is not None
    record = msgspec.json.decode(found[0], type=SecretSet)
    later = msgspec.structs.replace(record.secrets[0], kid="later", algorithm="ML-DSA-44")
    changes = there.changes
    await here.store.put("signing.access", msgspec.json.encode(SecretSet([*record.secrets, later])))
    await eventually(lambda: there.changes > changes)
    with pytest.raises(ClientFault, match="is the last secret of access tokens"):
        await there.secrets.remove(there.kids()[0])
    await there.secrets.rotate("access")
    kept = await here.store.get("signing.access")
    assert kept is not None and b"ML-DSA-44" in kept[0], "what a later version stored stays"


async def test_rotate_from_two_gateways_at_once_both_count(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    before = here.issue()
    made = await asyncio.gather(*(gateway.secrets.rotate() for gateway in (here, there) * 3))
    kids = [one.kid for secrets in made for one in secrets if one.use == "access"]
    await eventually(lambda: len(here.kids()) == len(there.kids()) == 7)
    assert here.kids() == there.kids()
    assert set(kids) < set(here.kids())
    here.now = there.now = here.now + SIGNS_AFTER_S + 1
    assert kid_of(here.issue()) == kid_of(there.issue())
    for gateway in pair:
        assert gateway.knows(before) and gateway.knows(here.issue())


async def test_rotate_as_often_as_may_be_then_told(pair: tuple[Gateway, Gateway]) -> None:
    here, there = pair
    for _ in range(SECRETS_MAX - 2):
        await here.secrets.rotate("access")
    await eventually(lambda: len(there.kids()) == SECRETS_MAX - 1)
    results = await asyncio.gather(
        here.secrets.rotate("access"), there.secrets.rotate("access"), return_exceptions=True
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert len(faults) == 1
    assert faults[0].text.startswith("16 secrets of access tokens are as many as may be")
    assert len(here.kids()) == SECRETS_MAX
    await here.secrets.remove(here.kids()[0])
    await here.secrets.rotate()


async def test_rotate_without_room_for_one_use_rotates_neither(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, _ = pair
    for _ in range(SECRETS_MAX - 1):
        await here.secrets.rotate("refresh")
    with pytest.raises(ClientFault, match="16 secrets of refresh tokens are as many as may be"):
        await here.secrets.rotate()
    assert len(here.kids()) == 1


async def test_remove_the_last_two_from_two_gateways_at_once_one_stays(
    pair: tuple[Gateway, Gateway],
) -> None:
    here, there = pair
    await here.secrets.rotate("access")
    one, two = here.kids()
    results = await asyncio.gather(
        here.secrets.remove(one), there.secrets.remove(two), return_exceptions=True
    )
    faults = [result for result in results if isinstance(result, ClientFault)]
    assert len(faults) == 1
    assert "is the last secret of access tokens" in faults[0].text
    await eventually(lambda: len(here.kids()) == 1 and here.kids() == there.kids())
    assert there.knows(here.issue())


# --- trouble --------------------------------------------------------------------------------------


async def test_broker_killed_and_back_tokens_count_all_along(
    broker: Broker, pair: tuple[Gateway, Gateway]
) -> None:
    here, there = pair
    before = here.issue()
    broker.kill()
    assert there.knows(before) and there.knows(here.issue())
    await eventually(lambda: not here.store.nc.is_connected)
    with pytest.raises(UpstreamFault, match="the broker is away"):
        await here.secrets.rotate()
    assert len(here.kids()) == 1
    broker.start()
    await eventually(lambda: here.store.nc.is_connected)

    async def rotate() -> None:
        while len(here.kids()) < 2:
            try:
                await here.secrets.rotate("access")
            except UpstreamFault:
                await asyncio.wait_for(here.store.nc.flush(), 5)

    await asyncio.wait_for(rotate(), 20)
    await eventually(lambda: there.kids() == here.kids())
    here.now = there.now = here.now + SIGNS_AFTER_S
    assert there.knows(before) and there.knows(here.issue())


async def test_record_damaged_or_gone_ends_its_tokens(
    pair: tuple[Gateway, Gateway], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = pair
    token = here.issue()
    found = await here.store.get("signing.access")
    assert found is not None
    await here.store.put("signing.access", b"{")
    await eventually(lambda: not here.knows(token) and not there.knows(token))
    assert "no signing secret of access tokens is left" in caplog.text
    with pytest.raises(InternalError, match="no secret for access tokens is in force"):
        there.issue()
    await here.store.put("signing.access", found[0])
    await eventually(lambda: here.knows(token) and there.knows(token))
    await here.store.delete("signing.access")
    await eventually(lambda: not here.knows(token) and not there.knows(token))
    with pytest.raises(InternalError, match=r"signing.access is gone; a restart makes another"):
        await there.secrets.rotate("access")
    late = Gateway(here.store)
    await late.secrets.start()
    await eventually(lambda: there.kids() == late.kids())
    assert there.knows(late.issue())
    assert not late.knows(token)


async def test_record_that_comes_and_goes_is_a_defect(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(stores[0])
    assert gateway.secrets._mirror is not None
    await stores[0].put("signing.access", msgspec.json.encode(SecretSet([])))

    async def nothing(name: str) -> None:
        return None

    monkeypatch.setattr(gateway.secrets._mirror, "read", nothing)
    with pytest.raises(InternalError, match=r"the stored record signing.access comes and goes"):
        await gateway.secrets.start()


# --- configured -----------------------------------------------------------------------------------


async def test_configured_secrets_leave_the_store_alone(stores: tuple[Store, Store]) -> None:
    gateway = Gateway(stores[0], jwt_secret="j" * 32, refresh_jwt_secret="r" * 32)
    await gateway.secrets.start()
    assert gateway.knows(gateway.issue())
    assert await stores[0].keys("") == []


async def test_configured_secret_wins_over_the_stored_ones(stores: tuple[Store, Store]) -> None:
    stored = Gateway(stores[0])
    await stored.secrets.start()
    before = stored.issue()
    configured = Gateway(stores[1], jwt_secret="j" * 32)
    await configured.secrets.start()
    assert not configured.knows(before), "who reads the broker's store cannot make tokens"
    token = configured.issue()
    assert configured.knows(token) and not stored.knows(token)
    assert configured.kids("refresh") == stored.kids("refresh")
    await stored.secrets.rotate()
    await eventually(lambda: len(configured.kids("refresh")) == 2)
    assert configured.kids() == [kid_of(token)]
    with pytest.raises(ClientFault, match=r"configured as auth.jwt_secret"):
        await configured.secrets.rotate()
    await configured.secrets.rotate("refresh")
    assert len(configured.kids("refresh")) == 3
    with pytest.raises(ClientFault, match="there is no signing secret"):
        await configured.secrets.remove(stored.kids()[0])
