"""Usual heads are read without the parser: they mean what they mean when it reads them.

Each dialogue has a twin that sends the same bytes in reads so small that the parser gets all of
them; what the client, the broker, Python and the counters see must be the same. A spy in the
parser's place tells which way a head went, so that a case that is there for one goes that way.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.config_types import RateConfig
from tests.property.usual_lines import (
    PARSED_LINES,
    PARSED_REQUEST_LINES,
    USUAL_LINES,
    USUAL_REQUEST_LINES,
)
from tests.property.usual_twins import (
    Scene,
    Setup,
    Step,
    check,
    cut_at,
    play,
    small,
    spied,
    whole,
)
from tests.unit.dialogue import BATCH, HEAD, Dialogue, request
from tests.unit.test_core_http import sweep_until

LINE = b"POST /stations/orders/produce/single HTTP/1.1\r\n"
HOST = b"Host: gateway\r\n"
GOOD = b"Authorization: Bearer good\r\n"
FIVE = b"Content-Length: 5\r\n"
FIELDS_MAX = 32
"""The core's USUAL_FIELDS_MAX."""
TARGET_BYTES_MAX = 511
"""The longest target whose end the core's ROUTE_BYTES_MAX finds."""

POLICIES: list[str | tuple[str, ...]] = ["all", "none", ("x-*", "content-type", "nats-*"), ()]
FEW = (("pipelined_max", 1), ("headers_count_max", 6))
ROOMY = (("body_bytes_max", 200_000), ("batch_bytes_max", 200_000))
AWAITED = Setup(is_awaited=True, limits=ROOMY)

# --- one header at a time -------------------------------------------------------------------------


@pytest.mark.parametrize("headers", POLICIES, ids=str)
@pytest.mark.parametrize("line", USUAL_LINES)
def test_usual_line_means_what_the_parser_says(line: bytes, headers: str | tuple[str, ...]) -> None:
    pieces = request(b"[1,2]", extra=line + b"\r\n") * 2
    for setup in (
        Setup(headers),
        Setup(headers, header_allow=(), cors_origins=("https://a.example",)),
        Setup(headers, is_anonymous=True),
        Setup(headers, is_signed=True, is_anonymous=True, is_any_host=True),
        Setup(headers, is_signed=True),
    ):
        for head in (HEAD, BATCH, HEAD.replace(GOOD, b""), HEAD.replace(b"Host", b"hOST")):
            steps = [(request(b"[1,2]", head, line + b"\r\n"), ""), (pieces, "")]
            assert check(setup, steps)[1] == 0


@pytest.mark.parametrize("headers", POLICIES, ids=str)
@pytest.mark.parametrize("line", PARSED_LINES)
def test_other_line_goes_to_the_parser(line: bytes, headers: str | tuple[str, ...]) -> None:
    setup = Setup(headers, limits=ROOMY)
    for data in (
        request(extra=line + b"\r\n"),
        LINE + line + b"\r\n" + HOST + GOOD + FIVE + b"\r\nhello",
        LINE + HOST + GOOD + FIVE + line + b"\r\n\r\nhello",
    ):
        assert check(setup, [(request() + data + request(), "")])[1] >= len(data) - 5
        check(setup, [(data + data, "")])


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_in_each_place_means_what_the_parser_says(byte: int) -> None:
    for line in (
        b"X-A: a%cb", b"X%cA: v", b"X-A:%cv", b"X-A: v%c", b"%cX-A: v", b"X-A%c: v", b"%c",
        b"Connection:%ckeep-alive", b"Connection: keep-alive%c", b"Origin: %c",
        b"X-A: 0123456789%c", b"x-a-name-of-many-%c-letters: v", b"X-A: v\r%c", b"X-A: v%c\n",
    ):  # fmt: skip
        check(Setup(), [(request(extra=line % byte + b"\r\n"), "")])
    for line in (b"Content-Length:%c5", b"Content-Length: 5%c", b"Content-Length: %c5"):
        check(Setup(), [(HEAD + line % byte + b"\r\n\r\nhello" + request(), "")])
    for line in (b"Host:%cgateway", b"Host: gateway%c", b"Host: %cgateway"):
        check(Setup(), [(LINE + GOOD + line % byte + b"\r\n" + FIVE + b"\r\nhello", "")])
    for end in (b"\r%c", b"%c\n", b"\r\n%c"):
        check(Setup(), [(HEAD + FIVE + end % byte + b"hello" + request(), "")])


@pytest.mark.parametrize(
    ("value", "is_usual"),
    [
        (b"5", True), (b"05", True), (b"000000000000000005", True), (b"0", True), (b"00", True),
        (b"5 ", True), (b" 5", True), (b"\t5", True), (b"2048", True), (b"2049", True),
        (b"999999999999999999", True), (b"0000000000000000005", False), (b"+5", False),
        (b"-5", False), (b"5,5", False), (b"5, 5", False), (b"5 5", False), (b"0x5", False),
        (b"5;", False), (b"", False), (b"1000000000000000000", False), (b"5.0", False),
        (b"18446744073709551616", False), (b"18446744073709551621", False), (b"\xb25", False),
    ],
)  # fmt: skip
def test_content_length_means_what_the_parser_says(value: bytes, is_usual: bool) -> None:
    for head in (HEAD, BATCH):
        data = head + b"Content-Length:" + value + b"\r\n\r\n"
        assert (check(Setup(), [(data, "eof")])[1] == 0) == is_usual
        for ending in (b"[", b"[1,2]", b"[1,2]" + request(), b"[1,2]" * 500):
            check(Setup(), [(data + ending, "eof")])


@pytest.mark.parametrize(
    "host",
    [
        b"a", b"a:80", b"A.b-c:65535", b"[::1]:80", b"127.0.0.1", b"localhost:4444", b"a%41", b"",
        b"a b", b"a/b", b"a,b", b"a:123456", b"a\tb", b"[::1", b"a@b", b"\xe9", b":80",
        b"[fe80::1%25]",
    ],
)  # fmt: skip
def test_host_means_what_the_parser_says(host: bytes) -> None:
    lines = b"Host: " + host + b"\r\n" + GOOD
    for setup in (Setup(), Setup(is_anonymous=True), Setup(is_signed=True)):
        steps = [(request(head=LINE + lines), ""), (request(head=LINE + lines) + request(), "")]
        check(setup, steps)
        check(setup, [(request(), ""), *steps])


@pytest.mark.parametrize("line", [*USUAL_REQUEST_LINES, *PARSED_REQUEST_LINES])
def test_request_line_means_what_the_parser_says(line: bytes) -> None:
    is_usual = line in USUAL_REQUEST_LINES
    target = b"/stations/orders/produce/single"
    data = request(b"[1,2]", head=line.replace(b"SINGLE", target) + HOST + GOOD)
    for setup in (Setup(), Setup(serves="data"), Setup(has_certificate=True)):
        assert (check(setup, [(data, "")])[1] == 0) == is_usual
        check(setup, [(data * 3, ""), (request(), ""), (data, ""), (request() * 2, "")])
        check(setup, [(request() + data, ""), (data + request(), "")])
    assert check(Setup(serves="admin"), [(data, "")])[1] == len(data)


@pytest.mark.parametrize("event", ["drop", "all", "none", "globs", "forget", "forbid", "away"])
def test_what_a_connection_knows_is_what_holds_now(event: str) -> None:
    plain = request(head=HEAD.replace(b"orders", b"plain"), extra=b"X-A: 1\r\nY-B: 2\r\n")
    usual = request(extra=b"X-A: 1\r\nY-B: 2\r\n")
    for one in (plain, usual):
        for setup in (Setup(), Setup("none"), Setup(is_signed=True)):
            check(setup, [(one, ""), (one, event), (one, ""), (one * 2 + usual, "")])


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [FIELDS_MAX - 1, FIELDS_MAX, FIELDS_MAX + 1, 100, 101])
def test_head_of_many_fields_goes_to_the_parser(count: int) -> None:
    extra = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(count - 3))
    assert (check(Setup(), [(request(extra=extra), "")])[1] == 0) == (count <= FIELDS_MAX)


def test_names_that_globs_judge_may_be_many() -> None:
    names = [b"x-%d", b"Y-%d", b"X-%d", b"content-type-%d"]
    lines = [name % number + b": v\r\n" for number in range(150) for name in names]
    steps = [(request(extra=b"".join(lines[at : at + 20])), "") for at in range(0, 600, 20)]
    seen, fed = check(Setup(("x-*", "*-149")), steps * 2)
    forwarded = [name for frame in seen.frames for name, _ in frame.headers]
    assert (fed, len(forwarded)) == (0, 2 * 302)


@pytest.mark.parametrize(
    ("size", "is_usual"), [(TARGET_BYTES_MAX, True), (TARGET_BYTES_MAX + 1, False), (2000, False)]
)
def test_long_target_goes_to_the_parser_until_it_is_known(size: int, is_usual: bool) -> None:
    name = "n" * (size - len("/stations//produce/single"))
    data = request(head=LINE.replace(b"orders", name.encode()) + HOST + GOOD)
    setup = Setup(names=(name,))
    assert (check(setup, [(data, "")])[1] == 0) == is_usual
    assert (check(setup, [(data, ""), (data * 3, "")])[1] == 0) == is_usual
    assert check(setup, [(data, ""), (data * 3, "")])[1] <= len(data)


@pytest.mark.parametrize("size", [-1, 0, 1])
@pytest.mark.parametrize("padding", [b"", b" ", b" \t "])
def test_bound_of_all_fields_is_the_same(size: int, padding: bytes) -> None:
    # The fields count as name, value and four; the white space behind a value is part of it.
    rest = 256 - len("HostgatewayAuthorizationBearer goodContent-Length5X-A") - 4 * 4
    line = b"X-A: " + b"v" * (rest + size - len(padding)) + padding + b"\r\n"
    setup = Setup(limits=(("headers_bytes_max", 256),))
    seen, fed = check(setup, [(request(extra=line) + request(), "")])
    assert (fed == 0, len(seen.frames)) == ((True, 2) if size <= 0 else (False, 0))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_bound_of_the_number_of_fields_is_the_same(count: int) -> None:
    seen, fed = check(Setup(limits=(("headers_count_max", count),)), [(request(), "")])
    assert (fed == 0, len(seen.frames)) == ((True, 1) if count >= 3 else (False, 0))


@pytest.mark.parametrize("size", [63, 64, 65])
def test_bound_of_the_target_is_the_same(size: int) -> None:
    name = "n" * (size - len("/stations//produce/single"))
    data = request(head=LINE.replace(b"orders", name.encode()) + HOST + GOOD)
    setup = Setup(names=(name,), limits=(("request_line_bytes_max", 64),))
    seen, fed = check(setup, [(data, "")])
    assert (fed == 0, len(seen.frames)) == ((True, 1) if size <= 64 else (False, 0))


@pytest.mark.parametrize("size", [20_000, 30_000, 100_000])
@pytest.mark.parametrize("place", [b"X-A:%bv", b"X-A:%b", b"Host:%bgateway", b"Content-Length:%b5"])
def test_white_space_before_a_value_has_the_bound_of_the_head(size: int, place: bytes) -> None:
    lines = [b"Host: gateway", b"Authorization: Bearer good", b"Content-Length: 5"]
    line = place % (b" \t" * (size // 2))
    names = [one.partition(b":")[0] for one in lines]
    lines = [one for one, name in zip(lines, names, strict=True) if not line.startswith(name)]
    data = LINE + b"\r\n".join([line, *lines]) + b"\r\n\r\nhello"
    seen, _ = check(Setup(), [(data, "")])
    assert len(seen.frames) == (size < 24_000)


# --- bodies ---------------------------------------------------------------------------------------


CUT: dict[str, Setup] = {
    "all": Setup(limits=ROOMY),
    "none": Setup("none", limits=ROOMY),
    "globs": Setup(("x-*",), limits=ROOMY),
    "signed": Setup(is_signed=True, limits=ROOMY),
    "awaited": AWAITED,
}


@pytest.mark.parametrize("size", [0, 1, 5, 2047, 2048, 2049])
@pytest.mark.parametrize("name", CUT)
def test_request_cut_at_every_place_means_the_same(name: str, size: int) -> None:
    setup, heads = CUT[name], [HEAD, HEAD]
    if setup.is_signed:
        lines = (b"X-Signature: good %b\r\n" % body for body in (b"x" * size, b"two"))
        heads = [HEAD.replace(GOOD, line) for line in lines]
    data = request(b"x" * size, heads[0]) + request(b"two", heads[1])
    steps = [(data, "known"), (b"", "")]
    wanted, _ = play(setup, steps, small)
    assert len(wanted.frames) == 2
    for place in range(0, len(data) + 1, 1 if size < 100 else 31):
        assert play(setup, steps, cut_at([place]))[0] == wanted, place
        assert play(setup, steps, cut_at([place, place + 1, place + 40]))[0] == wanted, place


REFUSED: dict[str, tuple[Setup, bytes]] = {
    "401": (Setup(limits=ROOMY), HEAD.replace(b"good", b"bad")),
    "403": (Setup(limits=ROOMY), HEAD.replace(b"good", b"forbidden")),
    "404": (Setup(limits=ROOMY), HEAD.replace(b"orders", b"missing")),
    "405": (Setup(limits=ROOMY), HEAD.replace(b"POST", b"PUT")),
    "413": (Setup(), HEAD),
    "415": (Setup(limits=ROOMY), HEAD + b"Content-Encoding: br\r\n"),
    "429": (Setup(limits=ROOMY, rates=RateConfig(user_requests_per_s=0.001, burst_s=1000)), HEAD),
    "429 bytes": (Setup(limits=ROOMY, rates=RateConfig(address_bytes_per_s=0.001)), HEAD),
    "foreign": (Setup(limits=ROOMY, is_anonymous=True), HEAD),
    "unsigned": (Setup(limits=ROOMY, is_signed=True), HEAD.replace(GOOD, b"")),
    "defect": (Setup(limits=ROOMY), HEAD.replace(b"good", b"defect")),
}


@pytest.mark.parametrize("size", [0, 3, 2049, 65536, 65537, 100_000])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_request_whose_body_is_dropped_means_the_same(name: str, size: int) -> None:
    setup, head = REFUSED[name]
    data = request(b"x" * size, head)
    for steps in (
        [(data, ""), (data, ""), (request(b"after"), "")],
        [(request(), ""), (data[:-1], ""), (data[-1:], ""), (data + request(b"after"), "")],
        [(data[: len(data) // 2], "eof")],
        [(data[: len(data) // 2], "lost")],
    ):
        check(setup, steps)
        check(setup, steps, cut_at([len(head) + 30, 3000, 70_000]))


@pytest.mark.parametrize("event", ["known", "unknown", "failed", "drain", "eof", "lost", "forget"])
@pytest.mark.parametrize("size", [0, 5, 3000, 70_000])
def test_identity_that_is_told_while_the_body_comes(event: str, size: int) -> None:
    data = request(b"x" * size)
    head = data.index(b"\r\n\r\n") + 4
    for place in (head, head + size // 2, head + size):
        for more in ([], [(request(b"after") * 2, "known")]):
            steps: list[Step] = [(data[:place], event), (data[place:], "known"), *more]
            assert check(AWAITED, steps)[1] == 0
            check(AWAITED, [(request(), ""), *steps], cut_at([place + 1, place + 100]))


@pytest.mark.parametrize("timeout", ["body_timeout_ms", "body_rate_grace_ms", "idle_timeout_ms"])
def test_deadlines_are_those_of_a_parsed_request(timeout: str) -> None:
    rates = () if timeout == "body_timeout_ms" else (("body_rate_bytes_min", 1048576),)
    seen = []
    for pieces in (whole, small):
        data = request(b"x" * 1000)
        with spied() as spy:
            scene = Scene(Setup(limits=((timeout, 100), *rates)))
            for piece in pieces(data if timeout == "idle_timeout_ms" else data[:-1]):
                scene.send(piece)
            assert (spy.fed == 0) == (pieces is whole)
        scene.settle()
        transport = scene.client.transport
        sweep_until(scene.dialogue, lambda t=transport: t.is_closed or t.is_eof_sent)
        scene.note()
        seen.append(scene.outcome)
    assert seen[0] == seen[1]
    assert seen[0].frames if timeout == "idle_timeout_ms" else b" 408 " in seen[0].written[0]


def test_body_with_no_room_rests_until_there_is_some() -> None:
    for size in (100_000, 15):
        dialogue = Dialogue(waiting_bytes_max=65536)
        with spied() as spy:
            one, two = dialogue.client(), dialogue.client()
            for client, part in ((one, 60_000), (two, 10_000)):
                data = HEAD + b"Content-Length: 60001\r\n\r\n" + b"x" * part
                for at in range(0, len(data), size):
                    if not client.transport.is_reading_paused:
                        client.send(data[at : at + size])
            assert two.transport.is_reading_paused and not one.transport.is_reading_paused
            one.send(b"x")
            dialogue.ingress.sweep()
            assert not two.transport.is_reading_paused
            assert (spy.fed == 0) == (size > 15)
        assert [len(frame.payload) for frame in dialogue.frames()] == [60_001]


def test_bodies_without_room_are_refused() -> None:
    dialogue = Dialogue(waiting_bytes_max=65536, body_bytes_max=1048576)
    with spied() as spy:
        clients = [dialogue.client() for _ in range(3)]
        for client in clients:
            client.send(HEAD + b"Content-Length: 60001\r\n\r\n" + b"x" * 60_000)
        assert spy.fed == 0
    assert [answer.status for answer in clients[2].answers()] == [503]
    assert dialogue.ingress.stats()["waiting_bytes"] == 120_000
    for client in clients:
        client.protocol.connection_lost(None)
    assert dialogue.ingress.stats()["waiting_bytes"] == 0


# --- one behind the other -------------------------------------------------------------------------

KINDS: dict[str, bytes] = {
    "usual": request(b"usual"),
    "empty": HEAD + b"\r\n",
    "query": request(b"query", head=HEAD.replace(b" HTTP", b"?subject=a HTTP")),
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
    "upgrade": request(b"up", extra=b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    "expect": request(b"wait", extra=b"Expect: 100-continue\r\n"),
    "lines": b"\r\n\r\n" + request(b"lines") + b"\r\n",
    "long": request(b"x" * 2040),
    "refused": request(b"no", head=HEAD.replace(b"good", b"bad")),
    "get": b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n",
    "batch": request(b"[1,2]", head=BATCH, extra=b"Connection: keep-alive\r\n"),
    "close": request(b"last", extra=b"Connection: close\r\n"),
    "bad": request(extra=b"X-A : 1\r\n"),
}


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_requests_in_one_read_in_every_order_mean_the_same(first: str, second: str) -> None:
    one, two = KINDS[first], KINDS[second]
    for setup in (Setup(), Setup(limits=(("pipelined_max", 1),)), Setup(is_awaited=True)):
        for data in (one + two, one + two + one + two, two * 2 + one * 2 + KINDS["usual"]):
            check(setup, [(data, "known"), (KINDS["usual"], "known")])
            check(setup, [(data, "known"), (b"", "eof")], cut_at([len(one), len(one) + 30, 400]))


def test_more_requests_in_one_read_than_a_turn_or_the_bound_takes() -> None:
    for count in (15, 16, 17, 33, 200):
        for limits in ((), (("pipelined_max", 4),)):
            data = b"".join(request(b"%d" % number) for number in range(count))
            seen, fed = check(Setup(limits=limits), [(data, ""), (data, "eof")])
            assert (fed, len(seen.frames)) == (0, 2 * count)


# --- anything -------------------------------------------------------------------------------------

EVENTS = [
    "", "", "", "", "burst", "burst", "all", "none", "globs", "drop", "forget", "forbid", "known",
    "unknown", "failed", "drain", "sweep", "unread", "read", "away", "eof", "lost",
]  # fmt: skip
ODD_BYTES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"\0", b"\t", b" ", b":", b"\x7f", b"\xff", b"A"]
)


@st.composite
def raws(draw: st.DrawFn) -> bytes:
    """A request, mostly a usual one."""
    line = draw(st.sampled_from([LINE, LINE, LINE, BATCH.partition(b"\n")[0] + b"\n"]))
    line = line.replace(b"orders", draw(st.sampled_from([b"orders", b"orders", b"plain"])))
    credentials = [GOOD, GOOD, GOOD, b"X-API-Key: fgw_good\r\n", b"", GOOD.replace(b"good", b"bad")]
    body = draw(st.one_of(st.sampled_from([b"[1]", b"{}", b""]), st.binary(max_size=3000)))
    extras = st.sampled_from([*USUAL_LINES, *USUAL_LINES, *PARSED_LINES])
    fields = [HOST, draw(st.sampled_from(credentials)), b"Content-Length: %d\r\n" % len(body)]
    fields += [extra + b"\r\n" for extra in draw(st.lists(extras, max_size=4))]
    head = line + b"".join(draw(st.permutations(fields)))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(ODD_BYTES) + head[at + draw(st.integers(0, 2)) :]
    return head + b"\r\n" + body


SETUPS: st.SearchStrategy[Setup] = st.builds(
    Setup,
    headers=st.sampled_from(POLICIES),
    names=st.just(("orders", "plain")),
    header_allow=st.just(("Nats-TTL",)),
    is_signed=st.booleans(),
    is_anonymous=st.sampled_from([False, False, True]),
    is_any_host=st.booleans(),
    is_awaited=st.sampled_from([False, False, True]),
    serves=st.sampled_from(["all", "all", "all", "data", "admin"]),
    has_certificate=st.sampled_from([False, False, True]),
    rates=st.sampled_from(
        [
            RateConfig(),
            RateConfig(),
            RateConfig(user_requests_per_s=0.001, address_bytes_per_s=0.01, burst_s=3600),
            RateConfig(address_requests_per_s=0.001, key_bytes_per_s=0.01, burst_s=3000),
        ]
    ),
    cors_origins=st.sampled_from([("*",), ("https://a.example",), ()]),
    limits=st.sampled_from(
        [
            ROOMY,
            (("body_bytes_max", 2048), ("batch_bytes_max", 2500)),
            FEW,
            (("body_bytes_max", 100), ("publishes_in_flight_max", 1)),
        ]
    ),
)
# WHY: who waits for a test's word while the bound is reached would wait for ever.
SETUPS = SETUPS.map(lambda s: s._replace(is_awaited=s.is_awaited and s.limits != FEW))
READS = st.lists(st.tuples(st.lists(raws(), max_size=4).map(b"".join), st.sampled_from(EVENTS)),
                 min_size=1, max_size=6)  # fmt: skip


@settings(max_examples=500)
@given(SETUPS, READS, st.lists(st.integers(0, 5000), max_size=3))
@example(AWAITED, [(request(b"x" * 100)[:-50], "unknown"), (b"x" * 50 + request(), "known")], [])
def test_anything_means_what_the_parser_says(
    setup: Setup, steps: list[Step], places: list[int]
) -> None:
    check(setup, steps, cut_at(places))


@settings(max_examples=100)
@given(SETUPS, READS, st.data())
def test_reads_that_end_anywhere_mean_what_the_parser_says(
    setup: Setup, steps: list[Step], data: st.DataObject
) -> None:
    stream = b"".join(raw for raw, _ in steps)
    ends = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    events = [event for _, event in steps]
    parts = zip([0, *ends], [*ends, len(stream)], strict=True)
    cut = [
        (stream[start:end], events[number % len(events)])
        for number, (start, end) in enumerate(parts)
    ]
    check(setup, cut)
