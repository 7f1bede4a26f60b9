"""The peers in Go and Rust: their pinned sources, what is said without them, and their answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import command, needs, subjects
from benchmarks.broker import start_broker
from benchmarks.peers import compiled
from benchmarks.peers.compiled import GO, PEERS, RUST, Peer
from benchmarks.processes import Failed, find_cores
from benchmarks.subjects import SUBJECTS, Bench, Running, send, start_ready
from benchmarks.workloads import BATCH_MESSAGES, FORWARDED, WORKLOADS, build_message

each_peer = pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)


# --- sources and builds -------------------------------------------------------------------------


@each_peer
def test_every_source_is_here_and_nothing_of_others(peer: Peer) -> None:
    found = {
        str(file.relative_to(peer.folder)) for file in peer.folder.rglob("*") if file.is_file()
    }
    assert found == set(peer.sources)


def test_versions_are_pinned_by_both_lock_files() -> None:
    go, rust = compiled.read_pinned(GO), compiled.read_pinned(RUST)
    assert {"nats.go", "fasthttp", "jwt/v5"} == set(go)
    assert {"async-nats", "hyper", "tokio"} <= set(rust)
    sums = (GO.folder / "go.sum").read_text()
    assert f"github.com/nats-io/nats.go v{go['nats.go']} h1:" in sums
    lock = (RUST.folder / "Cargo.lock").read_text()
    for name, version in rust.items():
        assert f'name = "{name}"\nversion = "{version}"\n' in lock


def test_routes_are_those_of_the_workloads() -> None:
    routes = {route["path"]: route for route in json.loads(compiled.describe_routes())}
    assert set(routes) == {workload.path for workload in WORKLOADS.values()}
    assert routes["/stations/typed/produce/batch"] == {
        "path": "/stations/typed/produce/batch",
        "subject": "typed",
        "batch": True,
        "forwards": True,
        "schema": True,
    }


def make_peer(tmp_path: Path, *build: str) -> Peer:
    source = tmp_path / "source"
    source.write_text("1")
    return replace(GO, name="made", sources=(str(source),), build=build)


def test_build_runs_once_for_each_change_of_a_source(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "/bin/sh", "-c", "echo x >> {place}/peer")
    peer.folder.mkdir(exist_ok=True)
    try:
        first = compiled.build_peer(peer, tmp_path)
        assert compiled.build_peer(peer, tmp_path) == first
        assert first.read_text() == "x\n"
        (tmp_path / "source").write_text("2")
        second = compiled.build_peer(peer, tmp_path)
        assert second != first
        assert second.read_text() == "x\nx\n"
    finally:
        peer.folder.rmdir()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (("/bin/sh", "-c", "echo it is broken; exit 3"), "ended with 3: it is broken"),
        (("/no/such/compiler",), "cannot run: No such file"),
        (("sleep", "60"), "did not end within 0 s"),
    ],
)
def test_build_that_fails_says_why(
    build: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BUILD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(compiled, "PEERS_DIR", tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(Failed, match=text):
        compiled.build_peer(make_peer(tmp_path, *build), tmp_path)


# --- without a toolchain ------------------------------------------------------------------------


def test_peers_without_their_toolchain_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    left_out = subjects.find_left_out()
    assert left_out["go"].startswith("go is not on PATH; it is the toolchain of the Go peer")
    assert left_out["rust"].startswith("cargo is not on PATH; it is the toolchain of the Rust peer")
    options, _ = command.parse_options([])
    assert options.subjects == [name for name in SUBJECTS if name not in PEERS]
    assert command.run_command(["--subjects", "floor,go"]) == 2
    assert "go is not on PATH" in capsys.readouterr().out


def test_versions_name_toolchain_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "first_line", lambda argv: f"{argv[0]} 1.2")
    versions = needs.read_versions(["go", "cargo"])
    assert versions["go"].startswith("go 1.2 with ")
    assert "nats.go " in versions["go"]
    assert versions["rustc"].startswith("rustc 1.2 with async-nats ")


# --- the answers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if needs.find_nats_server() is None:
        pytest.skip("nats-server is not installed")
    folder = tmp_path_factory.mktemp("peers")
    broker = start_broker(folder, find_cores()[0])
    try:
        yield Bench(broker, find_cores()[0], folder)
    finally:
        broker.child.stop()


@pytest.fixture(params=PEERS)
def running(request: pytest.FixtureRequest, bench: Bench) -> Iterator[tuple[Running, Bench]]:
    peer = PEERS[request.param]
    if not compiled.find_binary(peer).exists():  # A test downloads and builds nothing.
        pytest.skip(f"the {peer.name} peer was not built yet; the benchmarks do it")
    for station in ("bench", "typed"):
        bench.broker.make_stream(station)
    server = start_ready(SUBJECTS[peer.name], bench, WORKLOADS["single"])
    try:
        yield server, bench
    finally:
        server.child.stop()


def test_compiled_peer_answers_503_where_nothing_is_stored(running: tuple[Running, Bench]) -> None:
    server, _ = running  # Only the next test makes the stream of this station.
    for name in ("single-plain", "batch-plain"):
        request = WORKLOADS[name].build_request(server.token)
        assert send(server.port, request) == (503, b'{"error":"refused","success":false}')


def test_compiled_peer_does_the_work_of_every_workload(running: tuple[Running, Bench]) -> None:
    server, bench = running
    bench.broker.make_stream("plain")
    for workload in WORKLOADS.values():
        bench.broker.purge(workload.station)
        status, body = send(server.port, workload.build_request(server.token))
        assert (status, body) == (200, b'{"error":null,"success":true}')
        assert bench.broker.count_stored(workload.station) == workload.messages
        last = bench.broker.find_last(workload.station)
        assert last.data == build_message()
        names = {name.lower() for name in last.headers or {}}
        assert "authorization" not in names
        assert {name.lower() for name in FORWARDED} <= names if workload.forwards else not names


def test_compiled_peer_refuses_and_stores_nothing(running: tuple[Running, Bench]) -> None:
    server, bench = running
    good = WORKLOADS["schema-batch"].build_request(server.token)
    single = WORKLOADS["schema"].build_request(server.token)
    wrong = build_message().replace(b'"id":4711', b'"id":0')
    bench.broker.purge("typed")
    refused = [
        (401, replace(good, headers={**good.headers, "Authorization": "Bearer x.y.z"})),
        (401, replace(good, headers={"Content-Type": "application/json"})),
        (404, replace(good, path="/stations/typed/produce/other")),
        (400, replace(good, body=good.body[:-1])),
        (400, replace(good, body=b'{"a":1}')),
        (400, replace(good, body=good.body[:-1] + b"," + wrong + b"]")),
        (400, replace(single, body=wrong)),
        (400, replace(single, body=b'{"id":1}')),
        (400, replace(single, body=b"{")),
    ]
    for status, request in refused:
        assert send(server.port, request)[0] == status, request
    assert bench.broker.count_stored("typed") == 0
    assert send(server.port, good)[0] == 200
    assert bench.broker.count_stored("typed") == BATCH_MESSAGES


def test_toolchains_are_named_for_who_has_them() -> None:
    for peer in PEERS.values():
        assert SUBJECTS[peer.name].needs == (peer.toolchain,)
        assert (peer.name in subjects.find_left_out()) == (shutil.which(peer.toolchain) is None)
