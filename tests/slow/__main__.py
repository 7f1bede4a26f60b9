"""`python -m tests.slow`: starts a gateway with its embedded broker, and puts up with slow clients.

What enters: how many clients of each kind, for how long. What leaves: a table on standard output,
and JSON with `--json`: for each kind how many were dropped and after how many seconds, for good
clients p50 and p99 without and with the slow ones beside them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.integration.certificates import Authority
from tests.slow.good import measure
from tests.slow.kinds import Crowd, Kind, SlowClient, kinds
from tests.wire.gateway import Gateway, free_port

CLIENTS_MAX: Final = 2000
SECONDS_MAX: Final = 600
ALONE_S_MAX: Final = 10


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.slow", description=__doc__)
    parser.add_argument("--seconds", type=int, default=30, help=f"at most {SECONDS_MAX}")
    parser.add_argument("--clients", type=int, default=10, help=f"a kind, at most {CLIENTS_MAX}")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if not 1 <= asked.seconds <= SECONDS_MAX or not 1 <= asked.clients <= CLIENTS_MAX:
        parser.error("out of range")
    return asked


def start_gateway(folder: Path) -> tuple[Gateway, int]:
    """Start a gateway with a second listener that speaks TLS; return it and that port."""
    port = free_port()
    issued = Authority(folder / "ca").issue("gateway", "localhost", is_server=True)
    settings = folder / "fastgw.toml"
    settings.write_text(
        f'[[listeners]]\nlisten = "127.0.0.1:{port}"\n'
        f'tls = {{ cert_file = "{issued.cert_file}", key_file = "{issued.key_file}" }}\n'
    )
    gateway = Gateway(folder / "data", flags=("--config", str(settings)))
    return gateway.start(), port


def row(kind: Kind, clients: list[SlowClient], seconds: int) -> dict[str, Any]:
    """What became of the clients of one kind."""
    ends = sorted(client.ended_s for client in clients if client.ended_s is not None)
    statuses = sorted(
        {
            int(status)
            for client in clients
            for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", client.answer)
        }
    )
    return {
        "kind": kind.name,
        "clients": len(clients),
        "dropped": len(ends),
        "first_s": round(ends[0], 1) if ends else None,
        "last_s": round(ends[-1], 1) if ends else None,
        "watched_s": seconds,
        "statuses": statuses,
    }


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure good clients alone, then beside the slow ones."""
    gateway, tls_port = start_gateway(folder)
    spawn = multiprocessing.get_context("spawn")
    try:
        token = gateway.token()
        for station in ("good", "slow"):
            gateway.produce(station, b"first")
        clients = [
            SlowClient(kind, ("127.0.0.1", tls_port) if kind.uses_tls_port else gateway.address)
            for kind in kinds(token)
            if asked.only in kind.name
            for _ in range(asked.clients)
        ]
        with spawn.Pool(1) as pool:
            alone_s = min(asked.seconds, ALONE_S_MAX)
            alone = pool.apply(measure, (gateway.address, token, alone_s))
            beside = pool.apply_async(measure, (gateway.address, token, asked.seconds))
            Crowd(clients).run(asked.seconds)
            with_slow = beside.get(SECONDS_MAX)
        after = pool_free_measure(gateway, token)
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log_text()
    rows = [
        row(kind, [client for client in clients if client.kind is kind], asked.seconds)
        for kind in dict.fromkeys(client.kind for client in clients)
    ]
    return {"slow": rows, "good_alone": alone, "good_beside": with_slow, "status_after": after}


def pool_free_measure(gateway: Gateway, token: str) -> int:
    """One more request at the end: the gateway still serves."""
    return gateway.ask(
        "/stations/good/produce/single", b"last", headers={"Authorization": f"Bearer {token}"}
    ).status


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{'kind':<28}{'clients':>8}{'dropped':>9}{'first s':>9}{'last s':>8}  statuses")
    for one in found["slow"]:
        first, last = (
            f"{value:.1f}" if value is not None else f">{one['watched_s']}"
            for value in (one["first_s"], one["last_s"])
        )
        statuses = " ".join(map(str, one["statuses"])) or "-"
        print(
            f"{one['kind']:<28}{one['clients']:>8}{one['dropped']:>9}"
            f"{first:>9}{last:>8}  {statuses}"
        )
    for name in ("good_alone", "good_beside"):
        one = found[name]
        print(
            f"{name.replace('_', ' '):<28}{one['count']:>8} requests, {one['faults']} faults, "
            f"p50 {one['p50_ms']} ms, p99 {one['p99_ms']} ms"
        )


def main() -> int:
    """Run, print, and write."""
    asked = parse_arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        found = run(asked, Path(folder))
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
