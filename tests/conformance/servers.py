"""The servers that the suites run against, each a process of its own on a loopback port.

What enters: a name and a scratch folder. What leaves: a `Server` that listens, or why it cannot.
Called by `__main__`. Each process is ended by its own id; nothing is written outside the folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Final

import fastgw
from tests.corpus import TARGET
from tests.wire.gateway import ROOT, Gateway, clean_env, free_port, wait_until
from tests.wire.raw_http import Wire

NGINX_CONF: Final = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    lingering_timeout 1s;
    client_body_buffer_size 2m;
    proxy_ignore_client_abort on;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{behind}; }}
    }}
    server {{
        listen 127.0.0.1:{behind};
        location / {{ return 200 "ok"; }}
    }}
}}
"""


class MissingServerError(Exception):
    """A server that is not there; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens.

    Args:
        name: its name and version.
        address: host and port.
        is_ours: whether it is held to fastgw's own choices.
        echoes: whether it shows what it read.
    """

    name: str
    address: tuple[str, int]
    is_ours: bool
    echoes: bool


@contextmanager
def gateway(scratch: Path) -> Iterator[tuple[Server, Gateway]]:
    """A real gateway with its embedded broker, that asks for no credential."""
    running = Gateway(scratch / "data", env={"FASTGW_AUTH_MODE": "none"})
    try:
        running.start()
        assert running.ask(TARGET.decode(), b"first").status == 200
        name = f"fastgw {fastgw.__version__}"
        yield Server(name, running.address, is_ours=True, echoes=False), running
    finally:
        running.stop()


@contextmanager
def core_echo(scratch: Path) -> Iterator[Server]:
    """The compiled core with an echo behind it."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.conformance.echo", str(port)]
    with _process(argv, scratch / "echo.log", port):
        name = f"fastgw {fastgw.__version__}"
        yield Server(name, ("127.0.0.1", port), is_ours=True, echoes=True)


@contextmanager
def uvicorn(scratch: Path) -> Iterator[Server]:
    """Uvicorn with httptools and uvloop, as installed beside us."""
    if find_spec("uvicorn") is None:
        raise MissingServerError("no uvicorn here; pip install uvicorn httptools uvloop")
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "tests.conformance.asgi_echo:app", "--host"]
    argv += ["127.0.0.1", "--port", str(port), "--http", "httptools", "--loop", "uvloop"]
    argv += ["--log-level", "critical", "--lifespan", "off"]
    with _process(argv, scratch / "uvicorn.log", port):
        name = f"uvicorn {version('uvicorn')}"
        yield Server(name, ("127.0.0.1", port), is_ours=False, echoes=True)


@contextmanager
def nginx(scratch: Path) -> Iterator[Server]:
    """Nginx as a proxy, so that it reads bodies, before itself that answers 200; it shows none."""
    path = which("nginx") or which("nginx", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise MissingServerError("no nginx on the PATH")
    port = free_port()
    config = scratch / "nginx.conf"
    config.write_text(NGINX_CONF.format(folder=scratch, port=port, behind=free_port()))
    told = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"nginx/([\d.]+)", told.stderr)
    with _process([path, "-p", str(scratch), "-c", str(config)], scratch / "nginx.log", port):
        name = f"nginx {found[1] if found else ''}"
        yield Server(name, ("127.0.0.1", port), is_ours=False, echoes=False)


PEERS: Final = {"uvicorn": uvicorn, "nginx": nginx}


@contextmanager
def _process(argv: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=clean_env(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or _is_listening(port), what=argv[0])
        if process.poll() is not None:
            raise MissingServerError(f"{argv[0]} ended at once: {log.read_text()[-400:]}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_listening(port: int) -> bool:
    with suppress(OSError):
        Wire(("127.0.0.1", port)).close()
        return True
    return False
