"""The benchmark of a sync before each answer: its options, its rows, and one short run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import fsync

if TYPE_CHECKING:
    from pathlib import Path

ROUND = fsync.Round(1000.0, 30.0, 20.0, 1.5, 9.0, "")


def test_row_shows_medians() -> None:
    rounds = [ROUND, replace(ROUND, rate=4000.0, p99_ms=7.0), replace(ROUND, rate=2000.0)]
    cells = fsync.format_row(64, fsync.WORKLOADS[1], rounds).split()
    assert cells == ["64", "fsync", "2,000", "30.0", "20.0", "1.50", "9.00"]
    assert len(cells) == len(fsync.HEADINGS.replace(" µs/msg", "").replace(" ms", "").split())


def test_row_with_a_bad_round_shows_what_was_wrong_and_no_figure() -> None:
    row = fsync.format_row(1, fsync.WORKLOADS[0], [ROUND, replace(ROUND, problem="3 answers …")])
    assert row.split() == ["1", "each", "3", "answers", "…"]


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--connections", "4", "0"], ["--x"]])
def test_options_that_cannot_be_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        fsync.parse_options(wrong)
    assert raised.value.code == 2
    assert fsync.parse_options([]).connections == [1, 16, 64, 256]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_run_on_a_broker_that_syncs_always(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = fsync.parse_options(["--connections", "32", "--rounds", "1", "--seconds", "1"])
    assert fsync.run(options, tmp_path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["32", "each"], ["32", "fsync"]]
    config = (tmp_path / "nats-server.conf").read_text()
    assert '"sync_interval": "always"' in config
