"""Memory: of an idle worker, and what each connection, station and token adds (P9).

What enters: a scene and options. What leaves: resident memory of each subject's process tree after
one message, and of the gateway's as differences over crowds that are large enough to see.
It must never divide by a crowd that is not all there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.load.pace import Pace
from benchmarks.proc import measure_memory
from benchmarks.report import Findings, SuiteOptions, Table
from benchmarks.scene import EVERYWHERE, Scene
from benchmarks.subjects import GATEWAY, SUBJECTS, Running
from benchmarks.suites.populate import (
    SINGLE,
    add_stations,
    bound_connections,
    build_setup,
    build_token_requests,
    hold_connections,
    mint_tokens,
)
from benchmarks.targets import judge

CONNECTIONS: Final = 10_000
STATIONS: Final = 10_000
TOKENS: Final = 100_000
CROWD_S_MAX: Final = 60.0
"""LIMIT: for a crowd of tokens to be seen once each."""


def run_memory(scene: Scene, options: SuiteOptions) -> Findings:
    """Measure memory and judge P9."""
    found = Findings()
    crowds = Table(
        "What each one adds", ["of what", "how many", "RSS before", "RSS after", "bytes each"]
    )
    with scene.serve(GATEWAY, SINGLE, build_setup(scene)) as server:
        first_mb = found.set("first_rss_mb", _measure_kb(server) / 1024)
        token = mint_tokens(server.token, scene.bench.secret, 1)[0]
    with scene.serve(GATEWAY, SINGLE, build_setup(scene, token)) as server:
        idle_mb = found.set(f"{GATEWAY}.idle_rss_mb", _measure_kb(server) / 1024)
        _measure_connections(scene, server, found, crowds, options.connections)
        _measure_tokens(scene, server, found, crowds)
    _measure_stations(scene, found, crowds)
    rows = [
        ["first start on a broker, after the admin's password was hashed", f"{first_mb:.1f} MB"],
        ["later start, one message stored, nobody logged in", f"{idle_mb:.1f} MB"],
        *_measure_others(scene, found, options.subjects),
    ]
    found.tables += [Table("One worker, idle", ["when", "RSS"], rows), crowds]
    found.verdicts.append(judge("P9.worker", idle_mb))
    found.verdicts.append(judge("P9.connection", found.figures.get("connection.bytes")))
    return found


def _measure_others(scene: Scene, found: Findings, names: Sequence[str]) -> list[list[str]]:
    """Measure each other subject after one message; return their rows."""
    rows = []
    for name in names:
        if name == GATEWAY:
            continue
        with scene.serve(name, SINGLE) as server:
            idle_mb = found.set(f"{name}.idle_rss_mb", _measure_kb(server) / 1024)
            rows.append([f"{SUBJECTS[name].label}, one message stored", f"{idle_mb:.1f} MB"])
    return rows


def _measure_kb(server: Running) -> int:
    server.child.check_alive()
    return measure_memory(server.child.pid).rss_kb


def _add(found: Findings, table: Table, what: str, count: int, *, before: int, after: int) -> None:
    each = found.set(f"{what}.bytes", (after - before) * 1024 / count)
    found.set(f"{what}.count", count)
    cells = [f"{before / 1024:.1f} MB", f"{after / 1024:.1f} MB", f"{each:,.0f}"]
    table.rows.append([what, f"{count:,}", *cells])


def _measure_connections(
    scene: Scene, server: Running, found: Findings, table: Table, connections: int
) -> None:
    """Measure idle connections, after a load that gave the worker its working memory."""
    request = SINGLE.build_request(server.token)
    path = scene.write("memory", [request])
    scene.say("warming up")
    scene.load_well(server, path, Pace(connections, scene.load_core, 1.0), SINGLE)
    count = bound_connections(CONNECTIONS)
    if count < CONNECTIONS:
        found.notes.append(f"only {count} connections: the system allows no more open files")
    before = _measure_kb(server)
    scene.say(f"opening {count:,} connections")
    with hold_connections(server, request, count):
        _add(found, table, "connection", count, before=before, after=_measure_kb(server))


def _measure_tokens(scene: Scene, server: Running, found: Findings, table: Table) -> None:
    scene.say(f"signing {TOKENS:,} tokens")
    tokens = mint_tokens(server.token, scene.bench.secret, TOKENS)
    path = scene.write("tokens", build_token_requests(tokens))
    before = _measure_kb(server)
    scene.say(f"sending {TOKENS:,} tokens")
    pace = Pace(16, scene.load_core, CROWD_S_MAX, warm_up_s=0, count=TOKENS)
    done = scene.load_well(server, path, pace, SINGLE)
    if done.paced.answers != TOKENS:
        found.notes.append(f"only {done.paced.answers} tokens were seen in time")
        return
    found.set("token.first_cpu_us", done.cpu_us)
    _add(found, table, "token", TOKENS, before=before, after=_measure_kb(server))


def _measure_stations(scene: Scene, found: Findings, table: Table) -> None:
    """Measure a fresh gateway without and one with the stations: their making is not counted."""
    with scene.serve(GATEWAY, EVERYWHERE) as server:
        before = _measure_kb(server)
        scene.say(f"making {STATIONS:,} stations")
        add_stations(scene, server, STATIONS)
    with scene.serve(GATEWAY, EVERYWHERE) as server:
        _add(found, table, "station", STATIONS, before=before, after=_measure_kb(server))
