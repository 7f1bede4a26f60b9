"""The benchmarks' suites: targets, reports, comparison, plots, dispatch, and a small real run."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jwt
import msgspec
import pytest

from benchmarks import command, compare, machine, needs, plots, report, results, suite_command
from benchmarks.broker import Broker, start_broker
from benchmarks.load import publish
from benchmarks.processes import Failed, find_cores, run_bounded
from benchmarks.subjects import SUBJECTS
from benchmarks.suites.bodies import build_body
from benchmarks.suites.latency import find_knee
from benchmarks.suites.populate import bound_connections, mint_tokens
from benchmarks.targets import TARGETS, format_markdown, format_verdict, judge
from benchmarks.workloads import TABLES, WORKLOADS

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
CORE = find_cores()[1]


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "is_met", "reached"),
    [
        ("P1.floor", 1.5, True, "1.5 \u00d7"),
        ("P1.floor", 1.51, False, "1.51 \u00d7"),
        ("P1.fastapi", 20.0, True, "20 \u00d7"),
        ("P1.fastapi", 19.9, False, "19.9 \u00d7"),
        ("P9.connection", 3480.2, True, "3,480 bytes"),
        ("P11.start", None, None, "-"),
    ],
)
def test_figure_is_judged_against_its_target(
    key: str, value: float | None, is_met: bool | None, reached: str
) -> None:
    verdict = judge(key, value)
    assert (verdict.is_met, verdict.reached) == (is_met, reached)


def test_every_row_of_the_targets_is_there() -> None:
    assert {target.row for target in TARGETS.values()} == {f"P{n}" for n in range(1, 13)}
    assert all(key.startswith(target.row + ".") for key, target in TARGETS.items())


def test_verdicts_say_reached_not_reached_or_not_measured() -> None:
    verdicts = [judge("P2.floor", 1.2), judge("P2.floor", 1.4), judge("P2.floor", None)]
    assert [format_verdict(v)[4] for v in verdicts] == ["reached", "not reached", "not measured"]
    lines = format_markdown(verdicts)
    assert lines[2].startswith("| P2 | single, API key")
    assert format_markdown([]) == []


def row(workload: str, subject: str, cpu_us: float, **more: object) -> results.Row:
    return results.Row(workload, subject, 1, cpu_us=cpu_us, **more)  # type: ignore[arg-type]


def test_rows_of_the_comparison_are_judged_against_floor_and_cheapest_peer() -> None:
    rows = [
        row("schema", "fastgw", 10.0, times_floor=1.4),
        row("schema", "fastapi", 250.0),
        row("schema", "asgi-uvicorn", 70.0),
        row("schema", "asgi-granian", 50.0),
        row("batch-plain", "fastgw", 60.0, rate=1000.0),
        results.Row("single-plain", "fastgw", 0, problem="it ended"),
    ]
    found = {v.what: (v.reached, v.is_met) for v in results.judge_rows(rows, {"batch-plain": 2e5})}
    assert list(found.values()) == [
        ("1.4 \u00d7", True), ("25 \u00d7", True), ("5 \u00d7", False), ("0.5 \u00d7", False),
    ]  # fmt: skip
    assert results.judge_rows([], {}) == []
    without = results.judge_rows([row("schema", "fastgw", 10.0)], {})
    assert [verdict.is_met for verdict in without] == [None, None, None]


# --- suites' own arithmetic ---------------------------------------------------------------------


def test_knee_is_the_last_rate_that_was_kept_up_in_time() -> None:
    points = [
        report.Point(rate, 100, p99, 0) for rate, p99 in ((10, 1), (20, 9), (30, 11), (40, 2))
    ]
    assert find_knee(points, [10, 20, 30, 40]) == 20
    assert find_knee(points, [10, 19, 30, 40]) == 10
    assert find_knee(points[:2], [10, 20]) == 20


def test_tokens_differ_in_their_ids_alone() -> None:
    claims = {"sub": "a", "ep": 3, "jti": "0" * 28, "use": "a"}
    one = jwt.encode(claims, "s" * 32, "HS256", headers={"kid": "k"})
    minted = mint_tokens(one, "s" * 32, 3)
    read = [jwt.decode(token, "s" * 32, algorithms=["HS256"]) for token in minted]
    assert len({each["jti"] for each in read}) == 3
    assert all({**each, "jti": claims["jti"]} == claims for each in read)
    assert {len(token) for token in minted} == {len(one)}
    assert jwt.get_unverified_header(minted[0])["kid"] == "k"


def test_connections_are_bounded_by_open_files() -> None:
    assert bound_connections(1) == 1
    assert bound_connections(1 << 40) < 1 << 40


def test_body_has_its_size_and_is_json() -> None:
    assert len(build_body(1024)) == 1024
    json.loads(build_body(64))


# --- reports, comparison, plots -----------------------------------------------------------------


def build_report(suite: str = "latency") -> report.Report:
    points = [report.Point(1000.0 * n, 100 * n, 300 * n, 900 * n) for n in (1, 2, 3)]
    found = report.Findings(
        figures={"fastgw.cpu_us": 12.0, "fastgw.rate": 100.0},
        tables=[report.Table("A table", ["what", "µs"], [["one", "1.00"]])],
        verdicts=[judge("P4.p99", 1.5)],
        series={"floor": points, "fastgw": points},
        notes=["the pacer was late"],
    )
    return report.Report(
        format=report.FORMAT,
        suite=suite,
        started_at="2026-01-02T03:04:05+00:00",
        commit="abc",
        options=report.SuiteOptions(1, 2.0, 64, ["floor", "fastgw"]),
        machine=machine.describe_machine(),
        versions={"python": "3.11"},
        findings=found,
    )


def store(tmp_path: Path, written: report.Report) -> Path:
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return suite_command.store_report(written, "about", tmp_path / "new", day)


def test_stored_report_reads_back_and_tells_everything(tmp_path: Path) -> None:
    written = build_report()
    path = store(tmp_path, written)
    assert path.name == "2026-01-02-abc-latency.json"
    assert compare.read_document(path) == written
    text = path.with_suffix(".md").read_text()
    assert (
        "| P4 | half of capacity, constant rate: p99 against the floor | ≤ 2 \u00d7 | 1.5 \u00d7 |"
        in text
    )
    assert "| one | 1.00 |" in text
    assert "- the pacer was late" in text


def test_figures_keep_their_names_and_are_rounded() -> None:
    found = report.Findings()
    assert found.set("a.b", 1.23456) == 1.23456
    assert found.figures == {"a.b": 1.2346}
    assert report.Findings().figures == {}


def test_comparison_marks_what_changed_and_keeps_what_one_has_alone() -> None:
    rows = compare.compare_figures(
        {"a": 100.0, "b": 10.0, "c": 0.0}, {"b": 10.1, "a": 90.0, "d": 1}
    )
    assert rows == [
        ["a", "100", "90", "-10.0 % *"],
        ["b", "10", "10.1", "+1.0 %"],
        ["c", "0", "-", ""],
        ["d", "-", "1", ""],
    ]


def test_comparison_of_files_prints_figures_and_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = store(tmp_path / "a", build_report())
    other = msgspec.structs.replace(build_report(), versions={"python": "3.12"})
    b = store(tmp_path / "b", other)
    assert command.run_command(["--compare", str(a), str(b)]) == 0
    printed = capsys.readouterr().out
    assert "fastgw.cpu_us" in printed
    assert "- python differs: A 3.11, B 3.12" in printed


def test_comparison_of_what_is_no_result_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"a":1}')
    assert command.run_command(["compare", str(bad), str(bad)]) == 2
    assert command.run_command(["compare", str(tmp_path / "gone"), str(bad)]) == 2
    printed = capsys.readouterr().out
    assert "holds no results" in printed
    assert "cannot be read" in printed


def build_results() -> results.Results:
    rows = [
        row(workload, subject, cpu_us, rss_mb=cpu_us)
        for workload in ("single", "schema", "batch")
        for subject, cpu_us in (("floor", 8.0), ("fastgw", 12.0), ("go", 20.0))
    ]
    return results.Results(
        format=results.FORMAT,
        started_at="2026-01-02T03:04:05+00:00",
        commit="abc",
        options=results.Options(["single"], ["floor", "fastgw", "go"], 1, 2, 64),
        machine=machine.describe_machine(),
        versions={},
        rows=rows,
        samples=[],
    )


def test_figures_of_a_comparison_are_named_by_workload_and_subject() -> None:
    figures = compare.collect_figures(build_results())
    assert figures["single.fastgw.cpu_us"] == 12.0
    assert "single.fastgw.times_floor" not in figures


def test_newest_results_of_each_kind_are_found(tmp_path: Path) -> None:
    old = store(tmp_path, build_report())
    day = datetime.datetime(2026, 1, 3, tzinfo=datetime.UTC)
    later = msgspec.structs.replace(
        build_report(), started_at="2026-01-03T00:00:00+00:00", commit="d"
    )
    new = suite_command.store_report(later, "about", old.parent, day)
    suite_command.store_report(build_report("consume"), "about", old.parent, day)
    table = command.store(build_results(), old.parent, day)
    assert set(plots.find_newest(old.parent)) == {new, table}


def test_plots_are_drawn_as_png_and_svg_and_name_their_source(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    latency = store(tmp_path, build_report())
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    table = command.store(build_results(), latency.parent, day)
    out = tmp_path / "images"
    assert command.run_command(["plots", str(latency), str(table), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        f"{name}{theme}.{kind}"
        for name in ("cpu-per-request", "latency-rate", "memory")
        for theme in ("", "-dark")
        for kind in ("png", "svg")
    }
    assert (out / "latency-rate.png").read_bytes().startswith(b"\x89PNG")
    drawn = (out / "latency-rate.svg").read_text()
    assert latency.name in drawn
    assert "#ffffff" in drawn
    dark = (out / "cpu-per-request-dark.svg").read_text()
    assert "Go: fasthttp" in dark
    assert "#0d1117" in dark
    assert "#ffffff" not in dark


def test_every_subject_has_a_colour_on_every_page() -> None:
    assert all(set(theme.colours) == set(SUBJECTS) for theme in plots.THEMES)


def test_part_of_a_comparison_is_not_drawn_in_its_place() -> None:
    whole = build_results()
    assert plots.is_comparison(whole)
    for left_out in ("schema", "single"):
        rows = [row for row in whole.rows if row.workload != left_out]
        assert not plots.is_comparison(msgspec.structs.replace(whole, rows=rows))
    alone = [row for row in whole.rows if row.subject != "go"]
    assert not plots.is_comparison(msgspec.structs.replace(whole, rows=alone))


def test_results_without_anything_to_draw_end_with_1(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = build_report("start")
    written.findings.series.clear()
    path = store(tmp_path, written)
    assert command.run_command(["plots", str(path), "--out", str(tmp_path / "none")]) == 1


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(suite_command.SUITES))
def test_subcommand_runs_its_suite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "run_suite", lambda suite, _: seen.append(suite.name) or 0)
    assert command.run_command([name]) == 0
    assert seen == [name]


def test_suites_are_those_that_need_no_wrk() -> None:
    from benchmarks.__main__ import PACED

    assert set(PACED) == set(suite_command.SUITES)


def test_single_and_batch_are_the_comparison_with_their_workloads() -> None:
    for name, workloads in TABLES.items():
        options, _ = command.parse_options([], workloads)
        assert options.workloads == list(workloads)
        many = [each for each in workloads if WORKLOADS[each].messages > 1]
        assert len(many) == (3 if name == "batch" else 0)
        assert "single" in workloads  # The floor's cost there is the yardstick of CPU time.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--subjects", "nginx"], "'nginx' is unknown"),
        (["--seconds", "0.1"], "is not between 0.5 and 60"),
        (["--rounds", "0"], "is not between 1 and 50"),
    ],
)
def test_wrong_options_of_a_suite_end_with_2(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        suite_command.run_suite(suite_command.SUITES["latency"], arguments)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_suite_that_needs_what_is_missing_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite_command, "find_missing", lambda *_: ["cc is not on PATH"])
    assert suite_command.run_suite(suite_command.SUITES["memory"], []) == 2
    assert "cannot run memory" in capsys.readouterr().out


def test_suite_that_fails_stores_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> report.Findings:
        raise Failed("no luck")

    monkeypatch.setattr(suite_command, "run_with_steps", fail)
    monkeypatch.setattr(suite_command, "find_missing", lambda *_: [])
    assert suite_command.run_suite(suite_command.SUITES["start"], ["--out", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


# --- against a real broker ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if needs.find_nats_server() is None or shutil.which("cc") is None:
        pytest.skip("nats-server or a C compiler is not here")
    broker = start_broker(tmp_path_factory.mktemp("broker"), find_cores()[0])
    try:
        broker.make_stream("bench")
        yield broker
    finally:
        broker.child.stop()


def test_raw_publisher_fills_a_stream_to_the_message(broker: Broker) -> None:
    broker.purge("bench")
    publish.fill(broker, "bench", 1234, CORE)
    assert broker.count_stored("bench") == broker.count_everything() == 1234
    last = broker.find_last("bench").data
    assert last is not None
    assert len(last) == 120
    json.loads(last)


def test_raw_publisher_stops_at_its_time_and_counts_refusals(broker: Broker) -> None:
    done = publish.publish_for(broker, "bench", 0.2, CORE)
    assert done.stored > 0
    assert done.refused == 0
    assert done.rate > 0
    with pytest.raises(Failed, match=r"only 0 of 10 messages were stored \(10 refused\)"):
        publish.fill(broker, "nobody.stores.this", 10, CORE)


def test_fetch_loop_takes_what_it_was_asked_for(broker: Broker) -> None:
    broker.purge("bench")
    publish.fill(broker, "bench", 500, CORE)
    argv = [sys.executable, "-m", "benchmarks.peers.fetch_loop", "bench", "loop", "400", "100"]
    told = json.loads(run_bounded(argv, CORE, 60, {"BENCH_NATS_URL": broker.url}))
    assert told["messages"] == 400
    assert broker.count_delivered("bench", "loop") == 400


@needs_cc
def test_run_of_a_suite_stores_its_report(tmp_path: Path) -> None:
    if needs.find_nats_server() is None:
        pytest.skip("nats-server is not installed")
    argv = ["pipeline", "--subjects", "floor", "--rounds", "1", "--seconds", "0.5"]
    assert command.run_command([*argv, "--connections", "16", "--out", str(tmp_path)]) == 0
    stored = compare.read_document(next(tmp_path.glob("*-pipeline.json")))
    assert isinstance(stored, report.Report)
    assert 0 < stored.findings.figures["floor.16.ratio"] < 1
    assert stored.findings.verdicts[0].is_met is None  # The gateway did not run.
    assert len(stored.findings.others_cpu_percent) == 2  # Both depths, one round each.
    assert set(stored.options.subjects) <= set(SUBJECTS)
