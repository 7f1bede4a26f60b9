"""The micro benchmarks: how counts are judged, and that each part goes the way that it counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.micro import __main__ as micro
from benchmarks.micro.parts import DERIVED, PARTS
from benchmarks.processes import Failed, find_cores, run_bounded

VERSIONS = {"python": "3.11", "cc": "12"}
Check = Callable[..., int]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """Run the command with counts and a baseline that are made up; return its exit code."""

    def run(
        argv: list[str],
        counts: Mapping[str, float] | Exception,
        baseline: Any = None,
        again: Mapping[str, float] | None = None,
    ) -> int:
        def count_all(names: list[str], layout: int = 0) -> dict[str, float]:
            if isinstance(counts, Exception):
                raise counts
            told = again if again is not None and layout else counts
            return {name: told[name] for name in names if name in told}

        file = tmp_path / "baseline.json"
        if baseline is not None:
            file.write_bytes(msgspec.json.encode(baseline))
        monkeypatch.setattr(micro, "BASELINE_FILE", file)
        monkeypatch.setattr(micro, "count_all", count_all)
        monkeypatch.setattr(micro, "find_missing", lambda tools, distributions: [])
        monkeypatch.setattr(micro, "read_versions", lambda: VERSIONS)
        monkeypatch.setattr(sys, "argv", ["micro", *argv])
        return micro.main()

    return run


def build_baseline(versions: Mapping[str, str] = VERSIONS) -> dict[str, Any]:
    return {"versions": versions, "instructions": {"authorize": 100.0, "consume": 1000.0}}


@pytest.mark.parametrize(
    ("count", "code"),
    [(100.0, 0), (101.9, 0), (98.1, 0), (102.1, 1), (97.9, 1), (50.0, 1)],
)
def test_check_fails_beyond_two_percent_both_ways(
    check: Check, capsys: pytest.CaptureFixture[str], count: float, code: int
) -> None:
    assert check(["--check"], {"authorize": count, "consume": 1000.0}, build_baseline()) == code
    assert ("authorize moved by" in capsys.readouterr().err) == bool(code)


def test_part_that_the_allocator_moves_is_shown_and_not_judged(check: Check) -> None:
    baseline = build_baseline()
    baseline["instructions"]["batch_split"] = 100.0
    counts = {"authorize": 100.0, "consume": 1000.0, "batch_split": 110.0}
    assert check(["--check"], counts, baseline) == 0


def test_part_that_moved_is_counted_again_before_it_fails(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, baseline = {"authorize": 102.5, "consume": 1000.0}, build_baseline()
    assert check(["--check"], counts, baseline, {"authorize": 101.0}) == 0
    said = capsys.readouterr()
    assert said.out.count("moved, counted again: authorize") == 1
    assert "consume" not in said.out.splitlines()[0]
    assert check(["--check"], counts, baseline, {"authorize": 103.0}) == 1
    said = capsys.readouterr()
    assert said.out.count("counted again") == micro.RECOUNTS_MAX
    assert "from 100.0 to 102.5" in said.err


def test_check_against_other_versions_judges_nothing_and_says_so(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = build_baseline({"python": "3.12", "cc": "12", "libc": "2.36"})
    assert check(["--check"], {"authorize": 900.0}, baseline) == 0
    said = capsys.readouterr().out
    assert "not judged" in said
    assert "python was 3.12, is 3.11" in said
    assert "libc was 2.36, is not told" in said


def test_check_without_a_baseline_is_a_thing_that_is_missing(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(["--check"], {"authorize": 1.0}) == 2
    assert "--store writes it" in capsys.readouterr().err


def test_missing_valgrind_is_told_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["micro", "--check"])
    assert micro.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("cannot count instructions:")
    assert "apt-get install valgrind" in said


def test_part_that_fails_fails_the_check(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["--check"], Failed("valgrind ended with 1"), build_baseline()) == 1
    assert "valgrind ended with 1" in capsys.readouterr().err


def test_part_without_a_baseline_fails_the_check(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(["--check"], {"batch_whole": 5.0}, build_baseline()) == 1
    assert "batch_whole has no baseline" in capsys.readouterr().err


def test_store_keeps_other_parts_of_the_same_versions_only(check: Check) -> None:
    assert check(["--store", "authorize"], {"authorize": 90.0}, build_baseline()) == 0
    stored = micro.read_baseline()
    assert stored is not None
    assert stored.versions == VERSIONS
    assert stored.instructions == {"authorize": 90.0, "consume": 1000.0}
    assert check(["--store", "authorize"], {"authorize": 90.0}, build_baseline({"cc": "9"})) == 0
    stored = micro.read_baseline()
    assert stored is not None
    assert stored.instructions == {"authorize": 90.0}


def test_unknown_part_is_refused(check: Check) -> None:
    assert check(["nonsense"], {}) == 2


def test_counts_of_callgrind_are_read_by_process() -> None:
    text = (
        "==7== Collected : 1100\n==7==\ncounted consume 80 7\n"
        "==8== Collected : 1200\n==8==\ncounted consume 160 8\n==5== Collected : 900\n"
    )
    assert micro.parse_counts(text) == {"consume": (1100, 1200)}
    with pytest.raises(Failed, match="no count for consume"):
        micro.parse_counts("counted consume 80 7\n")


def test_part_that_breaks_ends_the_run_with_an_error() -> None:
    argv = [sys.executable, "-m", "benchmarks.micro.parts", "--each", "authorize", "nonsense"]
    with pytest.raises(Failed, match="KeyError: 'nonsense'"):
        run_bounded(argv, find_cores()[0], 60, {})


def test_versions_name_what_moves_the_counts() -> None:
    versions = micro.read_versions()
    assert list(versions) == ["python", "machine", "libc", "cc", "Cython", "httptools", "msgspec"]
    assert all(versions.values())


@pytest.mark.parametrize("part", PARTS)
def test_micro_part_goes_the_way_that_it_counts(part: str) -> None:
    # Each part checks the core's own counters at its end; twice, so that slots were recycled.
    run_bounded(
        [sys.executable, "-m", "benchmarks.micro.parts", part, "2"], find_cores()[0], 60, {}
    )


def test_micro_differences_are_of_parts_that_there_are() -> None:
    assert all(name in PARTS for pair in DERIVED.values() for name in pair)
