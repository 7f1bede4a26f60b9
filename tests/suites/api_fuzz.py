"""Requests made from our own contract, right and wrong ones, against a running gateway.

What enters: a number of examples, and a seed to repeat a run. What leaves: what schemathesis finds
where an answer is a 5xx, has a status or body that the document does not tell, or comes without a
credential; exit code 1 then. `python -m tests.suites.api_fuzz [--examples N] [--seed N]`.
A gateway with an embedded broker of its own is started and ended; nothing else is asked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import requests

from tests.wire.gateway import ROOT, Gateway

EXAMPLES_COUNT: Final = 12
RUN_S_MAX: Final = 900
"""LIMIT: the whole run; it takes two to three minutes on two cores."""

PHASES: Final = "examples,coverage,fuzzing,stateful"
SETTINGS: Final = {"FASTGW_LIMITS_CONSUME_WAIT_MS_MAX": "100"}
"""WHY: whoever asks for messages that do not come would wait half a minute each time."""

CONFIG: Final = """\
headers = {{ Authorization = "Bearer ${{FASTGW_TEST_TOKEN}}" }}
hooks = "tests.suites.api_fuzz_hooks"
suppress-health-check = ["all"]
request-timeout = 20.0

[generation]
max-examples = {examples}
database = "none"
# WHY: a credential that was made up would stand before the right one.
with-security-parameters = false

[checks]
# WHY off: what a name stands for decides (a schema that is not there, a stream that is), and the
# statuses of that are in the document.
positive_data_acceptance.enabled = false
"""


def prepare(gateway: Gateway) -> None:
    """Make what the document's examples name, so that not every path ends with 404."""
    for path, body in (
        ("/schemas/orders", {"type": "json", "text": '{"type": "object"}'}),
        ("/stations/orders", {"header_allow": ["Nats-Expected-Last-Sequence"]}),
    ):
        url = f"{gateway.url}{path}"
        requests.put(url, json=body, headers=gateway.auth(), timeout=20).raise_for_status()


def run(url: str, token: str, folder: Path, options: argparse.Namespace) -> int:
    """Run schemathesis against a gateway; return its exit code."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(examples=options.examples))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{url}/openapi.json", "--no-color", f"--phases={PHASES}"]
    command += ["--seed", str(options.seed)] if options.seed is not None else []
    command += options.more
    env = os.environ | {"FASTGW_TEST_TOKEN": token, "NO_PROXY": "*", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, check=False, timeout=RUN_S_MAX)
    return done.returncode


def main() -> int:
    """Start a gateway, and send it what the contract suggests."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites.api_fuzz")
    parser.add_argument("--examples", type=int, default=EXAMPLES_COUNT, help="of each operation")
    parser.add_argument("--seed", type=int, help="repeats a run")
    parser.add_argument("more", nargs="*", help="arguments of schemathesis, behind --")
    options = parser.parse_args()
    if find_spec("schemathesis") is None:
        print("skipped: schemathesis is not installed; the extra `suites` has it")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        gateway = Gateway(folder / "data", env=SETTINGS).start()
        try:
            prepare(gateway)
            code = run(gateway.url, gateway.token(), folder, options)
        finally:
            ended = gateway.stop()
        log = gateway.log_text()
        if ended != 0 or "Traceback" in log:
            print(f"the gateway ended with {ended}:\n{log[-4000:]}")
            return 1
        return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
