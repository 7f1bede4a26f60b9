"""A gateway for the demo: a real `fastgw serve` with its embedded broker in a folder of its own.

What enters: a folder. What leaves: the address and a session that is authorized.
Called by `demo.__main__`; whatever happens there, the process is ended and waited for.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S_MAX: Final = 60.0
STOP_S_MAX: Final = 20.0
ASK_S_MAX: Final = 30.0
SERVE: Final = ("serve", "--listen", "127.0.0.1:0")
ADMIN: Final = "demo"


class Failed(Exception):
    """The gateway did not do its part; the text says which."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, str]]:
    """Run a gateway; gives its URL and a token."""
    password = secrets.token_urlsafe(18)
    data = folder / "data"
    log = folder / "gateway.log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("FASTGW_")}
    env |= {"FASTGW_ADMIN_USER": ADMIN, "FASTGW_ADMIN_PASSWORD": password}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", *SERVE, "--data", str(data)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            url = _wait_for_address(process, data / "gateway.json", log)
            yield url, _authenticate(url, password)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], announced: Path, log: Path) -> str:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"the gateway ended at once:\n{log.read_text('utf-8', 'replace')}")
        try:
            return str(json.loads(announced.read_bytes())["address"])
        except (FileNotFoundError, ValueError):
            time.sleep(0.02)
    raise Failed(f"the gateway did not start within {START_S_MAX:g} s")


def _authenticate(url: str, password: str) -> str:
    """Take a token as any client does."""
    body = {"username": ADMIN, "password": password, "token_expiry_in_minutes": 60}
    with open_session("") as session:
        response = session.post(f"{url}/auth/authenticate", json=body, timeout=ASK_S_MAX)
    if response.status_code != 200:
        raise Failed(f"authenticate answered {response.status_code}: {response.text[:200]}")
    return str(response.json()["jwt"])


def open_session(token: str) -> requests.Session:
    """Open a session that sends the token, and that no proxy of the shell stands before."""
    session = requests.Session()
    session.trust_env = False
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    return session
