"""Authenticate, refresh and identify against fakes: no broker, no socket, no clock."""

from __future__ import annotations

import base64
import gc
import importlib
import json
import pkgutil
import weakref
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

import pytest

import fastgw
from fastgw._core import Principal
from fastgw.config_types import AuthConfig, Config
from fastgw.control.issuers import Issuers, OutsideClaims
from fastgw.control.tokens import TokenError, Tokens
from fastgw.errors import Fault, InternalError, UpstreamFault
from fastgw.handlers import BodyError, fail_with_message, parse_body
from fastgw.handlers.auth import Auth, find_query
from tests.unit.handler_fakes import FakeKeys, FakeRequest, FakeUsers, make_user
from tests.unit.signing_fakes import tokens as make_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable

SECRET = "0123456789abcdef0123456789abcdef"


def make(users: FakeUsers | None = None, **fields: Any) -> tuple[Auth, Tokens, FakeUsers]:
    auth, tokens, users, _ = make_all(users, **fields)
    return auth, tokens, users


def make_all(
    users: FakeUsers | None = None, issuers: Any = None, **fields: Any
) -> tuple[Auth, Tokens, FakeUsers, FakeKeys]:
    config = Config(auth=AuthConfig(**fields))
    tokens = make_tokens(SECRET.encode(), SECRET[::-1].encode(), **fields)
    fakes, fake_keys = users or FakeUsers(), FakeKeys()
    any_users: Any = fakes
    any_keys: Any = fake_keys
    auth = Auth(config, any_users, any_keys, tokens, issuers or Issuers([]))
    return auth, tokens, fakes, fake_keys


async def authenticate(auth: Auth, query: bytes = b"", **body: Any) -> Any:
    request = FakeRequest(
        json.dumps({"username": "ann", "password": "ann!"} | body).encode(), query
    )
    await auth.authenticate(request)
    return request.answer


async def test_authenticate_caps_silently_and_tells_the_real_value() -> None:
    auth, _, _ = make(token_expiry_minutes_max=30, refresh_token_expiry_minutes_max=60)
    _, answer, _ = await authenticate(
        auth, token_expiry_in_minutes=10**9, refresh_token_expiry_in_minutes=10**9
    )
    assert answer["expires_in"] == 30 * 60_000
    assert answer["refresh_token_expires_in"] == 60 * 60_000
    _, answer, _ = await authenticate(auth, token_expiry_in_minutes=1)
    assert answer["expires_in"] == 60_000


async def test_authenticate_defaults_come_from_the_configuration() -> None:
    auth, _, _ = make(token_expiry_minutes=7, refresh_token_expiry_minutes=8)
    nothing: dict[str, Any] = {}
    zero = {"token_expiry_in_minutes": None, "refresh_token_expiry_in_minutes": 0}
    for absent in (nothing, zero):
        _, answer, headers = await authenticate(auth, **absent)
        assert (answer["expires_in"], answer["refresh_token_expires_in"]) == (420_000, 480_000)
        assert headers[b"Cache-Control"] == b"no-store"


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        (b"", {"account_id": 5}, 200),
        (b"", {"account_id": "5"}, 200),
        (b"", {"account_id": "05"}, 200),
        (b"accountId=5", {}, 200),
        (b"accountId=5", {"account_id": 6}, 401),
        (b"accountId=6", {"account_id": 5}, 200),
        (b"", {"username": "ann$5"}, 200),
        (b"", {"username": "ann$6"}, 401),
        (b"accountId=5", {"username": "ann$6"}, 200),
        (b"", {"username": "$5"}, 401),
        (b"", {"username": "ann$x"}, 401),
        (b"", {}, 200),
        (b"", {"account_id": "\u0665"}, 400),
        (b"", {"account_id": "5" * 20}, 400),
        (b"", {"account_id": 2**63}, 400),
    ],
)
async def test_authenticate_account_first_place_wins(
    query: bytes, body: dict[str, Any], status: int
) -> None:
    auth, _, _ = make(account_id=5)
    assert (await authenticate(auth, query, **body))[0] == status


async def test_authenticate_other_account_costs_a_check_too() -> None:
    auth, _, users = make()
    assert (await authenticate(auth, account_id=2))[0] == 401
    assert users.checked == ["ann"]


async def test_authenticate_broker_trouble_is_503_with_message() -> None:
    auth, _, users = make()
    users.fault = UpstreamFault("overloaded", "too many password checks wait")
    status, body, headers = await authenticate(auth)
    assert (status, body) == (503, {"message": "too many password checks wait"})
    assert headers == {b"Error-Code": b"overloaded", b"Retry-After": b"1"}


async def test_authenticate_texts_never_hold_the_password() -> None:
    auth, _, _ = make()
    for body in ({"username": 5}, {"account_id": "ann!"}, {"token_expiry_in_minutes": "ann!"}):
        _, answer, _ = await authenticate(auth, **body)
        assert "ann!" not in str(answer)


async def test_refused_login_is_forgotten() -> None:
    """A fault that is raised again keeps the frames of all its raises, with all that they knew."""
    auth, _, _ = make()
    requests = []
    for body in ({"username": "ann", "password": "wrong"}, {"jwt_refresh_token": "wrong"}):
        request = FakeRequest(json.dumps(body).encode())
        await (auth.refresh if "jwt_refresh_token" in body else auth.authenticate)(request)
        assert request.answer[0] == 401
        requests.append(weakref.ref(request))
    del request
    gc.collect()
    assert [one() for one in requests] == [None, None]


def test_no_module_keeps_a_fault_to_raise() -> None:
    for found in pkgutil.walk_packages(fastgw.__path__, "fastgw."):
        if not found.name.endswith("__main__"):
            kept = vars(importlib.import_module(found.name))
            assert not [name for name, one in kept.items() if isinstance(one, BaseException)]


def test_fail_with_message_leaves_defects_and_401_to_the_core() -> None:
    for fault in (InternalError("the inside"), Fault("unauthorized", "why")):
        request = FakeRequest()
        fail_with_message(request, fault)
        assert request.answer[1] is fault


async def test_refresh_needs_a_user_as_it_was() -> None:
    auth, tokens, users = make()
    ann = users.records["ann"]

    async def refresh(token: str) -> int:
        request = FakeRequest(json.dumps({"jwt_refresh_token": token}).encode())
        await auth.refresh(request)
        status = request.answer[0]
        assert isinstance(status, int)
        return status

    token = tokens.issue(ann, 1).refresh_jwt
    assert await refresh(token) == 200
    assert await refresh(tokens.issue(ann, 1).jwt) == 401
    assert await refresh(tokens.issue(ann, 2).refresh_jwt) == 401
    users.records["ann"] = make_user("ann", epoch=8)
    assert await refresh(token) == 401
    users.records["ann"] = make_user("ann", disabled=True)
    assert await refresh(token) == 401
    del users.records["ann"]
    assert await refresh(token) == 401


def bearer(value: str) -> FakeRequest:
    return FakeRequest(fields={b"authorization": value.encode("latin-1")})


def test_identify_principal_is_the_user_as_it_is_now() -> None:
    auth, tokens, users = make()
    users.records["ann"] = make_user("ann", permissions=["consume", "admin"], stations=["a.*"])
    pair = tokens.issue(users.records["ann"], 1, 10)
    found = auth.identify(bearer(f"Bearer {pair.jwt}"))
    assert isinstance(found, Principal)
    assert (found.user, found.account_id, found.permissions) == ("ann", 1, 6)
    assert (found.stations, found.epoch) == (("a.*",), 7)
    assert found.expires_at == tokens.verify(pair.jwt).exp
    assert found.may(2, "a.b") and not found.may(2, "b") and not found.may(1, "a.b")


@pytest.mark.parametrize(
    "form", ["Bearer {}", "Bearer: {}", "x {}", "Bearer   {}", " Bearer {} ", "bASICx {}"]
)
def test_identify_any_word_then_a_token(form: str) -> None:
    auth, tokens, users = make()
    token = tokens.issue(users.records["ann"], 1).jwt
    assert isinstance(auth.identify(bearer(form.format(token))), Principal)


@pytest.mark.parametrize("form", ["{}", "Bearer {} x", "Bearer", "", "Bearer {}x", "Bearer x{}"])
def test_identify_other_forms_are_nobody(form: str) -> None:
    auth, tokens, users = make()
    token = tokens.issue(users.records["ann"], 1).jwt
    assert auth.identify(bearer(form.format(token))) is None


def test_identify_query_only_without_the_header() -> None:
    auth, tokens, users = make()
    token = tokens.issue(users.records["ann"], 1).jwt
    for name in ("authorization", "access_token"):
        request = FakeRequest(query=f"a=1&{name}={token}".encode())
        assert isinstance(auth.identify(request), Principal)
        request.fields[b"authorization"] = b"Bearer x"
        assert auth.identify(request) is None
    assert auth.identify(FakeRequest()) is None


async def identify_basic(auth: Auth, text: bytes) -> Principal | None:
    found = auth.identify(bearer(f"Basic {base64.b64encode(text).decode()}"))
    assert isawaitable(found)
    return await found


async def test_identify_basic_checks_the_password() -> None:
    auth, _, _ = make()
    found = await identify_basic(auth, b"ann:ann!")
    assert isinstance(found, Principal)
    assert (found.user, found.expires_at) == ("ann", float("inf"))
    for wrong in (b"ann:x", b"ann", b"", b":", b"\xff:\xff", b"ann:ann!:"):
        assert await identify_basic(auth, wrong) is None
    for broken in ("!", "YW5uOmFubiE", "é"):
        found_or_wait = auth.identify(bearer(f"Basic {broken}"))
        assert isawaitable(found_or_wait) and await found_or_wait is None


def test_identify_key_in_every_place() -> None:
    auth, _, _, keys = make_all()
    keys.put("fgw_x", name="debezium", permissions=["consume"], stations=["a.*"], expires_at=9.5)
    places: list[dict[str, Any]] = [
        {"fields": {b"authorization": b"Bearer fgw_x"}},
        {"fields": {b"authorization": b"Bearer: fgw_x"}},
        {"fields": {b"x-api-key": b" fgw_x "}},
        {"query": b"authorization=fgw_x"},
        {"query": b"a=1&access_token=fgw_x"},
    ]
    for place in places:
        found = auth.identify(FakeRequest(**place))
        assert isinstance(found, Principal), place
        assert (found.user, found.key, found.permissions) == ("key:debezium", "debezium", 2)
        assert (found.stations, found.expires_at, found.account_id) == (("a.*",), 9.5, 1)
    for fields in ({b"x-api-key": b"fgw_y"}, {b"authorization": b"Bearer fgw_y"}):
        assert auth.identify(FakeRequest(fields=fields)) is None
    keys.put("fgw_z")
    found = auth.identify(FakeRequest(fields={b"x-api-key": b"fgw_z"}))
    assert isinstance(found, Principal) and found.expires_at == float("inf")


def test_identify_first_credential_decides_alone() -> None:
    auth, tokens, users, keys = make_all()
    keys.put("fgw_x")
    token = tokens.issue(users.records["ann"], 1).jwt
    request = FakeRequest(query=f"access_token={token}".encode(), certificate_user="bob")
    order: list[tuple[bytes, bytes, str | None]] = [
        (b"x-api-key", b"fgw_wrong", None),
        (b"x-api-key", b"fgw_x", "key:k"),
        (b"authorization", b"Bearer wrong", None),
        (b"authorization", f"Bearer {token}".encode(), "ann"),
    ]
    assert find_user(auth, request) == "ann"
    for name, value, user in order:
        request.fields[name] = value
        assert find_user(auth, request) == user


def find_user(auth: Auth, request: FakeRequest) -> str | None:
    found = auth.identify(request)
    assert found is None or isinstance(found, Principal)
    return found and found.user


def test_identify_certificate_is_a_user_as_it_is_now() -> None:
    auth, _, users = make()
    assert find_user(auth, FakeRequest(certificate_user="ann")) == "ann"
    assert find_user(auth, FakeRequest(certificate_user="eve")) is None
    assert find_user(auth, FakeRequest(certificate_user="")) is None
    wrong = FakeRequest(certificate_user="ann", query=b"access_token=wrong")
    assert find_user(auth, wrong) is None
    users.records["ann"] = make_user("ann", disabled=True)
    assert find_user(auth, FakeRequest(certificate_user="ann")) is None


class FakeIssuers:
    """Issuers that all tokens are from, whose verdict is set."""

    def __init__(self, verdict: OutsideClaims | Fault, *, is_late: bool) -> None:
        self._verdict = verdict
        self._is_late = is_late

    def claims_issuer(self, token: str) -> bool:
        return True

    def verify(self, token: str) -> OutsideClaims | Awaitable[OutsideClaims]:
        return self._verify() if self._is_late else self._verdict_now()

    async def _verify(self) -> OutsideClaims:
        return self._verdict_now()

    def _verdict_now(self) -> OutsideClaims:
        if isinstance(self._verdict, Fault):
            raise self._verdict
        return self._verdict


async def identify_outside(
    verdict: OutsideClaims | Fault, *, is_late: bool, users: FakeUsers | None = None
) -> Principal | None:
    auth, _, _, _ = make_all(users, FakeIssuers(verdict, is_late=is_late))
    found = auth.identify(bearer("Bearer x"))
    return await found if isawaitable(found) else found


@pytest.mark.parametrize("is_late", [False, True])
async def test_identify_outside_claims_make_a_principal(is_late: bool) -> None:
    claims = OutsideClaims("okta", "ann", ("produce", "admin"), ("a.*",), 9.5, "claims")
    found = await identify_outside(claims, is_late=is_late)
    assert found is not None
    assert (found.user, found.permissions, found.stations) == ("okta:ann", 5, ("a.*",))
    assert (found.expires_at, found.epoch, found.account_id, found.key) == (9.5, 0, 1, None)
    nothing = OutsideClaims("okta", "ann", (), (), 9.5, "claims")
    found = await identify_outside(nothing, is_late=is_late)
    assert found is not None and not found.may(1, "a")
    assert await identify_outside(TokenError("why"), is_late=is_late) is None


@pytest.mark.parametrize("is_late", [False, True])
async def test_identify_outside_user_is_decided_by_its_record(is_late: bool) -> None:
    claims = OutsideClaims("okta", "ann", (), (), 9.5, "user")
    users = FakeUsers()
    found = await identify_outside(claims, is_late=is_late, users=users)
    assert found is not None
    assert (found.user, found.permissions, found.stations) == ("ann", 1, ("*",))
    assert (found.expires_at, found.epoch) == (9.5, 7)
    users.records["ann"] = make_user("ann", disabled=True)
    assert await identify_outside(claims, is_late=is_late, users=users) is None
    del users.records["ann"]
    assert await identify_outside(claims, is_late=is_late, users=users) is None


async def test_identify_outside_keys_away_is_told() -> None:
    with pytest.raises(UpstreamFault):
        await identify_outside(UpstreamFault("overloaded", "later"), is_late=True)


def test_identify_mode_none_is_everyone() -> None:
    auth, _, _ = make(mode="none")
    found = auth.identify(bearer("Bearer nonsense"))
    assert isinstance(found, Principal)
    assert found.permissions == 7 and found.may(4, "anything")


def test_identify_bits_fit_the_core() -> None:
    from fastgw import _core

    assert (_core.PRODUCE, _core.CONSUME, _core.ADMIN) == (1, 2, 4)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", None),
        (b"a=1", "1"),
        (b"b=2&a=1", "1"),
        (b"a", ""),
        (b"a=%41%20", "A "),
        (b"a=1&a=2", "2"),
        (b"x=1&" * 200, None),
        (b"\xff=1&a=2", "2"),
    ],
)
def test_find_query(query: bytes, found: str | None) -> None:
    assert find_query(query, "a") == found


def test_parse_body_out_of_range_names_the_field() -> None:
    import msgspec

    from fastgw.handlers.auth import AuthenticateBody

    decoder = msgspec.json.Decoder(AuthenticateBody)
    with pytest.raises(BodyError, match="account_id: value out of range"):
        parse_body(decoder, b'{"account_id":' + b"9" * 5000 + b"}")
    with pytest.raises(BodyError, match=r"^account_id: expected integer or string, got boolean$"):
        parse_body(decoder, b'{"account_id":true}')
    with pytest.raises(BodyError, match=r"^Request body: expected object, got array$"):
        parse_body(decoder, b"[]")
