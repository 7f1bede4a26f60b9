"""`python -m tests.conformance`: our corpus and the public suites, on fastgw and peers.

What enters: `--suite NAME=DIR`, `--peer NAME`. What leaves: a table, the names of what
failed, and exit code 1 when fastgw failed a case that is no documented difference.
gunicorn's cases come from its source package and Deno from PyPI, by pip into a folder that is
removed; llhttp's and both h1spec suites are in no package, so they need a checkout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.conformance import checkouts, h1spec, house, parsers, play_parsers
from tests.conformance.score import Score, show
from tests.conformance.servers import PEERS, MissingServerError, Server, core_echo, gateway

SUITES: Final = ("gunicorn", "llhttp", "dropseed", "unetworking")
NAMES_MAX: Final = 40


def main(argv: list[str]) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help=f"a checkout of {', '.join(SUITES)}",
    )
    parser.add_argument("--peer", action="append", default=[], choices=sorted(PEERS))
    parser.add_argument("--names", type=int, default=NAMES_MAX, help="names printed of each list")
    asked = parser.parse_args(argv)
    named: dict[str, Path] = {}
    for text in asked.suite:
        name, _, folder = text.partition("=")
        if name not in SUITES or not Path(folder).is_dir():
            parser.error(f"--suite {text}: NAME is one of {', '.join(SUITES)}, DIR a folder")
        named[name] = Path(folder).resolve()
    with tempfile.TemporaryDirectory(prefix="fastgw-conformance-") as folder:
        scores = list(run(named, asked.peer, Path(folder)))
    print(show(scores, names_max=asked.names))
    return 1 if any(score.failed for score in scores if score.server.startswith("fastgw")) else 0


def run(named: dict[str, Path], peers: list[str], scratch: Path) -> Iterator[Score]:
    """Run every suite on ours, then on the peers."""
    yield house.run_in_core()
    with gateway(scratch) as (server, running):
        yield house.run_on_gateway(server, running, "whole")
        yield house.run_on_gateway(server, running, "bytes")
        if "dropseed" in named:
            yield h1spec.run_dropseed(server, named["dropseed"])
    suites = Suites(named, scratch)
    with core_echo(scratch) as server:
        yield from suites.run(server)
    for name in peers:
        folder = scratch / name
        folder.mkdir()
        try:
            with PEERS[name](folder) as server:
                yield house.run_on_peer(server)
                if "dropseed" in named:
                    yield h1spec.run_dropseed(server, named["dropseed"])
                yield from suites.run(server)
        except MissingServerError as error:
            yield Score("all", name, skipped=[(name, str(error))])
    if suites.missing:
        yield Score("suites", "not run", skipped=suites.missing)


class Suites:
    """The suites that an echo is needed for, found once.

    Args:
        named: checkouts by name.
        scratch: a folder for what a package client installs.
    """

    def __init__(self, named: dict[str, Path], scratch: Path) -> None:
        self._scratch = scratch
        self._named = named
        self._gunicorn = checkouts.find_gunicorn(named.get("gunicorn"), scratch)
        self._deno = checkouts.find_deno(scratch) if "unetworking" in named else None
        self.missing: list[tuple[str, str]] = []
        if self._gunicorn is None:
            self.missing.append(("gunicorn", "no source package from pip; --suite gunicorn=DIR"))
        for name in ("llhttp", "dropseed", "unetworking"):
            if name not in named:
                self.missing.append((name, f"no checkout; --suite {name}=DIR"))
        if "unetworking" in named and self._deno is None:
            self.missing.append(("unetworking", "pip finds no Deno for this platform"))

    def run(self, server: Server) -> Iterator[Score]:
        """Run what there is on one server."""
        if self._gunicorn is not None:
            cases = parsers.read_gunicorn(self._gunicorn)
            yield play_parsers.run("requests of gunicorn", server, cases)
        if "llhttp" in self._named:
            cases = parsers.read_llhttp(self._named["llhttp"])
            yield play_parsers.run("requests of llhttp", server, cases)
        if self._deno is not None:
            checkout = self._named["unetworking"]
            yield h1spec.run_unetworking(server, checkout, self._deno, self._scratch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
