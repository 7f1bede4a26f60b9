"""Real gateways behind TLS, client certificates, unix sockets and proxies; reload under load."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import re
import signal
import socket
import subprocess
import termios
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.certificates import Authority, Issued, serial_of
from tests.integration.test_gateway_restart import _paste, _plain, check_one_line
from tests.integration.test_gateway_workers import children
from tests.wire.gateway import ADMIN, Gateway, clean_env, fastgw, run_fastgw, wait_until
from tests.wire.raw_http import build

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

BODY = b'{"n":1}'
TARGET = "/stations/door/produce/single"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Issued:
    return authority.issue("server", "localhost", is_server=True)


def write_config(folder: Path, authority: Authority, server: Issued) -> Path:
    """Write a configuration with a listener of each kind beside the main one."""
    folder.mkdir(parents=True, exist_ok=True)
    tls = f"""
    [listeners.tls]
    cert_file = "{server.cert_file}"
    key_file = "{server.key_file}"
    """
    clients = f"""
    client_ca_file = "{authority.ca_file}"
    client_cert = "required"
    """
    path = folder / "fastgw.toml"
    path.write_text(
        f"""
    [[listeners]]
    listen = "127.0.0.1:0"
    {tls}
    [[listeners]]
    listen = "127.0.0.1:0"
    {tls}{clients}
    [[listeners]]
    listen = "unix:{folder}/door.sock"
    socket_mode = "0600"
    [[listeners]]
    listen = "127.0.0.1:0"
    proxy_from = ["127.0.0.1"]
    [[listeners]]
    listen = "127.0.0.1:0"
    proxy_from = ["127.0.0.0/8"]
    {tls}
    """
    )
    path.chmod(0o600)
    return path


TLS, MTLS, UNIX, PROXY, PROXY_TLS = range(1, 6)


def urls(gateway: Gateway) -> list[str]:
    told = json.loads((gateway.data / "gateway.json").read_bytes())
    found = told["listeners"]
    assert found[0] == told["address"]
    assert isinstance(found, list)
    return found


@contextmanager
def running(folder: Path, authority: Authority, server: Issued, *flags: str) -> Iterator[Gateway]:
    config = write_config(folder, authority, server)
    gateway = Gateway(folder / "data", ("--config", str(config), *flags)).start()
    try:
        yield gateway
    finally:
        assert gateway.stop() == 0


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, server: Issued
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("door")
    with running(folder, authority, server) as found:
        yield found
    assert not (folder / "door.sock").exists()


def curl(*arguments: str) -> tuple[int, str]:
    """Run curl with the system's own libraries. Returns its exit code and output."""
    program = which("curl")
    if program is None:
        pytest.skip("there is no curl")
    env = {name: value for name, value in clean_env().items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [program, "-sS", "--max-time", "20", "-d", BODY.decode(), *arguments],
        capture_output=True, text=True, timeout=30, env=env, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def bearer(gateway: Gateway) -> tuple[str, ...]:
    return ("-H", f"Authorization: Bearer {gateway.token()}")


# --- each kind of listener ------------------------------------------------------------------------


def test_gateway_serves_curl_on_each_kind_of_listener(
    gateway: Gateway, authority: Authority
) -> None:
    shown = authority.issue("ann", "ann")
    ca = ("--cacert", str(authority.ca_file))
    pair = ("--cert", str(shown.cert_file), "--key", str(shown.key_file))
    told = urls(gateway)
    assert [url.partition(":")[0] for url in told] == [
        "http", "https", "https", "unix", "http", "https",
    ]  # fmt: skip
    path = told[UNIX].removeprefix("unix:")
    assert os.stat(path).st_mode & 0o777 == 0o600
    for arguments in (
        (told[0] + TARGET,),
        (told[TLS] + TARGET, *ca),
        (told[TLS] + TARGET, *ca, "--tlsv1.2", "--tls-max", "1.2"),
        (told[MTLS] + TARGET, *ca, *pair),
        ("http://localhost" + TARGET, "--unix-socket", path),
        (told[PROXY] + TARGET, "--haproxy-protocol"),
        (told[PROXY_TLS] + TARGET, "--haproxy-protocol", *ca),
    ):
        code, output = curl(*arguments, *bearer(gateway))
        assert (code, output) == (0, '{"error":null,"success":true}'), arguments


def test_gateway_refuses_what_is_no_client_of_its_listener(
    gateway: Gateway, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    told = urls(gateway)
    ca = ("--cacert", str(authority.ca_file))
    foreign = stranger.issue("ann", "ann")
    pair = ("--cert", str(foreign.cert_file), "--key", str(foreign.key_file))
    for arguments in (
        (told[TLS] + TARGET,),
        (told[TLS] + TARGET, "--cacert", str(stranger.ca_file)),
        (told[TLS].replace("https", "http") + TARGET,),
        (told[TLS] + TARGET, *ca, "--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0"),
        (told[MTLS] + TARGET, *ca),
        (told[MTLS] + TARGET, *ca, *pair),
        (told[PROXY] + TARGET,),
        (told[PROXY_TLS] + TARGET, *ca),
        (told[TLS] + TARGET, "--haproxy-protocol", *ca),
    ):
        code, output = curl(*arguments, *bearer(gateway))
        assert code != 0, (arguments, output)
        assert "success" not in output


def test_client_certificate_is_a_credential_of_its_user(
    gateway: Gateway, authority: Authority
) -> None:
    told = urls(gateway)
    for name, word in ((ADMIN, '"success":true'), ("nobody", "Unauthorized")):
        shown = authority.issue(name, name)
        code, output = curl(
            told[MTLS] + TARGET,
            "--cacert", str(authority.ca_file),
            "--cert", str(shown.cert_file), "--key", str(shown.key_file),
        )  # fmt: skip
        assert code == 0
        assert word in output, output


def test_large_bodies_pass_both_ways_over_tls(gateway: Gateway, authority: Authority) -> None:
    body = os.urandom(300_000).hex().encode()
    size = 12
    request = build("/stations/large/produce/single", body, headers=gateway.auth())
    address = address_of(urls(gateway)[TLS])
    with (
        socket.create_connection(address, 20) as plain,
        authority.client().wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        # Pipelined, in one go: the answers come in their order while bodies are still read.
        sock.sendall(request * size)
        found = b""
        while found.count(b'"success":true}') < size:
            data = sock.recv(65536)
            assert data, found
            found += data
        assert found.count(b"HTTP/1.1 200 OK") == size
        # More than the socket takes in one write.
        sock.sendall(
            build(
                "/stations/large/consume/batch",
                b'{"consumer_name":"c","batch_max_wait_time_ms":3000}',
                headers=gateway.auth(),
            )
        )
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        messages = json.loads(answer.read())
        assert 1 < len(messages) <= 10
        assert all(message["message"].encode() == body for message in messages)


# --- reload ---------------------------------------------------------------------------------------


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("https://").rpartition(":")
    return host, int(port)


def shown_serial(url: str, context: ssl.SSLContext) -> int:
    with (
        socket.create_connection(address_of(url), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as sock,
    ):
        return serial_of(sock)


class Load(threading.Thread):
    """Produces on one TLS connection, or on a new one for each message, until it is told to end."""

    def __init__(self, gateway: Gateway, context: ssl.SSLContext, *, keeps: bool) -> None:
        super().__init__()
        self.stored_count = 0
        self.troubles: list[str] = []
        self.is_ending = False
        self._address = address_of(urls(gateway)[TLS])
        self._headers = gateway.auth()
        self._context = context
        self._keeps = keeps

    def run(self) -> None:
        """Produce."""
        connection = self._connect()
        try:
            while not self.is_ending:
                connection.request("POST", TARGET, BODY, self._headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self.troubles.append(f"{answer.status} {text!r}")
                    return
                self.stored_count += 1
                if not self._keeps:
                    connection.close()
                    connection = self._connect()
        except (OSError, http.client.HTTPException) as error:
            self.troubles.append(repr(error))
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(*self._address, timeout=10, context=self._context)
        connection.connect()
        return connection


@pytest.mark.parametrize("workers", [1, 2])
def test_reload_under_load_drops_no_connection(
    tmp_path: Path, authority: Authority, workers: int
) -> None:
    server = authority.issue(f"server{workers}", "localhost", is_server=True)
    context = authority.client()
    with running(tmp_path / "door", authority, server, "--workers", str(workers)) as gateway:
        url = urls(gateway)[TLS]
        pid = json.loads((gateway.data / "gateway.json").read_bytes())["pid"]
        loads = [Load(gateway, context, keeps=number < 2) for number in range(3)]
        for load in loads:
            load.start()
        try:
            for _ in range(5):
                renewed = authority.issue(f"server{workers}", "localhost", is_server=True)
                before = [load.stored_count for load in loads]
                os.kill(pid, signal.SIGHUP)
                # As many new connections in a row as make it likely that each worker was asked.
                wait_until(
                    lambda serial=renewed.serial: all(
                        shown_serial(url, context) == serial for _ in range(4 * workers)
                    )
                )
                wait_until(
                    lambda before=before: all(
                        load.troubles or load.stored_count > count + 5
                        for load, count in zip(loads, before, strict=True)
                    )
                )
            server.cert_file.write_text("broken")
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda: gateway.log_text().count("the old certificate stays") >= workers)
            assert shown_serial(url, context) == renewed.serial
        finally:
            for load in loads:
                load.is_ending = True
            for load in loads:
                load.join(20)
        assert [load.troubles for load in loads] == [[], [], []]
        assert len(gateway.stored("door")) == sum(load.stored_count for load in loads)
        authority.issue(f"server{workers}", "localhost", is_server=True)


def test_worker_started_later_has_the_files_of_now(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue("server3", "localhost", is_server=True)
    context = authority.client()
    with running(tmp_path / "door", authority, server, "--workers", "2") as gateway:
        assert gateway.process is not None
        pid = gateway.process.pid
        first = wait_until(lambda: children(pid))
        renewed = authority.issue("server3", "localhost", is_server=True)
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        wait_until(lambda: len(set(children(pid)) - set(first)) == 2, 20, "new workers")
        wait_until(gateway.is_ready)
        assert shown_serial(urls(gateway)[TLS], context) == renewed.serial
        path = urls(gateway)[UNIX].removeprefix("unix:")
        code, output = curl("http://localhost" + TARGET, "--unix-socket", path, *bearer(gateway))
        assert (code, output) == (0, '{"error":null,"success":true}')


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stop_answers_what_is_in_flight_over_tls_and_closes_the_socket_file(
    tmp_path: Path, authority: Authority, server: Issued, workers: str
) -> None:
    folder = tmp_path / "door"
    body = b'{"consumer_name":"c","batch_max_wait_time_ms":3000}'
    with running(folder, authority, server, "--workers", workers) as gateway:
        gateway.produce("drain", b"x")
        assert len(gateway.consume("drain")) == 1
        address = address_of(urls(gateway)[TLS])
        context = authority.client()
        waiting = http.client.HTTPSConnection(*address, timeout=10, context=context)
        idle = http.client.HTTPSConnection(*address, timeout=10, context=context)
        idle.request("GET", "/healthz")
        assert idle.getresponse().read()
        waiting.request("POST", "/stations/drain/consume/batch", body, gateway.auth())
        # An answer on another connection shows that the request before it was read.
        idle.request("GET", "/healthz")
        assert idle.getresponse().read()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not (folder / "door.sock").exists(), 10, "the end of the file")
        assert gateway.process.poll() is None
        answer = waiting.getresponse()
        assert answer.status in (200, 503)
        assert answer.headers["Connection"] == "close"
        answer.read()
        for connection in (waiting, idle):
            assert connection.sock is None or connection.sock.recv(1) == b""
            connection.close()


# --- the start ------------------------------------------------------------------------------------


def serve_main(
    folder: Path, flags: tuple[str, ...], env: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Path]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            fastgw("serve", "--data", str(folder / "data"), *flags),
            env=clean_env(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return process, log


@pytest.mark.parametrize("kind", ["tls", "unix"])
def test_first_start_behind_tls_or_a_socket_shows_lines_that_work(
    tmp_path: Path, authority: Authority, server: Issued, kind: str
) -> None:
    if which("curl") is None:
        pytest.skip("there is no curl")
    env: dict[str, Any] = {}
    listen = f"unix:{tmp_path}/a door.sock"
    if kind == "tls":
        listen = "127.0.0.1:0"
        env = {
            "FASTGW_TLS_CERT_FILE": str(server.cert_file),
            "FASTGW_TLS_KEY_FILE": str(server.key_file),
        }
    process, log = serve_main(tmp_path / "one", ("--listen", listen), env)
    try:
        wait_until(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), 30)
        text = log.read_text()
        assert process.poll() is None, text
        told = json.loads((tmp_path / "one" / "data" / "gateway.json").read_bytes())
        if kind == "tls":
            assert re.search(r"ready at https://127\.0\.0\.1:\d+ ", text), text
            assert f"--cacert {server.cert_file}" in text
            assert told["address"].startswith("https://127.0.0.1:")
        else:
            assert told["address"] == listen
            assert f"--unix-socket '{tmp_path}/a door.sock'" in _plain(text)
        _paste(text, tmp_path)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


def test_start_with_a_listener_that_cannot_be_is_one_line(
    tmp_path: Path, authority: Authority, server: Issued
) -> None:
    other = authority.issue("other", "other", is_server=True)
    path = tmp_path / "file"
    path.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = (
            (f'listen = "127.0.0.1:{port}"', str(port)),
            (f'listen = "unix:{path}"', "no socket"),
            (
                f'listen = "127.0.0.1:0"\ntls.cert_file = "{server.cert_file}"\n'
                f'tls.key_file = "{other.key_file}"',
                "key values mismatch",
            ),
        )
        for number, (text, word) in enumerate(cases):
            config = tmp_path / f"{number}.toml"
            config.write_text(f'listen = "127.0.0.1:0"\n[[listeners]]\n{text}\n')
            data = tmp_path / f"data{number}"
            done = run_fastgw("serve", "--config", str(config), "--data", str(data))
            check_one_line(done, 1, "cannot listen on", word)
            assert not (data / "broker.json").exists()


def test_start_with_a_loose_key_warns(tmp_path: Path, authority: Authority) -> None:
    server = authority.issue("loose", "localhost", is_server=True)
    server.key_file.chmod(0o644)
    with running(tmp_path / "door", authority, server) as gateway:
        lines = [line for line in gateway.log_text().splitlines() if "private key" in line]
        assert len(lines) == 1
        assert f"chmod 600 {server.key_file}" in lines[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_closed_terminal_ends_the_gateway(tmp_path: Path, workers: str) -> None:
    """The signal that reloads is also the one that a closed window sends."""
    ours, its = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    data = tmp_path / "data"
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        process = subprocess.Popen(
            fastgw("serve", "--listen", "127.0.0.1:0", "--data", str(data), "--workers", workers),
            env=clean_env(), stdin=its, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=take_terminal,  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        os.close(its)
        try:
            wait_until((data / "gateway.json").exists, 30)
            os.kill(process.pid, signal.SIGHUP)
            address = json.loads((data / "gateway.json").read_bytes())["address"]
            wait_until(lambda: curl(f"{address}/healthz", "-G")[0] == 0, 10)
            assert process.poll() is None
            os.close(ours)
            assert process.wait(20) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
