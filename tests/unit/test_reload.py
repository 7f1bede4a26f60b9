"""The configuration read again: what comes into force, what is kept, and what is refused whole."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from fastgw.config import load
from fastgw.reload import Plan, Reloader, find_changed, merge

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-secret-of-at-least-thirty-two-bytes"


class Operator:
    """Rewrites a file and has it read again."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "fastgw.toml"
        self.write(text)
        config = load(str(self.path), {}, {}).config
        self.plan = Plan(config, config.nats, tuple(None for _ in config.all_listeners()))
        self.reloader = Reloader(lambda: load(str(self.path), {}, {}), None)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.path.chmod(0o600)

    def read(self, text: str) -> Plan | None:
        self.write(text)
        return self.reloader.read_again(self.plan)


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_values_that_may_change_do_and_their_keys_are_told_without_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator(tmp_path, "[limits]\nack_timeout_ms = 100\n")
    plan = operator.read(f'[limits]\nack_timeout_ms = 200\n[auth]\njwt_secret = "{SECRET}"\n')
    assert plan is not None
    assert plan.config.limits.ack_timeout_ms == 200
    assert "changed: auth.jwt_secret, limits.ack_timeout_ms" in caplog.text
    assert SECRET not in caplog.text


def test_same_values_are_the_same_plan(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "[limits]\nack_timeout_ms = 100\n")
    assert operator.read("# nothing\n[limits]\nack_timeout_ms = 100\n") is operator.plan


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[limits\n", "is not TOML"),
        ("[limits]\nack_timeout_ms = 0\n", "limits.ack_timeout_ms"),
        ("[limit]\n", "did you mean limits"),
        ('[tls]\ncert_file = "/nowhere.pem"\nkey_file = "/nowhere.key"\n', "no such file"),
    ],
)
def test_mistake_leaves_everything_and_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, word: str
) -> None:
    operator = Operator(tmp_path, "")
    assert operator.read(text) is None
    assert len(caplog.records) == 1
    assert "the configuration stays as it is" in caplog.text
    assert word in caplog.text


def test_file_that_is_gone_leaves_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator(tmp_path, "")
    operator.path.unlink()
    assert operator.reloader.read_again(operator.plan) is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("workers = 1", "workers = 2", ["workers"]),
        ('data = "a"', 'data = "b"', ["data"]),
        ('listen = "127.0.0.1:1"', 'listen = "127.0.0.1:2"', ["listen"]),
        ('[nats]\nsync_interval = "1s"', '[nats]\nsync_interval = "2s"', ["nats.sync_interval"]),
        ("", '[nats]\nurl = ["nats://127.0.0.1:4222"]\nuser = "u"\npassword = "p"',
         ["nats.url", "nats.user", "nats.password"]),
        ('[[listeners]]\nlisten = "unix:/a"', '[[listeners]]\nlisten = "unix:/b"', ["listeners"]),
        ('[[listeners]]\nlisten = "unix:/a"\nsocket_mode = "0600"',
         '[[listeners]]\nlisten = "unix:/a"\nsocket_mode = "0666"', ["listeners"]),
    ],
)  # fmt: skip
def test_what_only_a_start_can_change_is_kept_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str, kept: list[str]
) -> None:
    operator = Operator(tmp_path, f"{old}\n")
    assert operator.read(f"{new}\n") is operator.plan
    assert f"a restart is needed for {', '.join(kept)}; until then" in caplog.text


def test_kept_tables_go_together_with_what_may_change(tmp_path: Path) -> None:
    old = load(None, {}, {"listen": "127.0.0.1:1", "nats.url": "nats://a:4222"}).config
    new = load(
        None, {"FASTGW_LIMITS_ACK_TIMEOUT_MS": "77"},
        {"listen": "127.0.0.1:2", "nats.url": "nats://b:4222"},
    ).config  # fmt: skip
    merged, kept = merge(old, new)
    assert kept == ["listen"]
    assert merged.listen == "127.0.0.1:1"
    assert find_changed(old, merged) == ["nats.url", "limits.ack_timeout_ms"]


def test_mixture_that_would_open_a_door_is_refused_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Safe before and safe as it stands; with the old address it would let everyone in."""
    operator = Operator(tmp_path, 'listen = "0.0.0.0:4444"\n')
    assert operator.read('listen = "127.0.0.1:4444"\n[auth]\nmode = "none"\n') is None
    assert "a restart is needed for listen, and else" in caplog.text


def test_without_a_way_to_read_only_certificates_are_renewed(tmp_path: Path) -> None:
    operator = Operator(tmp_path, "")
    assert Reloader(None, None).read_again(operator.plan) is operator.plan
