"""The in-house corpus: ours at every split in the core, whole and byte by byte on the wire.

What enters: a server. What leaves: a `Score`. Called by `__main__`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from tests.conformance.score import Score
from tests.corpus import CASES, Case
from tests.corpus.core import Core
from tests.corpus.verdict import Seen, judge
from tests.corpus.wire import BYTES_MAX, play

if TYPE_CHECKING:
    from tests.conformance.servers import Server
    from tests.wire.gateway import Gateway
    from tests.wire.raw_http import Mode, Response

SPLITS_MAX: Final = 4000
"""LIMIT: longer cases are cut at so many places, evenly."""
PEER_TIMEOUT_S: Final = 2.0
"""LIMIT: how long a peer may say nothing before a case counts as hanging."""
THREADS: Final = 8


def run_in_core() -> Score:
    """Every case at every split, byte by byte, and whole."""
    score = Score("corpus, every split", "fastgw core")
    core = Core()
    for case in CASES:
        problem = judge(case, core.play(case))
        for split in range(1, len(case.raw) + 1, max(1, len(case.raw) // SPLITS_MAX)):
            if problem is None and (problem := judge(case, core.play(case, (split,)))):
                problem = f"cut at {split}: {problem}"
        if problem is None and len(case.raw) <= BYTES_MAX:
            problem = judge(case, core.play(case, range(1, len(case.raw))))
        score.note(case.name, problem)
    return score


def run_on_gateway(server: Server, gateway: Gateway, mode: Mode) -> Score:
    """Every case over a socket; what was stored is read back from the broker."""
    score = Score(f"corpus, {mode}", server.name)
    before = len(gateway.stored("corpus"))
    cases = [case for case in CASES if mode == "whole" or len(case.raw) <= BYTES_MAX]
    played = [(case, *play(server.address, case, mode)) for case in cases]
    stored = {
        message.seq: (
            tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in message.headers),
            message.data,
        )
        for message in gateway.stored("corpus")[before:]
    }
    for case, seen, responses in played:
        sequences = [int(response.header("nats-sequence") or 0) for response in responses]
        seen.messages = [stored.pop(sequence) for sequence in sequences if sequence]
        score.note(case.name, judge(case, seen))
    if stored:
        score.note("stored without an answer", repr(list(stored.values()))[:200])
    return score


def run_on_peer(server: Server) -> Score:
    """Every case, whole; any outcome that the standard allows is good."""
    score = Score("corpus, whole", server.name)

    def run(case: Case) -> str | None:
        seen, responses = play(server.address, case, half_closes=False, timeout_s=PEER_TIMEOUT_S)
        if server.echoes:
            show_bodies(seen, responses)
        return judge(case, seen, is_ours=False) if not case.kept else _without_kept(case, seen)

    with ThreadPoolExecutor(THREADS) as pool:
        for case, problem in zip(CASES, pool.map(run, CASES), strict=True):
            score.note(case.name, problem)
    return score


def _without_kept(case: Case, seen: Seen) -> str | None:
    """Judge by the answers alone: the echo shows no fields."""
    seen.messages = None
    return judge(case, seen, is_ours=False)


def show_bodies(seen: Seen, responses: list[Response]) -> None:
    """Take the bodies that were posted to the station from an echo's answers."""
    seen.messages = [
        ((), response.body)
        for response in responses
        if response.status == 200
        and response.header("echo-method") == "POST"
        and "/produce/single" in (response.header("echo-target") or "")
    ]
