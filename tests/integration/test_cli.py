"""The command line against a real embedded broker: what it prints, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from fastgw import __version__, cli
from fastgw.cli import serve
from fastgw.cli._common import describe_failure
from fastgw.cli.station import _age, _size
from fastgw.config import Loaded
from fastgw.nats.embedded import EmbeddedBroker, running_broker

ROOT = Path(__file__).resolve().parents[2]
COMMAND_S_MAX = 60.0
NOT_OURS = ("FASTGW_", "JWT_", "REFRESH_JWT_", "HTTP_PORT", "MEMPHIS_", "ROOT_")


@dataclass
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(NOT_OURS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def run_one(*args: str) -> Result:
        capsys.readouterr()
        code = cli.run(args)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run_one


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, EmbeddedBroker]]:
    """A running embedded broker and its data folder."""
    from fastgw.config import NatsConfig

    data = str(tmp_path_factory.mktemp("cli") / "data")
    with EmbeddedBroker.start(data, NatsConfig()) as started:
        yield data, started


@pytest.fixture
def data(broker: tuple[str, EmbeddedBroker]) -> str:
    return broker[0]


def launch(*args: str, stdin: str | None = None) -> Result:
    """Run a command line as its users do, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", *args],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


# --- the frame ----------------------------------------------------------------------------------


def test_version_and_help_are_answered(run: Run) -> None:
    assert run("--version").out == f"fastgw {__version__}\n"
    for words in ([], ["user", "add"], ["station", "add"], ["serve"], ["config", "show"]):
        result = run(*words, "--help")
        assert result.code == 0
        assert result.out.startswith("Usage: fastgw")


@pytest.mark.parametrize("words", [[], ["user"], ["station"], ["schema"], ["config"]])
def test_no_command_shows_the_help_with_code_2(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.code == 2
    assert "Commands:" in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["frob"], "No such command 'frob'. See: fastgw --help"),
        (["user", "add"], "Missing argument 'NAME'. See: fastgw user add --help"),
        (["user", "add", "x", "--password", "y"], "No such option '--password'."),
        (["user", "add", "x", "--permission", "fly"], "'fly' is not one of 'produce', 'consume'"),
        (["user", "add", "x", "--generate", "--password-stdin"], "exclude each other"),
        (["station", "add", "x", "--max-age", "7"], "'7' is no amount like 7d"),
        (["station", "add", "x", "--max-age", "0d"], "'0d' is no amount like 7d"),
        (["station", "add", "x", "--max-bytes", "7XB"], "the units are KiB, MiB, GiB, TiB"),
        (["station", "add", "x", "--headers", "all", "--headers", "x"], "stand alone"),
        (["station", "rm", "x"], "say --yes, or --keep-stream"),
        (["serve", "--workers", "0"], "flag --workers: workers ="),
        (["serve", "--listen", "4444"], 'flag --listen: listen = "4444": it must be HOST:PORT'),
        (["serve", "--log-level", "loud"], "flag --log-level: log.level ="),
        (["user", "list", "--nats", "http://x"], "flag --nats: nats.url ="),
        (["config", "check", "--config", "missing.toml"], "file missing.toml: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - as in a script
    result = run(*words)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("fastgw: ")
    assert result.err.count("\n") == 1
    assert text in result.err
    sys.stdin.close()


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(click.ClickException):
        cli.run(["user", "add", "--debug", "x", "--permission", "fly"])
    with pytest.raises(Exception, match="cannot be read"):
        cli.run(["--debug", "config", "check", "--config", "missing"])


def test_describe_failure_names_a_defect_and_a_missing_file() -> None:
    text, code = describe_failure(ValueError("x" * 1000))
    assert code == 1
    assert text.startswith("ValueError: xxx")
    assert text.endswith("(--debug tells more)")
    assert len(text) < 400
    missing = FileNotFoundError(2, "No such file or directory", "there")
    assert describe_failure(missing) == ("No such file or directory: there", 1)


def test_interrupt_is_told_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "load", interrupt)
    result = run("serve")
    assert (result.code, result.err.strip()) == (130, "fastgw: interrupted")


def test_reader_that_leaves_is_told_nothing() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fastgw config show | head -n 1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=True,
    )
    assert done.stdout.startswith("KEY")
    assert done.stderr == ""


# --- config -------------------------------------------------------------------------------------


def test_config_show_tells_value_and_origin_and_masks(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        'workers = 2\n[auth]\njwt_secret = "0123456789012345678901234567890123456789"\n'
    )
    path.chmod(0o600)
    monkeypatch.setenv("FASTGW_LIMITS_PIPELINED_MAX", "7")
    options = ("--config", str(path), "--nats", "nats://u:secret-word@h,h2")
    lines = [line.split(maxsplit=2) for line in run("config", "show", *options).out.splitlines()]
    shown = {key: (value, origin) for key, value, origin in lines if value != "nats://"}
    assert shown["workers"] == ("2", f"file {path}")
    assert shown["auth.jwt_secret"] == ("********", f"file {path}")
    assert shown["limits.pipelined_max"] == ("7", "env FASTGW_LIMITS_PIPELINED_MAX")
    assert shown["nats.token"] == ("-", "default")
    assert shown["cors.origins"] == ("*", "default")
    everything = run("config", "show", "--json", *options)
    assert everything.value["nats.url"] == {
        "value": ["nats://********@h:4222", "nats://h2:4222"],
        "origin": "flag --nats",
    }
    changed = run("config", "show", "--changed", "--json", *options).value
    assert sorted(changed) == [
        "auth.jwt_secret",
        "limits.pipelined_max",
        "nats.url",
        "workers",
    ]
    assert "secret-word" not in everything.out
    assert run("config", "show", "--changed").out.startswith("KEY")


def test_config_check_counts_and_warns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("config", "check")
    assert result.code == 0
    assert result.out.startswith("The configuration is good: 0 of ")
    assert result.out.splitlines()[1] == (
        "It serves 127.0.0.1:4444 with 1 worker(s) and the embedded broker, data in fastgw-data."
    )
    monkeypatch.setenv("FASTGW_LISTEN", "[::1]:0")
    elsewhere = run("config", "check", "--nats", "nats://u:secret-word@h")
    assert elsewhere.out.endswith(
        "It serves [::1]:0 with 1 worker(s) and nats://********@h:4222.\n"
    )
    monkeypatch.setenv("JWT_SECRET", "0123456789")
    result = run("config", "check")
    assert result.code == 0
    assert result.err.startswith("fastgw: warning: env JWT_SECRET: auth.jwt_secret has 10 bytes")
    assert run("config", "show", "--changed", "--json").value["auth.jwt_secret"]["value"] == "*" * 8


# --- serve --------------------------------------------------------------------------------------


def test_serve_hands_its_flags_to_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Loaded] = []

    def take(loaded: Loaded, read: Callable[[], Loaded]) -> int:
        seen.append(loaded)
        assert read() == loaded
        return 1

    monkeypatch.setattr("fastgw.server.serve", take)
    flags = ("--listen", "[::1]:0", "--data", "d", "--nats", "h", "--workers", "auto")
    assert run("serve", *flags, "--log-level", "debug").code == 1
    (loaded,) = seen
    config = loaded.config
    assert (config.listen, config.data, config.workers) == ("[::1]:0", "d", "auto")
    assert (config.nats.url, config.log.level) == (["nats://h:4222"], "debug")


# --- users --------------------------------------------------------------------------------------


def test_user_is_added_listed_changed_and_removed(run: Run, data: str) -> None:
    at = ("--data", data)
    added = run("user", "add", "ada", "--generate", *at)
    assert added.code == 0
    first, second = added.out.splitlines()
    assert first == "Added user ada: may produce, consume on all stations."
    password = second.removeprefix("Password, shown only now: ")
    assert len(password) == 24
    listed = run("user", "list", *at)
    headings = listed.out.splitlines()[0].split()
    assert headings == ["USER", "PERMISSIONS", "STATIONS", "STATE", "SINCE"]
    assert "ada    produce, consume   *" in listed.out
    assert password not in listed.out
    changed = run("user", "passwd", "ada", "--generate", "--json", *at)
    assert changed.value["password"] != password
    assert run("user", "rm", "ada", *at).out == "Removed user ada.\n"
    assert "ada" not in [user["name"] for user in run("user", "list", "--json", *at).value]


def test_user_json_has_no_hash_and_the_password_only_when_made(data: str) -> None:
    words = ("user", "add", "script", "--password-stdin", "--json", "--data", data)
    scope = ("--permission", "admin", "--station", "a.*", "--station", "[x]*")
    added = launch(*words, *scope, stdin="from a pipe\r\n")
    assert added.code == 0, added.err
    assert sorted(added.value) == ["created_at", "disabled", "name", "permissions", "stations"]
    assert added.value["permissions"] == ["admin"]
    assert added.value["stations"] == ["a.*", "[x]*"]
    listed = launch("user", "list", "--data", data)
    assert "a.*, [x]*" in listed.out
    assert "scrypt" not in launch("user", "list", "--json", "--data", data).out
    assert launch("user", "rm", "script", "--json", "--data", data).value["removed"] is True


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["user", "rm", "nobody"], "there is no user nobody"),
        (["user", "passwd", "nobody", "--generate"], "there is no user nobody"),
        (["user", "add", "a:b", "--generate"], "the user name a:b has"),
        (["station", "info", "nowhere"], "there is no station nowhere"),
        (["station", "rm", "nowhere", "--yes"], "there is no station nowhere"),
        (["station", "add", "a b"], "the station name a b"),
    ],
)
def test_what_is_not_there_is_one_line_and_code_1(
    run: Run, data: str, words: list[str], text: str
) -> None:
    result = run(*words, "--data", data)
    assert result.code == 1
    assert result.err.startswith(f"fastgw: {text}")
    assert result.err.count("\n") == 1


def test_user_twice_is_refused(run: Run, data: str) -> None:
    assert run("user", "add", "twice", "--generate", "--data", data).code == 0
    again = run("user", "add", "twice", "--generate", "--data", data)
    assert (again.code, again.err) == (1, "fastgw: the user twice exists already\n")
    assert run("user", "rm", "twice", "--data", data).code == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", "The password is empty."),
        ("\n", "The password is empty."),
        ("x" * 1025, "The password has more than 1024 characters."),
    ],
)
def test_password_that_cannot_be_is_refused(data: str, given: str, text: str) -> None:
    result = launch("user", "add", "never", "--password-stdin", "--data", data, stdin=given)
    assert result.code == 2
    assert result.err.startswith(f"fastgw: {text}")


def test_password_without_a_terminal_asks_for_another_way(data: str) -> None:
    result = launch("user", "add", "never", "--data", data)
    assert result.code == 2
    assert "use --password-stdin or --generate" in result.err


def test_station_is_not_removed_without_a_yes(
    run: Run, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: False)
    assert run("station", "add", "asked", "--data", data).code == 0
    refused = run("station", "rm", "asked", "--data", data)
    assert (refused.code, refused.err) == (1, "fastgw: nothing was deleted\n")
    assert run("station", "rm", "asked", "--yes", "--data", data).code == 0


def read_until(descriptor: int, text: str) -> str:
    """Read a terminal until it shows `text`."""
    seen = ""
    deadline = time.monotonic() + COMMAND_S_MAX
    while text not in seen:
        left = deadline - time.monotonic()
        assert left > 0, f"{text!r} not in {seen!r}"
        if select.select([descriptor], [], [], left)[0]:
            seen += os.read(descriptor, 4096).decode()
    return seen


def test_password_prompt_asks_twice_and_shows_nothing(data: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgw", "user", "add", "typed", "--data", data],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        seen = read_until(ours, "Password: ")
        os.write(ours, b"typed by hand\n")
        seen += read_until(ours, "confirmation: ")
        os.write(ours, b"typed by hand\n")
        seen += read_until(ours, "Added user typed")
        assert process.wait(COMMAND_S_MAX) == 0
        assert "typed by hand" not in seen
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert launch("user", "rm", "typed", "--data", data).code == 0


# --- stations -----------------------------------------------------------------------------------


def test_station_is_added_listed_told_and_removed(run: Run, data: str) -> None:
    at = ("--data", data)
    keeps = ("--max-age", "7d", "--max-bytes", "10MiB", "--storage", "memory")
    heads = ("--headers", "X-*", "--headers", "traceparent", "--allow-header", "Nats-TTL")
    added = run("station", "add", "orders.eu", *keeps, *heads, *at)
    assert (added.code, added.err) == (0, "")
    assert added.out == "Added station orders.eu on a new stream, orders#eu.\n"
    listed = run("station", "list", "--state", *at).out.splitlines()
    heads_shown = ["STATION", "STREAM", "SCHEMA", "HEADERS", "SINCE", "MESSAGES", "SIZE"]
    assert listed[0].split() == heads_shown
    assert listed[1].split()[:4] == ["orders.eu", "orders#eu", "-", "X-*,"]
    assert listed[1].split()[-3:] == ["0", "0", "B"]
    info = run("station", "info", "orders.eu", *at).out
    assert "keeps            7 d" in info
    assert "subjects         orders.eu, orders.eu.>" in info
    assert "storage          memory, 1 replica(s)" in info
    value = run("station", "info", "orders.eu", "--json", *at).value
    assert value["headers"] == ["X-*", "traceparent"]
    assert value["header_allow"] == ["Nats-TTL"]
    assert value["max_age_s"] == 604800
    assert value["messages"] == 0
    assert run("station", "list", "--json", *at).value[0]["name"] == "orders.eu"
    removed = run("station", "rm", "orders.eu", "--yes", *at)
    assert removed.out == "Removed station orders.eu with its stream and messages.\n"
    assert run("station", "list", *at).out.startswith("There are no stations yet")


def test_station_stream_that_was_kept_is_taken_again(run: Run, data: str) -> None:
    at = ("--data", data)
    assert run("station", "add", "kept", "--headers", "none", "--json", *at).value["owned"] is True
    removed = run("station", "rm", "kept", "--keep-stream", "--json", *at)
    assert removed.value == {"name": "kept", "removed": True, "stream_deleted": False}
    assert run("station", "add", "kept", *at).code == 0
    assert run("station", "rm", "kept", "--yes", "--json", *at).value["stream_deleted"] is True


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 40, "1.0 TiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_size_is_shown_in_a_fitting_unit(count: int, text: str) -> None:
    assert _size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "for ever"), (90, "90 s"), (3600, "1 h"), (86400, "1 d"), (0.5, "0.5 s")],
)
def test_age_is_shown_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert _age(seconds) == text


# --- which broker -------------------------------------------------------------------------------


def test_broker_named_by_url_is_used(run: Run, broker: tuple[str, EmbeddedBroker]) -> None:
    address = broker[1].address
    url = address.url.replace("//", f"//{address.user}:{address.password}@")
    assert run("station", "add", "by-url", "--nats", url).code == 0
    assert run("station", "rm", "by-url", "--yes", "--data", broker[0]).code == 0


def test_broker_away_is_one_line_and_code_1(run: Run) -> None:
    result = run("user", "list", "--nats", "nats://u:secret-word@127.0.0.1:1")
    assert result.code == 1
    assert result.err.startswith("fastgw: no broker at nats://127.0.0.1:1: ")
    assert result.err.count("\n") == 1
    assert "secret-word" not in result.err


def test_broker_that_refuses_us_is_one_line_and_code_1(
    run: Run, broker: tuple[str, EmbeddedBroker]
) -> None:
    url = broker[1].url.replace("//", "//control:wrong-word@")
    result = run("user", "list", "--nats", url)
    assert result.code == 1
    assert "Authorization Violation".lower() in result.err.lower()
    assert result.err.count("\n") == 1
    assert "wrong-word" not in result.err


def test_no_broker_running_starts_one_for_the_command(run: Run, tmp_path: Path) -> None:
    data = str(tmp_path / "own")
    missing = run("user", "list", "--data", data)
    assert missing.code == 1
    assert missing.err.startswith(f"fastgw: there is no data folder {data} yet")
    assert not Path(data).exists()
    assert run("user", "add", "first", "--generate", "--data", data).code == 0
    assert running_broker(data) is None
    assert [user["name"] for user in run("user", "list", "--json", "--data", data).value] == [
        "first"
    ]
    assert running_broker(data) is None
