"""Small requests that ask for much work: each has a clear answer, soon, in little memory.

Every bomb is sent to a running gateway while another connection asks `/healthz` again and again:
those answers must come in time, and the memory of the process may not grow past a bound.
"""

from __future__ import annotations

import base64
import gzip
import json
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.wire.bombs import ANSWER_S_MAX, BODY_BYTES_MAX, REFUSED, check, post, send, watched
from tests.wire.gateway import ADMIN, PASSWORD, Gateway, serving, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    from collections.abc import Iterator


GIB: Final = 1 << 30
BATCH_BYTES_MAX: Final = 8 << 20
TEN_GB: Final = 10_000_000_000

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is looked up in /proc"
)


# --- bombs ----------------------------------------------------------------------------------------


def deflated_zeros(size: int, wbits: int) -> bytes:
    """Deflate zeros, 1,030 to 1; one piece is deflated once and repeated."""
    piece_size = 1 << 26
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = packer.compress(b"\0" * piece_size) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(b"\0" * piece_size) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (size // piece_size) + packer.flush()


def zstd_zeros(size: int) -> bytes:
    """A frame of RLE blocks, 32,768 to 1. SOURCE: RFC 8878 §3.1.1."""
    block = (131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    last = (1 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + block * (size // 131_072) + last


@pytest.fixture(scope="module")
def packed() -> dict[str, tuple[str, bytes]]:
    """Bombs by name: the coding, and the bytes."""
    gzipped = deflated_zeros(TEN_GB, 31)
    once = gzip.compress(b"\0" * (1 << 26))
    fits = BODY_BYTES_MAX - 1000
    return {
        "gzip": ("gzip", deflated_zeros(GIB - (1 << 27), 31)),
        "gzip of 10 GB": ("gzip", gzipped),
        "deflate": ("deflate", deflated_zeros(GIB - (1 << 27), 15)),
        "deflate raw": ("deflate", deflated_zeros(GIB - (1 << 27), -15)),
        "zstd of 10 GB": ("zstd", zstd_zeros(TEN_GB)),
        "members": ("gzip", gzip.compress(b"") * (fits // 20)),
        "full members": ("gzip", once * (fits // len(once))),
        "frames": ("zstd", b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00" * (fits // 9)),
        "skippable frames": ("zstd", b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * (fits // 8)),
        "skippable frame of 4 GB": ("zstd", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + b"x" * 100),
        "window of 3 TB": ("zstd", b"\x28\xb5\x2f\xfd\x00\xff\x02\x00\x10\x00"),
        "content of 2^62": ("zstd", b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x3f\x03\0\x10\0"),
        "nested codings": ("gzip, gzip", gzip.compress(once)),
        "many codings": (", ".join(["gzip"] * 500), once),
    }


PACKED: Final = (
    "gzip", "gzip of 10 GB", "deflate", "deflate raw", "zstd of 10 GB", "members", "full members",
    "frames", "skippable frames", "skippable frame of 4 GB", "window of 3 TB", "content of 2^62",
    "nested codings", "many codings",
)  # fmt: skip


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of this module, whose memory no other test moves."""
    with serving(tmp_path_factory.mktemp("bombs") / "data") as running:
        running.produce("plain", b"first")
        yield running


# --- content codings ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("action", ["single", "batch"])
def test_coded_bomb_is_refused(
    bombed: Gateway, packed: dict[str, tuple[str, bytes]], name: str, action: str
) -> None:
    coding, body = packed[name]
    responses = post(bombed, f"/stations/plain/produce/{action}", body, Content_Encoding=coding)
    if len(body) > BATCH_BYTES_MAX and not responses:
        # A reset overtook the answer, which was given for the Content-Length alone.
        return
    check(responses)


@pytest.mark.parametrize("name", ["gzip", "zstd of 10 GB"])
@pytest.mark.parametrize(
    "target", ["/auth/authenticate", "/auth/refreshToken", "/stations/plain/consume/batch"]
)
def test_coded_bomb_to_a_handler_is_refused(
    bombed: Gateway, packed: dict[str, tuple[str, bytes]], name: str, target: str
) -> None:
    coding, body = packed[name]
    check(post(bombed, target, body, Content_Encoding=coding))


@pytest.mark.parametrize("target", ["/users/bomb", "/keys/bomb", "/schemas/bomb", "/stations/bomb"])
def test_coded_bomb_to_the_administration_is_refused(
    bombed: Gateway, packed: dict[str, tuple[str, bytes]], target: str
) -> None:
    coding, body = packed["zstd of 10 GB"]
    check(post(bombed, target, body, method="PUT", Content_Encoding=coding))


def test_coded_bomb_without_a_credential_is_not_even_inflated(
    bombed: Gateway, packed: dict[str, tuple[str, bytes]]
) -> None:
    coding, body = packed["zstd of 10 GB"]
    data = build("/stations/plain/produce/single", body, headers={"Content-Encoding": coding})
    check(send(bombed, data), {401})


def test_many_coded_bombs_at_once_are_refused(
    bombed: Gateway, packed: dict[str, tuple[str, bytes]]
) -> None:
    coding, body = packed["gzip"]
    headers = bombed.auth(Content_Encoding=coding)
    data = build("/stations/plain/produce/single", body, headers=headers)
    with watched(bombed):
        wires = [bombed.wire() for _ in range(40)]
        try:
            for wire in wires:
                wire.send(data)
            statuses = {wire.expect(ANSWER_S_MAX).status for wire in wires}
        finally:
            for wire in wires:
                wire.close()
    assert statuses <= {413, 503}, statuses


def test_nested_gzip_is_undone_once_and_stored_as_it_is(bombed: Gateway) -> None:
    inner = gzip.compress(gzip.compress(b"\0" * (1 << 28)))
    body = gzip.compress(inner)
    check(post(bombed, "/stations/nested/produce/single", body, Content_Encoding="gzip"), {200})
    assert [message.data for message in bombed.stored("nested")] == [inner]


# --- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["1000000000", "9" * 18, "9" * 19, "9" * 30, "9" * 5000])
def test_length_declared_is_refused_at_once(bombed: Gateway, length: str) -> None:
    headers = bombed.auth(Content_Length=length)
    data = build("/stations/plain/produce/single", None, headers=headers)
    check(send(bombed, data))


@pytest.mark.parametrize("size", [b"3b9aca00", b"7fffffffffffffff", b"f" * 16, b"f" * 17])
@pytest.mark.parametrize("action", ["single", "batch"])
def test_chunk_declared_is_refused_once_too_much_came(
    bombed: Gateway, size: bytes, action: str
) -> None:
    headers = bombed.auth(Transfer_Encoding="chunked")
    head = build(f"/stations/plain/produce/{action}", None, headers=headers)
    with watched(bombed), bombed.wire() as wire:
        wire.send(head + size + b"\r\n")
        for _ in range(200):
            wire.send(b"x" * 65_536)
        wire.half_close()
        responses = wire.drain()
    # A reset may have overtaken the answer when we kept sending long after it.
    assert [response.status for response in responses] in ([413], [400], [])


def test_chunk_declared_without_its_bytes_costs_nothing(bombed: Gateway) -> None:
    headers = bombed.auth(Transfer_Encoding="chunked")
    head = build("/stations/plain/produce/single", None, headers=headers)
    with watched(bombed):
        wires = [bombed.wire() for _ in range(50)]
        for wire in wires:
            wire.send(head + b"3b9aca00\r\nx")
        bombed.produce("plain", b"meanwhile")
        for wire in wires:
            wire.close()


# --- JSON -----------------------------------------------------------------------------------------

DEEP: Final = {
    "arrays": b"[" * 100_000 + b"]" * 100_000,
    "open arrays": b"[" * 100_000,
    "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "mixed": b'[{"a":' * 50_000 + b"1" + b"}]" * 50_000,
    "below 64 KiB": b"[" * 30_000 + b"]" * 30_000,
}


def attach(gateway: Gateway, name: str, bad: bytes, kind: str = "application/json") -> str:
    """Make a station whose schema is `name`; wait until it refuses `bad`."""
    body = json.dumps({"schema": name}).encode()
    check(post(gateway, f"/stations/{name}", body, method="PUT"), {200, 201})
    target = f"/stations/{name}/produce/single"
    headers = gateway.auth(Content_Type=kind)
    wait_until(lambda: gateway.ask(target, bad, headers=headers).status == 400, 10, name)
    return target


@pytest.fixture(scope="module")
def json_station(bombed: Gateway) -> str:
    schema = {"type": ["object", "array", "number"], "required": ["x"], "maximum": 1e300}
    body = json.dumps({"type": "json", "text": json.dumps(schema)}).encode()
    check(post(bombed, "/schemas/judged", body, method="PUT"), {200, 201})
    return attach(bombed, "judged", b'"text"')


@pytest.mark.parametrize("name", DEEP)
def test_deep_json_is_refused_by_whoever_reads_it(
    bombed: Gateway, json_station: str, name: str
) -> None:
    body = DEEP[name]
    check(post(bombed, json_station, body))
    for kind in ("application/json", "application/x-ndjson", "application/vnd.fastgw.batch+json",
                 "application/cloudevents-batch+json"):  # fmt: skip
        check(post(bombed, "/stations/judged/produce/batch", body, Content_Type=kind))
    for target in ("/auth/authenticate", "/auth/refreshToken", "/stations/plain/consume/batch"):
        check(post(bombed, target, body))
    for target in ("/users/bomb", "/keys/bomb", "/schemas/bomb", "/stations/bomb"):
        check(post(bombed, target, body, method="PUT"))
    check(post(bombed, "/secrets/rotate", body))


def test_deep_json_where_nobody_reads_it_is_stored(bombed: Gateway) -> None:
    check(post(bombed, "/stations/unread/produce/single", DEEP["arrays"]), {200})
    assert [message.data for message in bombed.stored("unread")] == [DEEP["arrays"]]


NDJSON: Final = "application/x-ndjson"
VND: Final = "application/vnd.fastgw.batch+json"
EVENTS: Final = "application/cloudevents-batch+json"
EVENT_HEAD: Final = b'[{"specversion":"1.0","id":"1","source":"s","type":"t"'
WIDE: Final = {
    "10,001 elements": ("application/json", b"[" + b",".join([b"1"] * 10_001) + b"]"),
    "8 MiB of arrays": ("application/json", b"[" + b",".join([b"[]"] * 2_790_000) + b"]"),
    "8 MiB of digits": ("application/json", b"[" + b"1" * (BATCH_BYTES_MAX - 9) + b"]"),
    "8 MiB of spaces": ("application/json", b"[" + b" " * (BATCH_BYTES_MAX - 9)),
    "8 MiB of commas": ("application/json", b"[" + b"," * (BATCH_BYTES_MAX - 9)),
    "8 MiB of quotes": ("application/json", b"[" + b'"' * (BATCH_BYTES_MAX - 9)),
    "8 MiB of backslashes": ("application/json", b'["' + b"\\" * (BATCH_BYTES_MAX - 9)),
    "above the bound": ("application/json", b"[" + b"1," * BATCH_BYTES_MAX),
    "10,001 lines": (NDJSON, b"1\n" * 10_001),
    "8 MiB of lines": (NDJSON, b"1\n" * (BATCH_BYTES_MAX // 2 - 9)),
    "10,001 messages": (VND, b"[" + b",".join([b'{"message":1}'] * 10_001) + b"]"),
    "300,000 headers": (
        VND,
        b'[{"message":1,"headers":{' + b",".join([b'"h%d":"v"' % n for n in range(300_000)])
        + b"}}]",
    ),
    "8 MiB of attributes": (
        EVENTS,
        EVENT_HEAD + b"".join(b',"a%d":1' % n for n in range(400_000)) + b"}]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_wide_batch_is_refused_whole(bombed: Gateway, name: str) -> None:
    kind, body = WIDE[name]
    station = f"wide-{list(WIDE).index(name)}"
    responses = post(bombed, f"/stations/{station}/produce/batch", body, Content_Type=kind)
    if len(body) > BATCH_BYTES_MAX and not responses:
        return
    check(responses)
    assert bombed.stored(station) == []


def test_empty_lines_are_no_messages(bombed: Gateway) -> None:
    body = b"\n" * (BATCH_BYTES_MAX - 9)
    target = "/stations/plain/produce/batch"
    check(post(bombed, target, body, Content_Type=NDJSON), REFUSED | {200})


def test_batch_of_failures_is_told_within_bounds(bombed: Gateway, json_station: str) -> None:
    """10,000 refused elements: each has its reason, and they are what the client asked for."""
    body = b"[" + b",".join([b'"' + b"x" * 700 + b'"'] * 10_000) + b"]"
    (response,) = post(bombed, "/stations/judged/produce/batch", body)
    assert (response.status, response.json()["fail"]) == (400, 10_000)
    assert len(response.body) < BATCH_BYTES_MAX


NUMBERS: Final = {
    "exponent": b"1e400000000",
    "small exponent": b"1e-400000000",
    "digits": b"9" * 1_000_000,
    "fraction": b"0." + b"3" * 1_000_000,
    "digits of an exponent": b"1e" + b"9" * 1_000_000,
    "zeros": b"-0." + b"0" * 1_000_000 + b"e" + b"0" * 1000,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_huge_number_is_judged_in_time(bombed: Gateway, json_station: str, name: str) -> None:
    number = NUMBERS[name]
    check(post(bombed, json_station, number), REFUSED | {200})
    check(post(bombed, json_station, b'{"x":' + number + b"}"), REFUSED | {200})
    short = number[:60_000]
    for field in (b"token_expiry_in_minutes", b"account_id"):
        body = b'{"username":"a","password":"b","%b":%b}' % (field, short)
        check(post(bombed, "/auth/authenticate", body), REFUSED | {401})
    body = b'{"username":"a","password":"b","account_id":"%b"}' % short
    check(post(bombed, "/auth/authenticate", body), REFUSED | {401})
    body = b'{"consumer_name":"c","batch_max_wait_time_ms":1,"batch_size":%b}' % short
    check(post(bombed, "/stations/plain/consume/batch", body), REFUSED | {200})
    for field in (b"max_age_s", b"message_bytes_max", b"max_messages", b"duplicate_window_s"):
        body = b'{"%b":%b}' % (field, short)
        check(post(bombed, "/stations/numbers", body, method="PUT"), REFUSED | {200, 201})
    body = b'{"expires_at":%b}' % short
    check(post(bombed, "/keys/numbers", body, method="PUT"), REFUSED | {200, 201, 409})


def test_same_key_by_the_thousand_is_judged_in_time(bombed: Gateway, json_station: str) -> None:
    many = b'{"x":1' + b',"a":1' * 150_000 + b"}"
    check(post(bombed, json_station, many), REFUSED | {200})
    other = b'{"x":1' + b"".join(b',"%d":1' % n for n in range(80_000)) + b"}"
    check(post(bombed, json_station, other), {200})
    login = json.dumps({"username": ADMIN, "password": PASSWORD}).encode()
    doubled = b"{" + b'"username":"nobody",' * 3000 + login[1:]
    check(post(bombed, "/auth/authenticate", doubled), REFUSED | {200, 401})
    escaped = b'{"x":"' + b"\\u0000" * 150_000 + b'"}'
    check(post(bombed, json_station, escaped), {200})


def test_long_password_is_refused_before_a_hash_is_made(bombed: Gateway) -> None:
    body = json.dumps({"username": ADMIN, "password": "p" * 60_000}).encode()
    check(post(bombed, "/auth/authenticate", body), REFUSED | {401})
    basic = base64.b64encode(b"root:" + b"p" * 10_000).decode()
    data = build("/stations/plain/produce/single", b"x", headers={"Authorization": basic})
    check(send(bombed, data), {401})
    headers = {"Authorization": f"Basic {basic}"}
    check(send(bombed, build("/stations/plain/produce/single", b"x", headers=headers)), {401})


# --- heads ----------------------------------------------------------------------------------------

FIELD_COUNTS: Final = (99, 100, 1000, 10_000)


@pytest.mark.parametrize("count", FIELD_COUNTS)
def test_cookies_are_bounded_as_every_field(bombed: Gateway, count: int) -> None:
    headers = [("Host", "a"), ("Cookie", "; ".join(f"c{n}=v" for n in range(count)))]
    check(send(bombed, build("/healthz", None, method="GET", headers=headers)), {200, 431})
    headers = [("Host", "a"), *(("Cookie", f"c{n}=v") for n in range(count))]
    response = check(
        send(bombed, build("/healthz", None, method="GET", headers=headers)), {200, 431}
    )
    assert response.status == (200 if count < 100 else 431)


@pytest.mark.parametrize("part", ["&", "=", "%", "%41", "&a=", "&wait=false", "&authorization=x",
                                  "&subject=a", "?", "&accountId=1", ";"])  # fmt: skip
def test_query_full_of_separators_is_read_in_time(bombed: Gateway, part: str) -> None:
    query = (part * 8000)[:8000]
    allowed = REFUSED | {200, 401, 404, 414}
    for target in ("/stations/plain/produce/single", "/auth/authenticate", "/stations", "/nothing"):
        method = "GET" if target in ("/stations", "/nothing") else "POST"
        body = b"" if method == "GET" else b"{}"
        for headers in (bombed.auth(), {}):
            data = build(f"{target}?{query}", body, method=method, headers=headers)
            check(send(bombed, data), allowed)


def test_path_full_of_escapes_is_read_in_time(bombed: Gateway) -> None:
    for path in (
        "/" * 8000,
        "/stations/" + "%2e" * 2600,
        "/stations/" + "%25" * 2600 + "/produce/single",
        "/stations/" + "a." * 3900 + "/produce/single",
        "/schemas/" + "%e2%82%ac" * 800,
    ):
        data = build(path, b"x", headers=bombed.auth())
        check(send(bombed, data), REFUSED | {404, 405})


@pytest.mark.parametrize("name", ["X-Hub-Signature-256", "webhook-signature", "Stripe-Signature"])
def test_signature_full_of_separators_is_refused(bombed: Gateway, name: str) -> None:
    preset = {"X-Hub-Signature-256": "github", "webhook-signature": "standard-webhooks",
              "Stripe-Signature": "stripe"}[name]  # fmt: skip
    secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
    verifier = {"verifier": {"preset": preset, "secrets": [secret]}}
    station = f"signed-{preset}"
    body = json.dumps(verifier).encode()
    check(post(bombed, f"/stations/{station}", body, method="PUT"), {200, 201})
    for value in (
        "v1," * 5000,
        "v1=a," * 3000,
        "t=1," * 3900,
        " " * 15_000 + "x",
        "sha256=" * 2000,
    ):
        headers = {name: value, "webhook-id": "i", "webhook-timestamp": str(int(time.time()))}
        data = build(f"/stations/{station}/produce/single", b"x", headers=headers)
        check(send(bombed, data), {401})
