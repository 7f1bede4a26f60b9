"""The configuration read again while the gateway serves: what may change does, the rest is named.

What enters: the plan in force, and a way to read file, environment and flags once more.
What leaves: the next plan, or None when nothing may change, with one line in the log that says why.
The supervisor asks in the parent of several workers; a single worker asks itself. It must never
put a configuration into force that a start would refuse, nor open a door that nobody configured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.config import TYPES, ConfigError, Loaded, value_of
from fastgw.config_door import check_door
from fastgw.crew import Times
from fastgw.door.tls import Certificates, TlsFilesError, find_loose_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastgw.config import Config
    from fastgw.config_types import ListenerConfig, NatsConfig
    from fastgw.nats.folder import BrokerAddress

log: Final = logging.getLogger("fastgw.reload")

AT_START: Final = ("data", "workers", "auth.admin_user", "auth.admin_password")
"""Keys that only a start can bring into force."""

AT_BROKER_START: Final = (
    "nats.server_path",
    "nats.sync_interval",
    "nats.max_payload_bytes",
    "nats.store_bytes_max",
)
"""Those that shape the embedded broker, which is not started anew."""

DOOR_KEYS: Final = (
    "listen",
    "tls.cert_file",
    "tls.key_file",
    "tls.client_ca_file",
    "tls.client_cert",
    "tls.client_user",
    "listeners",
)
"""Kept together: a listener's table belongs to the address that it stands beside."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker runs by.

    Args:
        config: the configuration.
        nats: the broker's table of it, with the embedded broker's address when there is one.
        certificates: of each listener in the order of `Config.all_listeners`; None without TLS.
    """

    config: Config
    nats: NatsConfig
    certificates: tuple[Certificates | None, ...]

    @property
    def listeners(self) -> tuple[ListenerConfig, ...]:
        """The listeners' tables."""
        return self.config.all_listeners()

    @property
    def times(self) -> Times:
        """How long a worker may take for its end, and be silent."""
        limits = self.config.limits
        return Times(
            limits.drain_delay_ms / 1000,
            limits.drain_grace_ms / 1000,
            limits.worker_silence_ms / 1000,
        )

    def set_log_level(self) -> None:
        """Let as much be written as the configuration says."""
        logging.getLogger().setLevel(self.config.log.level.upper())


class Reloader:
    """Reads the configuration again.

    Args:
        read: returns the configuration as a start would find it, or raises ConfigError; None when
            only certificates can be renewed.
        broker: where the embedded broker is; None when there is none.
    """

    def __init__(self, read: Callable[[], Loaded] | None, broker: BrokerAddress | None) -> None:
        self._read: Final = read
        self._broker: Final = broker

    def read_again(self, plan: Plan) -> Plan | None:
        """Return the plan of now; `plan` itself when only its certificates may be new.

        Certificates whose tables are as they were are read again here; those that cannot be used
        stay old. Anything else that is wrong leaves everything as it was.
        """
        try:
            found = self._find_plan(plan)
        except (ConfigError, TlsFilesError) as error:
            log.error("the configuration stays as it is: %s", error)
            return None
        for old, new in zip(plan.certificates, found.certificates, strict=True):
            if old is not None and new is old:
                old.reload()
        return found

    def _find_plan(self, plan: Plan) -> Plan:
        if self._read is None:
            return plan
        loaded = self._read()
        config, kept = merge(plan.config, loaded.config)
        warnings = list(loaded.warnings)
        if kept:
            # DANGER: each of the two configurations may be safe and their mixture not, as when
            # auth.mode becomes "none" together with an address that is loopback only.
            _check_mixture(config, kept, loaded.origins)
            warnings.append(f"a restart is needed for {', '.join(kept)}; until then the old counts")
        changed = find_changed(plan.config, config)
        for warning in (*warnings, *find_loose_keys(config.all_listeners())):
            log.warning("%s", warning)
        if not changed:
            log.info("the configuration was read again; nothing in it changed")
            return plan
        log.info("the configuration was read again; changed: %s", ", ".join(changed))
        nats = config.nats if self._broker is None else self._broker.apply(config.nats)
        return Plan(config, nats, _renew(plan, config))


def find_changed(old: Config, new: Config) -> list[str]:
    """Return the dotted keys whose values differ; never the values, which may be secrets."""
    return [key for key in TYPES if value_of(old, key) != value_of(new, key)]


def merge(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return `new` with the old values of what only a start can change, and those keys' names."""
    kept = [key for key in AT_START if value_of(old, key) != value_of(new, key)]
    if old.embedded != new.embedded:
        kept += [key for key in find_changed(old, new) if key.startswith("nats.")]
    elif old.embedded:
        kept += [key for key in AT_BROKER_START if value_of(old, key) != value_of(new, key)]
    merged = _keep(old, new, kept)
    if _addresses(old) != _addresses(merged):
        doors = [key for key in DOOR_KEYS if value_of(old, key) != value_of(new, key)]
        merged = _keep(old, merged, doors)
        kept += doors
    return merged, kept


def _addresses(config: Config) -> list[tuple[str, int]]:
    """Return what of the listeners is bound at the start."""
    return [(one.listen, int(one.socket_mode, 8)) for one in config.all_listeners()]


def _keep(old: Config, new: Config, keys: Sequence[str]) -> Config:
    """Return `new` with the values that `keys` have in `old`."""
    top: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key in keys:
        table, _, name = key.rpartition(".")
        (tables.setdefault(table, {}) if table else top)[name] = value_of(old, key)
    for table, values in tables.items():
        top[table] = msgspec.structs.replace(getattr(new, table), **values)
    return msgspec.structs.replace(new, **top)


def _check_mixture(config: Config, kept: Sequence[str], origins: Mapping[str, str]) -> None:
    try:
        check_door(config, origins, [])
    except ConfigError as error:
        raise ConfigError(f"a restart is needed for {', '.join(kept)}, and else {error}") from error


def _renew(plan: Plan, config: Config) -> tuple[Certificates | None, ...]:
    """Return the certificates of `config`'s listeners; those of unchanged tables as they are.

    Raises:
        TlsFilesError: a new table's files cannot be used.
    """
    found: list[Certificates | None] = []
    pairs = zip(plan.listeners, plan.certificates, config.all_listeners(), strict=True)
    for old, certificates, new in pairs:
        if new.tls.cert_file is None:
            found.append(None)
        elif certificates is not None and old.tls == new.tls:
            found.append(certificates)
        else:
            found.append(Certificates(new.tls, new.listen))
    return tuple(found)
