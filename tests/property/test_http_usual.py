"""Heads that come again on a connection: what is not parsed twice means what it meant when parsed.

The twin of each dialogue sends the same requests in two reads each, cut inside the head, which the
parser then reads every time. Answers and frames must be the same to the byte.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import _core
from fastgw.config_types import RateConfig
from tests.unit.dialogue import HEAD, NO_RATES, TOKEN, Answer, Dialogue, Frame, request

PLAIN = [b"", b"X-Trace: 1\r\n", b"X-Trace:  2 \r\n", b"X-Request-Id: a-b-c\r\n"]
ODD = [
    b"Nats-Msg-Id: 7\r\n",
    b"Idempotency-Key: k\r\n",
    b"Origin: https://a.example\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Fastgw-Subject: eu\r\n",
    b"Connection: keep-alive, X-Trace\r\n",
    b"Proxy-Connection: keep-alive\r\n",
    b"X-API-Key: fgw_x\r\n",
    b"Upgrade: h2c\r\n",
    b"Host: twice\r\n",
    b"Content-Type: application/json\r\n",
]
TARGETS = [b"orders/produce/single", b"orders/produce/batch", b"plain/produce/single?subject=a"]
CREDENTIALS = [TOKEN, b"Bearer bad", b"Basic YW5uOng="]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head, mostly plain, without its Content-Length."""
    head = HEAD.replace(b"orders/produce/single", draw(st.sampled_from(TARGETS)))
    head = head.replace(TOKEN, draw(st.sampled_from([TOKEN, TOKEN, TOKEN, *CREDENTIALS])))
    extras = st.sampled_from([*PLAIN, *PLAIN, *PLAIN, *ODD])
    return head + b"".join(draw(st.lists(extras, max_size=2)))


BODIES = st.sampled_from([b"[1]", b"[2]", b"{}", b"[1,2]", b""])
ASKED = st.lists(
    st.tuples(st.integers(0, 2), BODIES, st.sampled_from(["", "", "", "station", "user", "turn"])),
    min_size=1,
    max_size=12,
)


def run(
    pool: list[bytes], asked: list[tuple[int, bytes, str]], rates: RateConfig, *, cuts: bool
) -> tuple[list[Answer], list[Frame], dict[str, int], list[str]]:
    dialogue = Dialogue(rates=rates, body_bytes_max=1024)
    client = dialogue.client()
    answers: list[Answer] = []
    frames: list[Frame] = []
    for number, (index, body, event) in enumerate(asked):
        data = request(body, pool[index % len(pool)])
        if client.transport.is_eof_sent or client.transport.is_closed:
            break
        client.send(data[:20]) if cuts else None
        client.send(data[20:] if cuts else data)
        fresh = dialogue.frames()
        for frame in fresh:
            dialogue.store(frame, len(frames) + 1)
            frames.append(frame._replace(reply=b""))
        if event == "station":
            policy = ("all", "none", ("x-*",))[number % 3]
            dialogue.ingress.put_station(_core.Station("orders", "orders", "orders", policy))
        elif event == "user":
            dialogue.ingress.forget_user("ann")
            dialogue.principal = _core.Principal("ann", 1, _core.PRODUCE * (number % 2))
        if event != "turn":
            answers += client.answers()
    answers += client.answers()
    for answer in answers:
        answer.headers.pop("Date", None)
    return answers, frames, dialogue.ingress.stats(), dialogue.defects


@settings(deadline=None, max_examples=300)
@given(st.lists(heads(), min_size=1, max_size=3), ASKED, st.booleans())
def test_repeated_heads_mean_what_parsed_ones_mean(
    pool: list[bytes], asked: list[tuple[int, bytes, str]], is_bounded: bool
) -> None:
    rates = RateConfig(user_requests_per_s=0.001, burst_s=4000) if is_bounded else NO_RATES
    assert run(pool, asked, rates, cuts=False) == run(pool, asked, rates, cuts=True)


@pytest.mark.parametrize("extra", [*PLAIN, *ODD])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("credential", CREDENTIALS)
def test_each_header_repeated_means_what_it_means_parsed(
    extra: bytes, target: bytes, credential: bytes
) -> None:
    head = HEAD.replace(TARGETS[0], target).replace(TOKEN, credential) + extra
    asked = [(0, b"[%d]" % number, "") for number in range(4)]
    assert run([head], asked, NO_RATES, cuts=False) == run([head], asked, NO_RATES, cuts=True)


def test_head_above_the_bound_is_parsed_each_time() -> None:
    head = HEAD + b"X-Long: " + b"v" * 3000 + b"\r\n"
    asked = [(0, b"[%d]" % number, "") for number in range(4)]
    assert run([head], asked, NO_RATES, cuts=False) == run([head], asked, NO_RATES, cuts=True)


def test_head_is_known_again_behind_many_that_differed() -> None:
    pool = [HEAD + b"X-Request-Id: %d\r\n" % number for number in range(3)]
    asked = [(number % 3 if number < 40 else 0, b"[1]", "") for number in range(60)]
    assert run(pool, asked, NO_RATES, cuts=False) == run(pool, asked, NO_RATES, cuts=True)


def test_repeated_heads_pipelined_in_one_read_are_each_answered() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    client.send(request(b"one"))
    client.send(request(b"two") + request(b"six") + request(b"a longer one") + request(b"ten"))
    frames = dialogue.frames()
    assert [f.payload for f in frames] == [b"one", b"two", b"six", b"a longer one", b"ten"]
    for number, frame in enumerate(frames, 1):
        dialogue.store(frame, number)
    assert [a.headers["Nats-Sequence"] for a in client.answers()] == ["1", "2", "3", "4", "5"]


def test_repeated_head_whose_body_comes_later_waits_for_it() -> None:
    dialogue = Dialogue()
    client = dialogue.client()
    for _ in range(3):
        client.send(request(b"hello"))
    for byte in request(b"world"):
        client.send(bytes([byte]))
    client.send(request(b"hello")[:-2])
    assert [f.payload for f in dialogue.frames()] == [b"hello"] * 3 + [b"world"]
    client.send(b"lo")
    assert [f.payload for f in dialogue.frames()] == [b"hello"]
