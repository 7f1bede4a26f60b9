"""The board of counters: sums, text and clocks; the core's list of them; the page about them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw import __version__, _core, observe
from fastgw.errors import KINDS, InternalError
from fastgw.observe import BEAT_S_MAX, HELP, OWN_HELP, WORKERS_MAX, Board

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastgw.observe import Metric

PAGE: Final = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
REQUESTS: Final = "fastgw_requests_total"
DURATION: Final = "fastgw_request_duration_seconds"
SAMPLE: Final[tuple[Metric, ...]] = (
    (REQUESTS, (("route", "single"), ("status", "200")), "counter"),
    (REQUESTS, (("route", "single"), ("status", "other")), "counter"),
    ("fastgw_connections", (), "gauge"),
    (DURATION, (("le", "0.001"),), "bucket"),
    (DURATION, (("le", "0.1"),), "bucket"),
    (DURATION, (("le", "+Inf"),), "bucket"),
    (DURATION, (), "sum"),
    (DURATION, (), "count"),
)
OK, OTHER, CONNECTIONS, FAST, SLOW, REST, SUM, COUNT = range(len(SAMPLE))


def parse(text: bytes) -> dict[str, float]:
    """Return every sample of a text by its name, with its labels' values in parentheses."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            values = ",".join(sample.labels.values())
            name = f"{sample.name}({values})" if values else sample.name
            assert name not in samples, name
            samples[name] = sample.value
    return samples


def families(text: bytes) -> dict[str, Any]:
    """Return the families by their names, as a counter's samples have it."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        found[family.name + ("_total" if family.type == "counter" else "")] = family
    return found


def test_slots_of_all_workers_are_summed() -> None:
    board = Board(3, SAMPLE)
    for row in range(3):
        board.begin(row)
        slots = board.slots(row)
        assert len(slots) == len(SAMPLE) and slots.itemsize == 8
        slots[OK] += 10 + row
        slots[CONNECTIONS] = 2
    told = parse(board.render())
    assert told[f"{REQUESTS}(single,200)"] == 33
    assert told[f"{REQUESTS}(single,other)"] == 0
    assert told["fastgw_connections"] == 6
    assert told["fastgw_workers"] == 3


def test_rows_share_no_cache_line_and_no_slot() -> None:
    board = Board(2, SAMPLE)
    for row in range(board.rows_count):
        board.begin(row)
        for at in range(len(SAMPLE)):
            board.slots(row)[at] = 1
    assert parse(board.render())["fastgw_connections"] == board.rows_count == 4
    assert parse(board.render())["fastgw_worker_starts_total"] == 4


def test_render_before_any_worker_began_tells_nought() -> None:
    told = parse(Board(1, SAMPLE).render())
    assert told[f"{REQUESTS}(single,200)"] == 0
    assert told["fastgw_workers_up"] == 0
    assert told[f"{DURATION}_count"] == 0


def test_ended_worker_keeps_its_counts_and_loses_its_gauges() -> None:
    board = Board(2, SAMPLE)
    for row in (0, 1):
        board.begin(row)
        board.slots(row)[OK] = 5
        board.slots(row)[CONNECTIONS] = 7
        board.slots(row)[COUNT] = board.slots(row)[FAST] = 3
    board.reset_gauges(0)
    told = parse(board.render())
    assert told[f"{REQUESTS}(single,200)"] == 10
    assert told[f"{DURATION}_count"] == 6
    assert told["fastgw_connections"] == 7
    assert told["fastgw_workers_up"] == 1
    assert board.silent_s(0) is None
    before = told["process_cpu_seconds_total"]
    board.begin(0)
    board.slots(0)[OK] += 1
    told = parse(board.render())
    assert told[f"{REQUESTS}(single,200)"] == 11
    assert told["fastgw_worker_starts_total"] == 3
    assert told["process_cpu_seconds_total"] >= before


def test_processor_time_goes_on_where_the_worker_before_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = 0.25
    monkeypatch.setattr(observe.time, "process_time", lambda: spent)
    board = Board(1, SAMPLE)
    board.begin(0)
    spent = 5.0
    board.beat(0)
    assert parse(board.render())["process_cpu_seconds_total"] == 5.0
    spent = 0.25
    board.begin(0)
    assert parse(board.render())["process_cpu_seconds_total"] == 5.25


def test_worker_that_was_not_reset_begins_with_gauges_at_nought() -> None:
    board = Board(1, SAMPLE)
    board.begin(0)
    board.slots(0)[CONNECTIONS] = 7
    board.begin(0)
    assert board.slots(0)[CONNECTIONS] == 0


def test_successor_in_the_second_row_keeps_the_worker_up() -> None:
    board = Board(2, SAMPLE)
    board.begin(0)
    board.slots(0)[OK] = 1
    board.begin(2)
    board.slots(2)[OK] = 1
    board.reset_gauges(0)
    told = parse(board.render())
    assert told["fastgw_workers_up"] == 1
    assert told["fastgw_worker_starts_total"] == 2
    assert told[f"{REQUESTS}(single,200)"] == 2


def test_silent_worker_is_not_up(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(1, SAMPLE)
    now = 1000.0
    monkeypatch.setattr(observe.time, "monotonic", lambda: now)
    board.begin(0)
    now += BEAT_S_MAX - 0.1
    assert parse(board.render())["fastgw_workers_up"] == 1
    now += 0.1
    assert board.silent_s(0) == BEAT_S_MAX
    assert parse(board.render())["fastgw_workers_up"] == 0
    board.beat(0)
    assert parse(board.render())["fastgw_workers_up"] == 1


def test_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(1, SAMPLE)
    board.begin(0)
    before = parse(board.render())["process_start_time_seconds"]
    monkeypatch.setattr(observe.time, "time", lambda: 0.0)
    told = parse(board.render())
    assert told["fastgw_workers_up"] == 1
    assert told["process_start_time_seconds"] == before


def test_buckets_are_cumulative_and_the_sum_is_in_seconds() -> None:
    board = Board(2, SAMPLE)
    for row in (0, 1):
        board.begin(row)
        slots = board.slots(row)
        slots[FAST], slots[SLOW], slots[REST] = 4, 3, 1
        slots[SUM], slots[COUNT] = 1_000_001, 8
    told = parse(board.render())
    assert told[f"{DURATION}_bucket(0.001)"] == 8
    assert told[f"{DURATION}_bucket(0.1)"] == 14
    assert told[f"{DURATION}_bucket(+Inf)"] == told[f"{DURATION}_count"] == 16
    assert told[f"{DURATION}_sum"] == 2.000002
    assert families(board.render())[DURATION].type == "histogram"


def test_buckets_without_an_infinite_one_end_with_the_count() -> None:
    metrics = [metric for metric in SAMPLE if metric[1] != (("le", "+Inf"),)]
    board = Board(1, metrics)
    board.begin(0)
    slots = board.slots(0)
    slots[FAST], slots[SLOW], slots[COUNT - 1] = 4, 3, 8
    told = parse(board.render())
    assert told[f"{DURATION}_bucket(+Inf)"] == told[f"{DURATION}_count"] == 8
    # A worker between its bucket and its count: never a bucket above the count.
    slots[SLOW] = 9
    told = parse(board.render())
    assert told[f"{DURATION}_bucket(0.1)"] == told[f"{DURATION}_count"] == 13


def test_histograms_with_labels_have_a_series_each() -> None:
    metrics = [
        (name, (("route", route), *labels), kind)
        for route in ("single", "batch")
        for name, labels, kind in SAMPLE[FAST:]
    ]
    board = Board(1, metrics)
    board.begin(0)
    board.slots(0)[0] = 2
    told = parse(board.render())
    assert told[f"{DURATION}_bucket(single,0.001)"] == 2
    assert told[f"{DURATION}_count(single)"] == 2
    assert told[f"{DURATION}_count(batch)"] == 0


def test_label_values_and_texts_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    value = 'a"b\\c\nd'
    monkeypatch.setitem(HELP, REQUESTS, "one\\two\nthree")
    text = Board(1, [(REQUESTS, (("route", value),), "counter")]).render()
    family = families(text)[REQUESTS]
    assert [sample.labels for sample in family.samples] == [{"route": value}]
    assert family.documentation == "one\\two\nthree"


def test_great_counts_are_told_to_the_last_digit() -> None:
    board = Board(1, SAMPLE)
    board.begin(0)
    board.slots(0)[OK] = 2**64 - 1
    assert f'{REQUESTS}{{route="single",status="200"}} {2**64 - 1}\n'.encode() in board.render()


def test_text_has_as_many_lines_whatever_was_counted() -> None:
    board = Board(2, SAMPLE)
    lines = board.render().count(b"\n")
    for row in range(2):
        board.begin(row)
        for at in range(len(SAMPLE)):
            board.slots(row)[at] = 10**15
    assert board.render().count(b"\n") == lines
    assert board.render().endswith(b"\n") and b"\n\n" not in board.render()


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ([("fastgw_secret_total", (), "counter")], "no text"),
        ([(REQUESTS, (), "summary")], "kinds"),
        ([(REQUESTS, (), "counter"), (REQUESTS, (("a", "b"),), "gauge")], "kinds"),
        ([SAMPLE[OK], SAMPLE[CONNECTIONS], SAMPLE[OTHER]], "not together"),
        ([SAMPLE[SLOW], SAMPLE[FAST], *SAMPLE[SUM:]], "out of order"),
        (SAMPLE[FAST:COUNT], "kinds"),
        (SAMPLE[SUM:], "kinds"),
    ],
)
def test_list_that_cannot_be_told_is_refused(metrics: Sequence[Metric], text: str) -> None:
    with pytest.raises(InternalError, match=text):
        Board(1, metrics)


def test_workers_past_the_bound_are_refused() -> None:
    assert Board(WORKERS_MAX, SAMPLE).rows_count == 2 * WORKERS_MAX
    for count in (0, WORKERS_MAX + 1):
        with pytest.raises(InternalError, match="workers"):
            Board(count, SAMPLE)


def test_own_metrics_tell_version_memory_and_time() -> None:
    board = Board(1, SAMPLE)
    board.begin(0)
    told = parse(board.render())
    assert told[f"fastgw_build_info({__version__})"] == 1
    assert 10**6 < told["process_resident_memory_bytes"] < 10**11
    assert told["process_start_time_seconds"] > 1.7e9


def test_utilization_is_in_percent_of_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    now = spent = 0.0
    monkeypatch.setattr(observe.time, "monotonic", lambda: now)
    monkeypatch.setattr(observe.time, "process_time", lambda: spent)
    board = Board(1, SAMPLE)
    board.begin(0)
    now, spent = 100.0, 25.0
    board.beat(0)
    told = board.utilization()
    assert told["cpu"] == 25.0
    assert 0 <= told["memory"] <= 100
    assert list(told) == ["cpu", "memory", "storage"]


# --- the core's list, and the page --------------------------------------------------------------


def test_core_counters_each_have_a_text_and_no_text_is_left_over() -> None:
    Board(1, _core.METRICS)
    assert {name for name, _, _ in _core.METRICS} == set(HELP)


def test_core_counters_are_named_by_the_conventions() -> None:
    """SOURCE: Prometheus' naming practices: base units, and `_total` on counters alone."""
    for name, labels, kind in _core.METRICS:
        assert re.fullmatch(r"fastgw_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|millis|us|kb|mb|kib|mib)(_|$)", name)
        if kind in ("bucket", "sum", "count"):
            assert name.endswith(("_seconds", "_bytes")), name
        assert (kind == "bucket") == ("le" in dict(labels)), name
    for text in (*HELP.values(), *OWN_HELP.values()):
        assert text.endswith(".") and len(text) < 120


def test_core_labels_are_bounded_and_name_nobody() -> None:
    series = Counter(name for name, _, _ in _core.METRICS)
    assert max(series.values()) <= 300
    labels = {label for _, each, _ in _core.METRICS for label, _ in each}
    assert labels <= {"route", "status", "kind", "outcome", "reason", "le"}
    kinds = {dict(each)["kind"] for name, each, _ in _core.METRICS if "kind" in dict(each)}
    assert kinds == set(KINDS)


ROW: Final = re.compile(
    r"^\| `((?:fastgw|process)_\w+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", re.M
)


def test_page_tells_every_metric_as_it_is() -> None:
    rows = ROW.findall(PAGE)
    told = families(Board(1, _core.METRICS).render())
    assert [row[0] for row in rows] == list(dict.fromkeys(row[0] for row in rows))
    assert {row[0] for row in rows} == set(told)
    for name, kind, labels, unit, meaning in rows:
        family = told[name]
        assert kind == family.type, name
        wanted = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert set(re.findall(r"`(\w+)`", labels)) == wanted, name
        units = [unit for unit in ("seconds", "bytes") if f"_{unit}" in name]
        assert units in ([unit], []), name
        assert meaning.startswith(family.documentation.rstrip(".")), name


def test_page_tells_the_values_of_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`[a-z]+`(?:, )?)+)[^|]*\|$", PAGE, re.MULTILINE)
    told = {label: set(re.findall(r"`([a-z]+)`", values)) for label, values in rows}
    assert told.keys() == {"route", "outcome", "reason"}
    for label, values in told.items():
        lists = (dict(each) for _, each, _ in _core.METRICS)
        assert {each[label] for each in lists if label in each} == values, label


def test_page_examples_name_metrics_that_are_there() -> None:
    known = set(families(Board(1, _core.METRICS).render()))
    named = set(re.findall(r"\b(?:fastgw|process)_[a-z_]+", PAGE)) - {"fastgw_"}
    assert {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in named} <= known
