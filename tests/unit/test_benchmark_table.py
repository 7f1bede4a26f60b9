"""The table of targets: what it reads, how it judges, what it writes into documents; and `all`."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks import blocks, command, everything, machine, report, results, suite_command, table
from benchmarks.compare import DocumentError
from benchmarks.processes import ROOT, run_beside
from benchmarks.subjects import SUBJECTS
from benchmarks.targets import REFERENCE_FLOOR_US, TARGETS, judge
from benchmarks.workloads import TABLES

DAY = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
DOCUMENTS = ("README.md", "docs/performance.md")
WORKLOADS = ("single", "single-plain", "batch", "batch-plain", "schema", "schema-batch")


def figures(others: float) -> results.Figures:
    return results.Figures(1, 1.0, 1.0, 1.0, 1, 1, 1, 1, 1, 1, 1, 1, others_cpu_percent=others)


def build_results(
    cpu_us: dict[str, float], day: int = 2, others: float = 1.0, **more: object
) -> results.Results:
    """Build a comparison in which each subject costs the same under every workload."""
    rows = [
        results.Row(
            workload, name, 3, cpu_us=cost, cpu_us_per_message=cost / 10, rate=1e5 / cost,
            times_floor=round(cost / cpu_us["floor"], 2), rss_mb=cost,
        )
        for workload in WORKLOADS
        for name, cost in cpu_us.items()
    ]  # fmt: skip
    samples = [
        results.Sample(workload, name, number, figures(others if number == 1 else 1.0))
        for workload in WORKLOADS
        for name in cpu_us
        for number in (1, 2, 3)
    ]
    built = results.Results(
        format=results.FORMAT,
        started_at=f"2026-01-{day:02}T03:04:05+00:00",
        commit=f"c{day}",
        options=results.Options(list(WORKLOADS), list(cpu_us), 3, 4, 64),
        machine=machine.describe_machine(),
        versions={},
        rows=rows,
        samples=samples,
        publisher_rates={"batch-plain": 1e6},
    )
    return msgspec.structs.replace(built, **more)


def build_report(suite: str, values: dict[str, float], **more: float) -> report.Report:
    found = report.Findings(
        figures=dict(more),
        verdicts=[judge(key, value) for key, value in values.items()],
        others_cpu_percent=[2.0, 40.0, 16.0],
    )
    return report.Report(
        format=report.FORMAT,
        suite=suite,
        started_at="2026-01-02T03:04:05+00:00",
        commit="abc",
        options=report.SuiteOptions(3, 2.0, 64, ["floor", "fastgw"]),
        machine=machine.describe_machine(),
        versions={},
        findings=found,
    )


def find(lines: Sequence[table.Line], key: str) -> table.Line:
    return next(line for line in lines if line.verdict.key == key)


COSTS = {"floor": 8.4, "fastgw": 10.0, "fastapi": 250.0, "asgi-uvicorn": 50.0, "rust": 20.0}


# --- lines --------------------------------------------------------------------------------------


def test_every_target_has_a_line_and_a_command_that_there_is() -> None:
    assert list(table.SOURCES) == list(TARGETS)
    known = {*suite_command.SUITES, *TABLES}
    assert {source.suite for source in table.SOURCES.values()} <= known
    lines = table.find_lines([])
    assert [line.verdict.key for line in lines] == list(TARGETS)
    text = "\n".join(table.format_targets(lines, ROOT))
    assert text.count("| no result | - | - | `python -m benchmarks ") == len(TARGETS)


def test_line_tells_ratio_own_figure_floor_and_the_best_peer() -> None:
    lines = table.find_lines([(ROOT / "a.json", build_results(COSTS))])
    single = find(lines, "P1.floor")
    assert table.format_reached(single) == "1.19 \u00d7 (10 \u00b5s): **reached**"
    assert (single.floor, single.peer) == ("8.4 \u00b5s", "Rust: hyper + async-nats, 20 \u00b5s")
    assert find(lines, "P1.fastapi").peer == "FastAPI on uvicorn + nats-py, 250 \u00b5s"
    assert find(lines, "P1.asgi").peer == "raw ASGI on uvicorn + nats-py, 50 \u00b5s"
    rate = find(lines, "P5.rate")
    assert rate.own == "10,000 batches/s"
    assert rate.peer == "Rust: hyper + async-nats, 5,000 batches/s"


def test_newest_file_that_has_a_figure_is_taken_row_by_row(tmp_path: Path) -> None:
    old, new = build_results(COSTS), build_results({**COSTS, "fastgw": 9.0}, day=3)
    new = msgspec.structs.replace(new, rows=[row for row in new.rows if row.workload == "schema"])
    paths = [command.store(document, tmp_path, DAY) for document in (new, old)]
    lines = table.find_lines(table.read_newest(paths))
    assert find(lines, "P1.floor").path == paths[0]
    assert find(lines, "P2.floor").path == paths[1]


def test_row_without_a_valid_round_is_no_result() -> None:
    document = build_results(COSTS)
    rows = [
        msgspec.structs.replace(row, rounds_valid=0) if row.subject == "fastgw" else row
        for row in document.rows
    ]
    lines = table.find_lines([(ROOT / "a.json", msgspec.structs.replace(document, rows=rows))])
    assert all(line.path is None for line in lines)


@pytest.mark.parametrize(
    ("own", "floor", "said"),
    [
        (5.0, 8.4, "0.5 \u00b5s, scaled 0.25 \u00b5s: **reached as it is**"),
        (10.0, 8.4, "1 \u00b5s, scaled 0.5 \u00b5s: **reached as scaled only**"),
        (20.0, 8.4, "2 \u00b5s, scaled 1 \u00b5s: **not reached, nor as scaled**"),
        (5.9, 2.1, "0.59 \u00b5s, scaled 1.18 \u00b5s: **reached as it is**"),
    ],
)
def test_cpu_time_is_told_as_it_is_and_scaled_and_the_verdict_says_by_which(
    own: float, floor: float, said: str
) -> None:
    document = build_results({"floor": floor, "fastgw": own})
    lines = table.find_lines([(ROOT / "a.json", document)])
    assert table.format_reached(find(lines, "P5.plain")) == said
    text = "\n".join(table.format_targets(lines, ROOT))
    assert f"times {REFERENCE_FLOOR_US:g} \u00b5s / the floor's CPU for a single request" in text


def test_cpu_time_without_the_floors_single_request_is_told_as_it_is() -> None:
    document = build_results(COSTS)
    rows = [row for row in document.rows if row.workload != "single"]
    lines = table.find_lines([(ROOT / "a.json", msgspec.structs.replace(document, rows=rows))])
    assert table.format_reached(find(lines, "P5.plain")) == "1 \u00b5s: **not reached as it is**"
    assert not any("*Scaled*" in line for line in table.format_targets(lines, ROOT))


def test_suite_is_judged_by_the_targets_of_today_and_scaled_by_its_own_floor() -> None:
    more = {
        "fastgw.cpu_us_per_message": 2.0,
        "nats_py.cpu_us_per_message": 30.0,
        "floor.single.cpu_us": 8.4,
    }
    consume = build_report("consume", {"P6.cpu": 2.0, "P6.times": 15.0}, **more)
    consume.findings.verdicts[0] = msgspec.structs.replace(
        consume.findings.verdicts[0], is_met=True
    )
    lines = table.find_lines([(ROOT / "c.json", consume)])
    line = find(lines, "P6.cpu")
    assert table.format_reached(line).startswith("2 \u00b5s, scaled 1 \u00b5s: **reached as scaled")
    assert line.peer == "nats-py fetch loop, 30 \u00b5s"
    assert find(lines, "P6.times").own == "2 \u00b5s"


def test_pipeline_is_read_at_the_connections_it_was_run_with() -> None:
    more = {"fastgw.64.ratio": 0.4, "floor.64.ratio": 0.5, "floor.16.ratio": 0.9}
    line = find(
        table.find_lines([(ROOT / "p.json", build_report("pipeline", {"P7.cost": 0.4}, **more))]),
        "P7.cost",
    )
    assert (line.floor, line.own, line.peer) == ("0.5 \u00d7", "", "")


# --- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("percent", "is_marked"), [(15.0, False), (15.1, True), (60.0, True)])
def test_line_of_a_run_that_others_disturbed_is_marked(percent: float, is_marked: bool) -> None:
    # Of three rounds of the gateway, the floor and the peer each, the first was disturbed.
    lines = table.find_lines([(ROOT / "a.json", build_results(COSTS, others=percent))])
    said = table.format_reached(find(lines, "P1.floor"))
    assert said.endswith(f"; disturbed in 3 of 9 rounds, by up to {percent:.0f} %") == is_marked
    below = any("*Disturbed*" in line for line in table.format_targets(lines, ROOT))
    assert below == is_marked


def test_line_of_a_suite_that_others_disturbed_is_marked() -> None:
    lines = table.find_lines([(ROOT / "s.json", build_report("start", {"P11.start": 200.0}))])
    said = table.format_reached(find(lines, "P11.start"))
    assert said == "200 ms: **reached**; disturbed in 2 of 3 rounds, by up to 40 %"


# --- commands -----------------------------------------------------------------------------------


def test_command_of_a_line_runs_what_its_file_holds() -> None:
    document = build_results(COSTS)
    assert table.format_command(document) == (
        "python -m benchmarks --workload " + ",".join(WORKLOADS) + " --subjects " + ",".join(COSTS)
    )
    everyone, _ = command.parse_options([])
    everyone = msgspec.structs.replace(everyone, subjects=list(SUBJECTS), seconds=2)
    whole = msgspec.structs.replace(document, options=everyone)
    assert table.format_command(whole) == "python -m benchmarks --seconds 2"
    suite = build_report("latency", {})
    assert table.format_command(suite) == "python -m benchmarks latency"
    options = report.SuiteOptions(5, 1.5, 32, ["fastgw"])
    assert table.format_command(msgspec.structs.replace(suite, options=options)) == (
        "python -m benchmarks latency --rounds 5 --seconds 1.5 --connections 32 --subjects fastgw"
    )


def test_table_is_printed_stored_and_refuses_what_is_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = command.store(build_results(COSTS), tmp_path / "results", DAY)
    assert command.run_command(["table", "--results", str(path.parent)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("| row | what | target | reached | floor | best peer |")
    out = tmp_path / "docs" / "table.md"
    assert command.run_command(["table", str(path), "--out", str(out)]) == 0
    assert f"[{path.stem}](../results/{path.name})" in out.read_text()
    assert command.run_command(["table", str(tmp_path / "gone.json")]) == 2
    assert "cannot be read" in capsys.readouterr().out


# --- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_of_the_documents_are_what_the_files_they_name_give(name: str) -> None:
    path = ROOT / name
    # Mend it with: python -m benchmarks table --write README.md docs/performance.md
    assert blocks.make_anew(path, None, ROOT / "docs" / "images") == path.read_text()


def test_plots_of_the_documents_name_results_that_are_there() -> None:
    images = sorted((ROOT / "docs" / "images").glob("*.svg"))
    assert {path.stem.removesuffix("-dark") for path in images} <= set(blocks.IMAGES)
    for image in images:
        named = re.search(r"results: ([\w.-]+\.json)", image.read_text())
        assert named, image
        assert (results.RESULTS_DIR / named[1]).exists(), image


def test_marks_are_filled_from_the_newest_and_then_name_it(tmp_path: Path) -> None:
    stored = [command.store(build_results(COSTS, day), tmp_path / "results", DAY) for day in (2, 3)]
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "before\n<!-- benchmarks: peers -->\nold | figures\n<!-- benchmarks: end -->\nbetween\n"
        "<!-- benchmarks: targets -->\n<!-- benchmarks: end -->\n"
        "<!-- benchmarks: plots of memory latency-rate -->\n<!-- benchmarks: end -->\nafter\n"
    )
    images = tmp_path / "docs" / "images"
    images.mkdir()
    for name in ("memory.svg", "memory-dark.svg", "latency-rate.svg"):
        (images / name).touch()
    argv = ["table", "--results", str(tmp_path / "results"), "--write", str(page)]
    assert command.run_command([*argv, "--images", str(images)]) == 0
    text = page.read_text()
    assert text.startswith(
        f"before\n<!-- benchmarks: peers of ../results/{stored[1].name} -->\n\n|  | CPU"
    )
    assert "old | figures" not in text
    assert "| **fastgw** | **10.0** | **1.2** | **10,000** |" in text
    assert text.index("| C floor |") < text.index("**fastgw**") < text.index("| Rust: hyper")
    assert 'srcset="images/memory-dark.svg"' in text
    assert "latency-rate.svg" not in text  # It was not drawn for dark pages.
    assert text.endswith("<!-- benchmarks: end -->\nafter\n")
    assert blocks.make_anew(page, None, images) == text
    page.write_text(text.replace("**10.0**", "**9.0**"))
    assert blocks.make_anew(page, None, images) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no marks\n", "has no marks"),
        ("<!-- benchmarks: peers -->\nno end\n", "not a beginning and an end"),
        ("<!-- benchmarks: plot of x -->\n<!-- benchmarks: end -->\n", "not a beginning"),
        ("<!-- benchmarks: plots of x -->\n<!-- benchmarks: end -->\n", "there is no plot 'x'"),
        ("<!-- benchmarks: peers -->\n<!-- benchmarks: end -->\n", "no comparison"),
    ],
)
def test_document_that_cannot_be_made_anew_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    argv = ["table", "--results", str(tmp_path), "--write", str(page)]
    assert command.run_command(argv) == 2
    assert said in capsys.readouterr().out.replace("\n", " ")
    assert page.read_text() == text
    with pytest.raises(DocumentError, match="cannot be read"):
        blocks.make_anew(tmp_path / "gone.md", [], tmp_path)


# --- all ----------------------------------------------------------------------------------------


def test_all_goes_on_after_a_part_that_failed_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> int:
        ran.append(arguments)
        return 1 if arguments[0] == "consume" else 0

    argv = ["--out", str(tmp_path), "--rounds", "1", "--seconds", "0.5"]
    assert everything.run_everything(argv, run) == 1
    assert [arguments[0] for arguments in ran] == ["--rounds", *list(everything.EXPECTED_S)[1:]]
    assert ran[0] == ["--rounds", "1", "--seconds", "1", "--out", str(tmp_path)]
    assert ran[1][:5] == ["latency", "--rounds", "1", "--seconds", "0.5"]
    said = capsys.readouterr().out
    assert "3 of 8: consume, about" in said
    assert "all that is left about" in said
    assert "consume failed with exit code 1; the rest goes on" in said
    assert re.search(r"consume +\W+ failed \(1\)", said)
    assert "no result" in said
    assert everything.run_everything([*argv, "--parts", "start"], lambda _: 0) == 0


def test_all_that_is_interrupted_says_what_was_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: Sequence[str]) -> int:
        raise KeyboardInterrupt

    argv = ["--out", str(tmp_path), "--parts", "latency,scale"]
    assert everything.run_everything(argv, run) == 1
    said = capsys.readouterr().out
    assert "interrupted in latency; 1 more were not begun" in said
    assert "not begun" in said


def test_all_knows_every_suite_and_foresees_by_what_was_seen() -> None:
    assert set(everything.EXPECTED_S) == {everything.COMPARISON, *suite_command.SUITES}
    slow, next_one = everything.Part("a", (), 10.0), everything.Part("b", (), 30.0)
    assert everything.foresee([], [slow, next_one]) == 40.0
    assert everything.foresee([everything.Ended(slow, 0, 20.0)], [next_one]) == 60.0
    assert everything.format_minutes(89) == "89 s"
    assert everything.format_minutes(600) == "10 min"


def test_part_runs_in_a_process_of_its_own() -> None:
    assert run_beside(["sh", "-c", "exit 3"]) == 3
