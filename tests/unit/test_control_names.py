"""Names: of keys in the store, of stations, of streams."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.control.stations import check_station_name, stream_name
from fastgw.control.store import decode_name, encode_name
from fastgw.control.users import UserRecord, check_user_name
from fastgw.errors import ClientFault

# SOURCE: nats-py's own check of a key.
LEGAL_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)


@given(NAMES)
def test_encode_name_any_name_is_one_legal_token(name: str) -> None:
    token = encode_name(name)
    assert LEGAL_KEY.fullmatch(token)
    assert "." not in token and "/" not in token
    assert decode_name(token) == name


@given(NAMES, NAMES)
def test_encode_name_names_that_differ_stay_different(one: str, two: str) -> None:
    assert (encode_name(one) == encode_name(two)) == (one == two)


@pytest.mark.parametrize("token", ["a=", "a=2e", "a=41", "a.b", "=FF", "a b", "=C3"])
def test_decode_name_token_that_encodes_nothing_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"encodes no name|can't decode|codec"):
        decode_name(token)


@pytest.mark.parametrize("name", ["a", "A1", "a.b", "a-b_c", "9", "a" * 128, "a--b", "x.y.z"])
def test_check_station_name_legal(name: str) -> None:
    check_station_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a" * 129, ".a", "a.", "-a", "a_", "a..b", "a b", "a*", ">", "a>b", "a\r\n"),
        *("a\x00", "ä", "a/b", "a%00", "$a", "#a", "a#b", "_INBOX.x", "a\n"),
    ],
)
def test_check_station_name_illegal_told(name: str) -> None:
    with pytest.raises(ClientFault) as raised:
        check_station_name(name)
    assert raised.value.kind.word == "bad-station"
    assert raised.value.text.isprintable()


def test_stream_name_has_no_dot_and_is_unique() -> None:
    assert stream_name("a.b.c") == "a#b#c"
    assert stream_name("a-b") == "a-b"


def test_check_user_name_legal() -> None:
    for name in ("ada", "ada@example.org", "Ada Lovelace", "ünï", "a" * 128, "a.b/c\\d*>"):
        check_user_name(name)


def test_user_record_of_a_later_version_is_still_read() -> None:
    import msgspec

    raw = b'{"name":"a","password_hash":"h","permissions":["produce"],"added_later":1}'
    record = msgspec.json.decode(raw, type=UserRecord)
    assert (record.stations, record.disabled) == (["*"], False)
