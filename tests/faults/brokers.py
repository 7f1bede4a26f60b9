"""A broker with a configuration of a fault's own, which may change while it runs.

What enters: a folder and the configuration as JSON. What leaves: a running `nats-server`.
Called by faults of rights and of the broker's own bounds, by way of `Scene.make_broker`.
"""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass, field
from typing import Any

from tests.wire.gateway import Broker, free_port, nats_server_path, wait_until

RELOADED = "Reloaded server configuration"


@dataclass
class ConfiguredBroker(Broker):
    """One `nats-server`; `options` are laid over where it listens and stores.

    An empty `user` means that the URL names nobody.
    """

    options: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address, with credentials if a user of this broker is to be."""
        return super().url if self.user else f"nats://127.0.0.1:{self.port}"

    def start(self) -> Broker:
        """Start, on the same port each time, and wait until it accepts connections."""
        path = nats_server_path()
        assert path is not None
        self.port = self.port or free_port()
        self.store.mkdir(parents=True, exist_ok=True)
        self._write()
        self.process = subprocess.Popen(
            [path, "-c", str(self.store / "broker.json")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.is_listening, what="nats-server")
        return self

    def reload(self, options: dict[str, Any]) -> None:
        """Have other options in force when this returns."""
        before = self.log_text().count(RELOADED)
        self.options = options
        self._write()
        self.signal(signal.SIGHUP)
        wait_until(lambda: self.log_text().count(RELOADED) > before, 10, "the reload")

    def log_text(self) -> str:
        """What it has logged."""
        return (self.store / "broker.log").read_text("utf-8", "replace")

    def _write(self) -> None:
        jetstream = {"store_dir": str(self.store), **self.options.get("jetstream", {})}
        whole = {
            "listen": f"127.0.0.1:{self.port}",
            "log_file": str(self.store / "broker.log"),
            **self.options,
            "jetstream": jetstream,
        }
        (self.store / "broker.json").write_text(json.dumps(whole))
