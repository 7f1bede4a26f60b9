"""What one worker loads before its first request: each library that it need not have costs all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
IMPORT_S_MAX: Final = 60.0


def run_python(code: str, *folders: Path) -> list[str]:
    """Run `code` in an interpreter of its own and return the words that it printed."""
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=IMPORT_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def aiohttp(tmp_path: Path) -> Path:
    """Make a folder whose aiohttp tells that it was loaded, whether or not there is a real one."""
    (tmp_path / "aiohttp.py").write_text("print('aiohttp')")
    (tmp_path / "multidict.py").write_text("print('multidict')")
    return tmp_path


def test_imports_an_installed_aiohttp_is_not_loaded_for_the_broker(aiohttp: Path) -> None:
    assert run_python("import fastgw.server", aiohttp) == []


def test_imports_aiohttp_is_there_for_whoever_asks_for_it_later(aiohttp: Path) -> None:
    assert run_python("import fastgw.server, aiohttp", aiohttp) == ["aiohttp"]


def test_imports_aiohttp_that_was_there_before_stays(aiohttp: Path) -> None:
    code = "import aiohttp as one, fastgw.server, aiohttp as two; print(one is two)"
    assert run_python(code, aiohttp) == ["aiohttp", "multidict", "True"]


UNNEEDED: Final = {
    "rich": "tables of other commands",
    "cryptography": "tokens of outside issuers, and what is signed with Ed25519",
    "jwt": "tokens of outside issuers",
    "fastgw.control.jwks": "tokens of outside issuers",
    "nkeys": "brokers that ask for a signature",
    "fastgw.handlers.openapi": "readers of the contract",
    "fastgw.nats.embedded": "a broker of our own",
    "fastgw.schema.graphql_pool": "GraphQL",
    "fastgw.supervisor": "several workers",
    "fastgw.cli.bench": "other commands",
    "fastgw.cli.station": "other commands",
}


def test_imports_a_worker_loads_nothing_that_it_may_never_need() -> None:
    loaded = run_python("import sys, fastgw.cli.serve, fastgw.server; print(*sys.modules)")
    assert {name: UNNEEDED[name] for name in UNNEEDED.keys() & loaded} == {}


def test_imports_are_left_out_of_the_collections_to_come() -> None:
    code = (
        "import gc, fastgw.cli, fastgw.server as server\n"
        "server.serve = lambda *_: print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
        "fastgw.cli.run(['serve'])"
    )
    assert run_python(code) == ["True", "True"]
