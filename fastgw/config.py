"""Where the configuration comes from: default < TOML file < environment < flags, value by value.

What enters: a file's path, the environment, and the command line's flags by dotted key.
What leaves: a `Loaded`: the checked `Config`, where each value came from, and warnings.
The command line calls `load` once; workers get the finished `Config`. Nothing here connects to a
broker or keeps state, and no text made here holds a secret.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from fastgw.config_door import ConfigError, check_door
from fastgw.config_types import (
    MASK,
    AuthConfig,
    Config,
    CorsConfig,
    IssuerConfig,
    LimitsConfig,
    ListenerConfig,
    LogConfig,
    MetricsConfig,
    NatsConfig,
    RateConfig,
    StationsConfig,
    TlsConfig,
    mask,
    mask_urls,
    parse_address,
    parse_listen,
    parse_nats_url,
)
from fastgw.errors import clip

__all__ = [
    "AuthConfig",
    "Config",
    "ConfigError",
    "CorsConfig",
    "IssuerConfig",
    "LimitsConfig",
    "ListenerConfig",
    "Loaded",
    "LogConfig",
    "MetricsConfig",
    "NatsConfig",
    "RateConfig",
    "StationsConfig",
    "TlsConfig",
    "load",
    "mask",
    "mask_urls",
    "parse_address",
]

ENV_PREFIX: Final = "FASTGW_"
ENV_FILE: Final = "FASTGW_CONFIG"
# WHY: these are read by the build, by this module, by the tests and by `fastgw bench`; the last two
# shapes Kubernetes sets by itself in every pod beside a service named "fastgw".
ENV_OTHERS: Final = (
    "FASTGW_BUILD",
    ENV_FILE,
    "FASTGW_TEST_",
    "FASTGW_BENCH_",
    "FASTGW_SERVICE_",
    "FASTGW_PORT",
)

ENV_ALIASES: Final = {
    "FASTGW_ADMIN_USER": "auth.admin_user",
    "FASTGW_ADMIN_PASSWORD": "auth.admin_password",
}
MEMPHIS_ALIASES: Final = {
    "JWT_SECRET": "auth.jwt_secret",
    "REFRESH_JWT_SECRET": "auth.refresh_jwt_secret",
    "JWT_EXPIRES_IN_MINUTES": "auth.token_expiry_minutes",
    "REFRESH_JWT_EXPIRES_IN_MINUTES": "auth.refresh_token_expiry_minutes",
    "MEMPHIS_HOST": "nats.url",
    "ROOT_USER": "auth.admin_user",
    "ROOT_PASSWORD": "auth.admin_password",
    "HTTP_PORT": "listen",
}
FLAGS: Final = {"nats.url": "--nats", "log.level": "--log-level"}
FILES: Final = ("creds_file", "nkey_seed_file", "tls_ca_file", "tls_cert_file", "tls_key_file")
ELSEWHERE: Final = ("user", "token", *FILES, "tls_server_name", "tls_handshake_first", "data_user")
"""What makes no sense for the embedded broker, which has users of its own on loopback."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A checked configuration and its provenance.

    Args:
        config: the values.
        origins: dotted key -> "default", "file PATH", "env NAME" or "flag --NAME".
        warnings: lines for the operator; nothing here stops the start.
    """

    config: Config
    origins: dict[str, str]
    warnings: list[str]

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """Give each dotted key in order with its value as it may be shown, and its origin."""
        for key, origin in self.origins.items():
            yield key, mask(key, value_of(self.config, key)), origin


def _key_types() -> dict[str, Any]:
    """Return each dotted key with its annotation, the top level first."""
    types: dict[str, Any] = {}
    for field in msgspec.structs.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            for leaf in msgspec.structs.fields(field.type):
                types[f"{field.name}.{leaf.name}"] = leaf.type
        else:
            types[field.name] = field.type
    return types


TYPES: Final = _key_types()
TABLES: Final = frozenset(key.partition(".")[0] for key in TYPES if "." in key)
_ENV_KEYS: Final = {ENV_PREFIX + key.upper().replace(".", "_"): key for key in TYPES}


def load(toml_path: str | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Gather, convert and check the configuration.

    Args:
        toml_path: the file; None looks at FASTGW_CONFIG in `env`, and goes without one otherwise.
        env: the process's environment; an empty variable counts as not set.
        flags: dotted key -> value; None counts as not given.

    Raises:
        ConfigError: at the first value that cannot be used.
    """
    values: dict[str, object] = {}
    origins = dict.fromkeys(TYPES, "default")
    warnings: list[str] = []

    def put(key: str, value: object, origin: str, *, is_text: bool = False) -> None:
        values[key] = _convert(key, value, origin, is_text=is_text)
        origins[key] = origin

    path = toml_path or env.get(ENV_FILE) or None
    if path is not None:
        for key, value in _read_file(path, warnings):
            put(key, value, f"file {path}")
    for name, key in _env_names(env, warnings):
        put(key, env[name], f"env {name}", is_text=True)
    for key, value in flags.items():
        if value is not None:
            flag = FLAGS.get(key, f"--{key.replace('.', '-').replace('_', '-')}")
            put(_check_key(key, f"flag {flag}"), value, f"flag {flag}", is_text=True)

    config = _build(values)
    _check_pairs(config, origins)
    _check_broker(config, origins)
    check_door(config, origins, warnings)
    return Loaded(config=config, origins=origins, warnings=warnings)


def child_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return what a child process may have of our environment: nothing that configures us.

    WHY: secrets may stand there, and whoever may read a child's memory need not be who reads ours.
    """
    return {
        name: value
        for name, value in env.items()
        if not name.startswith(ENV_PREFIX) and name not in MEMPHIS_ALIASES
    }


def value_of(config: Config, key: str) -> object:
    """Return the value under a dotted key."""
    table, _, name = key.rpartition(".")
    return getattr(getattr(config, table) if table else config, name)


def allowed(kind: inspect.Type) -> str:
    """Say in words which values a type takes, as "a whole number from 1 to 5"."""
    match kind:
        case inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return " or ".join(f'"{value}"' for value in kind.values)
        case inspect.ListType() if isinstance(kind.item_type, inspect.StructType):
            return "tables in the file, or a JSON array of objects"
        case inspect.FloatType():
            return "a number above 0"
        case inspect.ListType():
            return "a list of strings"
        case inspect.StrType() if kind.pattern is not None:
            return '"always", or a number with its unit as in "100ms", "2s" or "1m"'
        case inspect.StrType() if kind.min_length is not None:
            return f"a string of {kind.min_length} to {kind.max_length} characters"
        case inspect.UnionType():
            return ", or ".join(
                allowed(part) for part in kind.types if not isinstance(part, inspect.NoneType)
            )
    return "a string"


def _read_file(path: str, warnings: list[str]) -> Iterator[tuple[str, object]]:
    """Give the dotted keys and raw values of a TOML file; warn when others can read its secrets."""
    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise ConfigError(f"file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"file {path}: is not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"file {path}: is not TOML: {clip(error, 120)}") from error
    secrets = []
    for name, value in tree.items():
        if name not in TABLES:
            if isinstance(value, dict):
                raise _unknown(name, f"file {path}", TABLES)
            yield _check_key(name, f"file {path}"), value
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"file {path}: {name} must be a table, as in [{name}]")
        for leaf, inner in value.items():
            key = _check_key(f"{name}.{leaf}", f"file {path}")
            if mask(key, inner) != inner:
                secrets.append(key)
            yield key, inner
    if secrets and mode & stat.S_IROTH:
        warnings.append(
            f"file {path} holds {', '.join(secrets)} and every user of this machine can read it;"
            f" chmod 600 {path}"
        )


def _check_key(key: str, origin: str) -> str:
    """Return `key` if it exists; else refuse it and name the nearest one that does."""
    if key not in TYPES:
        raise _unknown(key, origin, TYPES)
    return key


def _unknown(key: str, origin: str, known: Collection[str]) -> ConfigError:
    near = _nearest(key, known)
    hint = f"; did you mean {near}?" if near else ""
    what = "table" if known is TABLES else "key"
    return ConfigError(f"{origin}: unknown {what} {clip(key, 80)}{hint}")


def _nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known name most like `word`: as a whole, or else by its last part alone."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if found:
        return found[0]
    leaves = {name.rpartition(".")[2]: name for name in known}
    found = difflib.get_close_matches(word.rpartition(".")[2], leaves, n=1, cutoff=0.75)
    return leaves[found[0]] if found else None


def _env_names(env: Mapping[str, str], warnings: list[str]) -> Iterator[tuple[str, str]]:
    """Give (variable, key) for each variable set, weaker names first; warn of unknown ones."""
    for aliases in (MEMPHIS_ALIASES, ENV_ALIASES, _ENV_KEYS):
        for name, key in aliases.items():
            if env.get(name):
                yield name, key
    for name in sorted(env):
        known = name in _ENV_KEYS or name in ENV_ALIASES or name.startswith(ENV_OTHERS)
        if name.startswith(ENV_PREFIX) and not known:
            near = _nearest(name, _ENV_KEYS)
            hint = f"; did you mean {near}?" if near else ""
            warnings.append(f"env {clip(name, 80)}: no key has this name, it is ignored{hint}")


def _convert(key: str, value: object, origin: str, *, is_text: bool) -> object:
    """Return `value` as the key's type; `is_text` reads numbers and lists out of a string."""
    # WHY only of what was set: a look into all of them takes as long as loading this module.
    kind = inspect.type_info(TYPES[key])
    if origin == "env HTTP_PORT":
        # WHY: Memphis has no host; the default's host depends on the broker, known only later.
        return _convert_port(value, origin)
    if isinstance(kind, inspect.ListType) and isinstance(value, str):
        if isinstance(kind.item_type, inspect.StructType):
            value = _parse_tables(key, value, origin)
        else:
            value = [part.strip() for part in value.split(",") if part.strip()]
    strict = not is_text or isinstance(kind, inspect.StrType) or _is_optional_text(kind)
    try:
        converted: object = msgspec.convert(value, TYPES[key], strict=strict)
    except msgspec.ValidationError as error:
        if _is_tables(kind) and isinstance(value, list):
            raise ConfigError(f"{origin}: {key}: {clip(_place(error), 200)}") from error
        raise _refusal(key, value, origin, f"must be {allowed(kind)}") from error
    try:
        if key == "listen" and isinstance(converted, str):
            parse_listen(converted)
        if key == "nats.url" and isinstance(converted, list):
            return [parse_nats_url(part) for part in converted]
    except ValueError as error:
        raise _refusal(key, value, origin, str(error)) from error
    return converted


def _is_tables(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.ListType) and isinstance(kind.item_type, inspect.StructType)


def _parse_tables(key: str, text: str, origin: str) -> object:
    """Read an array of tables out of a variable, where it stands as JSON."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{origin}: {key}: is not a JSON array of objects: {error}") from error


def _place(error: msgspec.ValidationError) -> str:
    """Say where in an array of tables the mistake is, as in "tls.cert_file of number 2: …"."""
    text = str(error).replace("Object contains unknown field", "unknown key")
    what, _, path = text.partition(" - at `$")
    found = re.match(r"\[(\d+)\]\.?([^`]*)", path)
    if found is None:
        return what
    place = (
        f"{found[2]} of number {int(found[1]) + 1}" if found[2] else f"number {int(found[1]) + 1}"
    )
    return f"{place}: {what}"


def _convert_port(value: object, origin: str) -> str:
    text = str(value)
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise _refusal("listen", value, origin, "must be a port from 0 to 65535")
    return f":{int(text)}"


def _is_optional_text(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.UnionType) and all(
        isinstance(part, inspect.StrType | inspect.NoneType) for part in kind.types
    )


def _refusal(key: str, value: object, origin: str, why: str) -> ConfigError:
    # WHY: a broken URL may be cut at the wrong place, so that a part of it hides a password.
    hidden = key == "nats.url" and "@" in str(value)
    shown = MASK if hidden else mask(key, value)
    text = f'"{clip(shown)}"' if isinstance(shown, str) and shown != MASK else clip(_toml(shown))
    return ConfigError(f"{origin}: {key} = {text}: {why}")


def _toml(value: object) -> str:
    """Show a value as the file would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) and value != MASK else str(value)


def _build(values: Mapping[str, object]) -> Config:
    """Put converted values into the tables."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (tree.setdefault(table, {}) if table else tree)[name] = value
    listen = tree.get("listen")
    if isinstance(listen, str) and listen.startswith(":"):
        host = "0.0.0.0" if tree.get("nats", {}).get("url") else "127.0.0.1"
        tree["listen"] = host + listen
    return msgspec.convert(tree, Config)


def _check_pairs(config: Config, origins: Mapping[str, str]) -> None:
    """Refuse half a pair, and a range whose ends are crossed."""
    pairs = (
        ("nats.user", "nats.password"),
        ("nats.data_user", "nats.data_password"),
        ("nats.tls_cert_file", "nats.tls_key_file"),
        ("tls.cert_file", "tls.key_file"),
        ("auth.admin_user", "auth.admin_password"),
    )
    for one, other in pairs:
        for key, partner in ((one, other), (other, one)):
            if value_of(config, key) is not None and value_of(config, partner) is None:
                raise ConfigError(f"{origins[key]}: {key} is set without {partner}")
    low, high = config.nats.reconnect_wait_ms_min, config.nats.reconnect_wait_ms_max
    if low > high:
        key = "nats.reconnect_wait_ms_max"
        origin = origins[key] if origins[key] != "default" else origins[key[:-3] + "min"]
        raise ConfigError(
            f"{origin}: {key} = {high}: must be at least nats.reconnect_wait_ms_min ({low})"
        )


def _check_broker(config: Config, origins: Mapping[str, str]) -> None:
    """Refuse two ways to log in, unreadable files, and what the embedded broker cannot do."""
    nats = config.nats
    ways = [
        key
        for key in ("user", "token", "creds_file", "nkey_seed_file")
        if getattr(nats, key) is not None
    ]
    if len(ways) > 1:
        first, second = (f"nats.{way}" for way in ways[:2])
        raise ConfigError(
            f"{origins[second]}: {second} and {first} ({origins[first]}) are two ways to log in;"
            " set one"
        )
    for name in FILES:
        path = getattr(nats, name)
        if path is not None and not os.access(path, os.R_OK):
            key = f"nats.{name}"
            why = "cannot be read" if os.path.exists(path) else "no such file"
            raise ConfigError(f'{origins[key]}: {key} = "{clip(path, 200)}": {why}')
    for name in ELSEWHERE if config.embedded else ():
        if getattr(nats, name):
            raise ConfigError(
                f"{origins[f'nats.{name}']}: nats.{name} is set without nats.url; the embedded"
                " broker has users of its own"
            )
    if config.embedded and nats.replicas > 1:
        raise ConfigError(
            f"{origins['nats.replicas']}: nats.replicas = {nats.replicas}: must be 1 with the"
            " embedded broker, which is one server; set nats.url for a cluster"
        )
