"""Password hashes: what is stored, what is accepted, and what a damaged record cannot do."""

from __future__ import annotations

import hashlib

import pytest

from fastgw.control.users import hash_password, verify_password
from fastgw.errors import ClientFault

# SOURCE: RFC 7914 section 12, scrypt("password", "NaCl", N=1024, r=8, p=16, 64), first 32 bytes.
RFC_7914 = "scrypt$ln=10,r=8,p=16$TmFDbA$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWI"


def test_hash_is_as_documented_and_salted() -> None:
    first, second = hash_password("sesame"), hash_password("sesame")
    assert first.startswith("scrypt$ln=14,r=8,p=5$")
    assert first != second
    assert "sesame" not in first
    assert verify_password("sesame", first)
    assert verify_password("sesame", second)
    assert not verify_password("Sesame", first)
    assert not verify_password("", first)


def test_verify_agrees_with_the_rfc() -> None:
    digest = hashlib.scrypt(b"password", salt=b"NaCl", n=1024, r=8, p=16, dklen=64)
    assert digest.hex().startswith(
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
    )
    # Its salt of 4 bytes is shorter than any of ours, so the text is refused as a record.
    assert not verify_password("password", RFC_7914)


def test_hash_password_that_cannot_be_told() -> None:
    for password in ("", "x" * 1025, "é" * 513):
        with pytest.raises(ClientFault, match="is not 1 to 1024 bytes long") as raised:
            hash_password(password)
        assert "é" not in raised.value.text


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "plain",
        "scrypt$ln=14,r=8,p=5$$",
        "scrypt$ln=18,r=8,p=5$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "scrypt$ln=0,r=8,p=5$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "scrypt$ln=14,r=99,p=5$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "scrypt$ln=14,r=8,p=99$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "scrypt$ln=4,r=8,p=1$AAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "scrypt$ln=4,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA\n",
    ],
)
def test_verify_damaged_or_costly_record_is_no_match(stored: str) -> None:
    assert not verify_password("x", stored)


def test_verify_overlong_password_is_no_match() -> None:
    stored = "scrypt$ln=4,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"
    assert not verify_password("x" * 100_000, stored)
    assert not verify_password("x", stored)
