"""The corpus of tests/corpus: against the compiled core at splits, and against a real gateway.

The core in this process is cheap, so it gets each case whole, byte by byte, and cut at sampled
places; `make conformance` cuts at every place. The gateway gets each case whole and byte by byte,
and what it stored is read back from the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from tests.corpus import AREAS, TARGET, Case
from tests.corpus.core import Core
from tests.corpus.verdict import Fields, judge
from tests.corpus.wire import BYTES_MAX, play
from tests.wire.gateway import Gateway, serving
from tests.wire.raw_http import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

MODES = get_args(Mode)
SPLITS = 24
"""LIMIT: sampled splits of a case; the file stays below half a minute."""


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks for no credential, so that a case is the same bytes each time."""
    env = {"FASTGW_AUTH_MODE": "none"}
    with serving(tmp_path_factory.mktemp("corpus") / "data", env=env) as running:
        # The station is there first: what waits for its creation has no order among itself.
        assert running.ask(TARGET.decode(), b"first").status == 200
        yield running


def sampled(case: Case) -> range:
    """Places to cut a case, the same ones each time."""
    return range(1, len(case.raw) + 1, max(1, len(case.raw) // SPLITS))


@pytest.mark.parametrize("area", AREAS)
def test_corpus_in_the_core_whole_and_cut(area: str) -> None:
    core = Core()
    problems = []
    for case in AREAS[area]:
        problem = judge(case, core.play(case))
        for split in sampled(case):
            problem = problem or judge(case, core.play(case, (split,)))
        if len(case.raw) <= BYTES_MAX:
            problem = problem or judge(case, core.play(case, range(1, len(case.raw))))
        if problem:
            problems.append(f"{case.name}: {problem}")
    assert not problems, "\n".join([f"{len(problems)} of {len(AREAS[area])}", *problems])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("area", AREAS)
def test_corpus_on_the_wire(open_gateway: Gateway, area: str, mode: Mode) -> None:
    before = len(open_gateway.stored("corpus"))
    cases = [case for case in AREAS[area] if mode == "whole" or len(case.raw) <= BYTES_MAX]
    played = [(case, *play(open_gateway.address, case, mode)) for case in cases]
    stored = {
        message.seq: (fields_of(message.headers), message.data)
        for message in open_gateway.stored("corpus")[before:]
    }
    problems = []
    for case, seen, responses in played:
        sequences = [int(response.header("nats-sequence") or 0) for response in responses]
        seen.messages = [stored.pop(sequence) for sequence in sequences if sequence]
        if problem := judge(case, seen):
            problems.append(f"{case.name}: {problem}")
    problems += [f"stored without an answer: {message!r}" for message in stored.values()]
    assert not problems, "\n".join([f"{len(problems)} of {len(cases)}", *problems])


def fields_of(headers: list[tuple[str, str]]) -> Fields:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def test_corpus_judges_a_wrong_answer() -> None:
    """A runner that cannot fail proves nothing."""
    case = next(case for case in AREAS["hosts"] if case.name == "host/none")
    core = Core()
    seen = core.play(case)
    assert judge(case, seen) is None
    seen.statuses = (200, 200)
    assert judge(case, seen) is not None
    seen = core.play(case)
    seen.says_close = False
    assert judge(case, seen) is not None
    seen = core.play(case)
    assert seen.messages is not None
    seen.messages.append(((), b"smuggled"))
    assert judge(case, seen) is not None
