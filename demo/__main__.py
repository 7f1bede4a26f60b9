"""`python -m demo`: real GitHub webhooks in, stored, read back, compared byte for byte.

What enters: GitHub's webhook examples (fetched with npm, or `--examples FOLDER`).
What leaves: a table of counts and rates, and exit code 0 when every byte came back, else 1.
Without npm or a registry it says so and exits 0: there is nothing to show then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.examples import PACKAGE, Example, Missing, fetch, read
from demo.gateway import ASK_S_MAX, Failed, open_session, running

if TYPE_CHECKING:
    from collections.abc import Callable

CURL_SAMPLES_COUNT: Final = 25
"""LIMIT: each curl is a process of its own; a sample shows that its requests are served."""

BATCH_COUNT: Final = 100
READ_COUNT: Final = 100
STORED: Final = b'{"error":null,"success":true}'


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: how messages went in, how many came back the same, and how fast."""

    way: str
    sent: int
    bytes_count: int
    send_s: float
    same: int
    read_s: float


class Demo:
    """The ways in and the way back.

    Args:
        url: the gateway.
        token: credential of every request.
        folder: where curl finds the bodies.
    """

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self._url = url
        self._token = token
        self._folder = folder
        self._session = open_session(token)

    def send_curl(self, examples: list[Example], advance: Callable[[int], None]) -> None:
        """Run one curl for each message, the body from a file."""
        url = f"{self._url}/stations/github.curl/produce/single"
        path = self._folder / "body.json"
        for example in examples:
            path.write_bytes(example.body)
            headers = (
                f"Authorization: Bearer {self._token}",
                "Content-Type: application/json",
                f"X-GitHub-Event: {example.event}",
            )
            command = ["curl", "--silent", "--show-error", "--noproxy", "*"]
            for header in headers:
                command += ["-H", header]
            command += ["--data-binary", f"@{path}", url]
            done = subprocess.run(command, capture_output=True, timeout=ASK_S_MAX, check=False)
            if done.stdout != STORED:
                raise Failed(f"curl got {done.stdout[:200]!r} {done.stderr[:200]!r}")
            advance(1)

    def send_single(self, examples: list[Example], advance: Callable[[int], None]) -> None:
        """Send one request for each message, with the headers that GitHub sends."""
        for number, example in enumerate(examples):
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "GitHub-Hookshot/044aadd",
                "X-GitHub-Event": example.event,
                "X-GitHub-Delivery": f"demo-{number}",
            }
            self._post("github.single/produce/single", example.body, headers)
            advance(1)

    def send_array(self, examples: list[Example], advance: Callable[[int], None]) -> None:
        """Send a JSON array of messages in each request."""
        for part in _parts(examples):
            body = b"[" + b",".join(example.body for example in part) + b"]"
            headers = {"Content-Type": "application/json"}
            self._post("github.array/produce/batch", body, headers)
            advance(len(part))

    def send_lines(self, examples: list[Example], advance: Callable[[int], None]) -> None:
        """Send one message a line."""
        for part in _parts(examples):
            body = b"".join(example.body + b"\n" for example in part)
            headers = {"Content-Type": "application/x-ndjson"}
            self._post("github.lines/produce/batch", body, headers)
            advance(len(part))

    def _post(self, target: str, body: bytes, headers: dict[str, str]) -> bytes:
        url = f"{self._url}/stations/{target}"
        response = self._session.post(url, data=body, headers=headers, timeout=ASK_S_MAX)
        if response.status_code != 200:
            raise Failed(f"{target} answered {response.status_code}: {response.text[:200]}")
        if "/produce/" in target and response.content != STORED:
            raise Failed(f"{target} answered {response.text[:200]}")
        return response.content

    def read_back(
        self, station: str, expected: list[Example], advance: Callable[[int], None]
    ) -> int:
        """Consume everything of a station; return how many messages are the same, in order."""
        same = count = 0
        while count < len(expected):
            wish = {"consumer_name": "demo", "batch_size": READ_COUNT}
            body = json.dumps(wish | {"batch_max_wait_time_ms": 2000}).encode()
            answer = self._post(f"{station}/consume/batch", body, {})
            messages = json.loads(answer)
            if not messages:
                break
            for message, example in zip(messages, expected[count:], strict=False):
                event = message["headers"].get("X-GitHub-Event", example.event)
                same += message["message"].encode() == example.body and event == example.event
            count += len(messages)
            advance(len(messages))
        return same if count == len(expected) else min(same, len(expected) - 1)


def _parts(examples: list[Example]) -> list[list[Example]]:
    return [examples[at : at + BATCH_COUNT] for at in range(0, len(examples), BATCH_COUNT)]


def run(demo: Demo, examples: list[Example], progress: Progress) -> list[Row]:
    """Send the examples in every way, and read each way back."""
    sample = examples[:: max(1, len(examples) // CURL_SAMPLES_COUNT)][:CURL_SAMPLES_COUNT]
    ways = [
        ("requests, one by one", "github.single", demo.send_single, examples),
        (f"arrays of {BATCH_COUNT}", "github.array", demo.send_array, examples),
        (f"{BATCH_COUNT} lines each", "github.lines", demo.send_lines, examples),
    ]
    if which("curl") is not None:
        ways.insert(0, ("curl, one by one", "github.curl", demo.send_curl, sample))
    rows = []
    for way, station, send, part in ways:
        advance = partial(progress.advance, progress.add_task(way, total=2 * len(part)))
        start = time.monotonic()
        send(part, advance)
        sent = time.monotonic()
        same = demo.read_back(station, part, advance)
        size = sum(len(example.body) for example in part)
        rows.append(Row(way, len(part), size, sent - start, same, time.monotonic() - sent))
    return rows


def show(rows: list[Row], console: Console) -> bool:
    """Print the table; return whether everything came back the same."""
    table = Table(title="GitHub webhooks through fastgw and back")
    for name in ("way in", "messages", "MB", "stored/s", "read back/s", "same bytes"):
        table.add_column(name, justify="left" if name == "way in" else "right")
    for row in rows:
        table.add_row(
            row.way,
            str(row.sent),
            f"{row.bytes_count / 1e6:.1f}",
            f"{row.sent / row.send_s:,.0f}",
            f"{row.sent / row.read_s:,.0f}",
            f"{row.same} of {row.sent}",
        )
    console.print(table)
    return all(row.same == row.sent for row in rows)


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--examples", type=Path, help=f"unpacked {PACKAGE}, instead of npm")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fastgw-demo-") as name:
        folder = Path(name)
        try:
            with console.status(f"fetching {PACKAGE} with npm"):
                examples = read(arguments.examples or fetch(folder))
        except Missing as missing:
            console.print(f"SKIPPED: {missing}", highlight=False)
            return 0
        console.print(f"{len(examples)} payloads of {PACKAGE}", highlight=False)
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        try:
            with running(folder) as (url, token), Progress(*columns, console=console) as progress:
                rows = run(Demo(url, token, folder), examples, progress)
        except Failed as failed:
            console.print(f"FAILED: {failed}", highlight=False, markup=False)
            return 1
    if show(rows, console):
        console.print("Every byte came back.")
        return 0
    console.print("FAILED: what came back is not what was sent.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
