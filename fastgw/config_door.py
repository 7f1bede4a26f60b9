"""Whether the configured doors may stand open: listeners, their certificates, issuers, secrets.

What enters: a built `Config`, and where each of its values came from.
What leaves: nothing, or a `ConfigError` at the first thing that would let strangers in or keep
everyone out; and warnings for what is allowed but unwise.
Called by `fastgw.config.load` at its end, and by `door.tls` for its keys. Nothing here opens a
socket or reads a key.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fastgw.config_types import SECRETS, is_loopback
from fastgw.errors import clip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastgw.config_types import Config, IssuerConfig, ListenerConfig, TlsConfig

SECRET_BYTES_GOOD: Final = 32
"""LIMIT: RFC 7518 §3.2, a key for HS256 has at least the 256 bits of the hash."""

RESERVED_NAMES: Final = ("key", "webhook")
"""Principals of API keys and signatures are called "key:NAME" and "webhook:STATION"."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says where, which key, what, and what is allowed.

    Args:
        text: one line without a secret.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text: Final = text


def check_door(config: Config, origins: Mapping[str, str], warnings: list[str]) -> None:
    """Refuse what would let strangers in or keep everyone out; warn of what is unwise.

    Raises:
        ConfigError: at the first such thing.
    """
    listeners = config.all_listeners()
    for listener in listeners:
        is_main = listener.listen == config.listen or not config.listeners
        where = "listen" if is_main else f'listeners, "{clip(listener.listen, 120)}"'
        origin = origins["tls.cert_file" if is_main else "listeners"]
        _check_listener(listener, f"{origin}: {where}")
    _check_twice(
        [one.listen for one in listeners if not one.listen.endswith(":0")], "listeners", origins
    )
    _check_anonymous(config, origins, warnings)
    _check_twice([issuer.name for issuer in config.issuers], "issuers", origins)
    for issuer in config.issuers:
        _check_issuer(issuer, f"{origins['issuers']}: issuers, {issuer.name}")
    _warn_of_short_secrets(config, origins, warnings)
    _warn_of_what_others_read(config, origins, warnings)


def _check_listener(listener: ListenerConfig, where: str) -> None:
    try:
        address = listener.address()
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    tls = listener.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        raise ConfigError(f"{where}: tls.cert_file and tls.key_file go together")
    if tls.cert_file is None and (tls.client_cert != "none" or tls.client_ca_file):
        raise ConfigError(f"{where}: clients' certificates need tls.cert_file and tls.key_file")
    if tls.client_cert != "none" and tls.client_ca_file is None:
        raise ConfigError(f"{where}: tls.client_cert = {tls.client_cert!r} needs client_ca_file")
    if isinstance(address, str) and tls.cert_file is not None:
        raise ConfigError(f"{where}: a unix socket has no TLS; its mode says who may connect")
    _check_files(tls, where)
    for network in listener.proxy_from:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise ConfigError(
                f"{where}: proxy_from has {clip(network)!r}, which is no address or network"
            ) from error
    if listener.proxy_from and isinstance(address, str):
        raise ConfigError(f"{where}: a unix socket takes no PROXY header")


def _check_files(tls: TlsConfig, where: str) -> None:
    for key in ("cert_file", "key_file", "client_ca_file"):
        path = getattr(tls, key)
        if path is not None and not os.access(path, os.R_OK):
            why = "cannot be read" if os.path.exists(path) else "no such file"
            raise ConfigError(f'{where}: tls.{key} = "{clip(path, 200)}": {why}')


def _check_anonymous(config: Config, origins: Mapping[str, str], warnings: list[str]) -> None:
    """Refuse `auth.mode = "none"` where anyone but this machine can connect."""
    if config.auth.mode != "none":
        return
    for listener in config.all_listeners():
        address = listener.address()
        if isinstance(address, str):
            # WHY: the socket's mode is who may come in; everyone on the machine is too many.
            if int(listener.socket_mode, 8) & stat.S_IWOTH:
                warnings.append(f"auth.mode is none on {address}, and its mode lets everyone in")
            continue
        if is_loopback(address[0]) and not listener.proxy_from:
            continue
        if not config.auth.insecure:
            raise ConfigError(
                f'{origins["auth.mode"]}: auth.mode = "none": anyone could produce and consume on'
                f" {address[0]}; listen on 127.0.0.1, or set auth.insecure = true"
            )
        warnings.append(f"auth.mode is none on {address[0]}: anyone who reaches it is let in")


def _check_twice(names: list[str], key: str, origins: Mapping[str, str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{origins[key]}: {key}: {clip(name, 80)} is there twice")


def _check_issuer(issuer: IssuerConfig, where: str) -> None:
    if issuer.name in RESERVED_NAMES:
        raise ConfigError(f"{where}: the name {issuer.name} is taken by fastgw's own principals")
    if (issuer.jwks_file is None) == (issuer.jwks_url is None):
        raise ConfigError(f"{where}: set one of jwks_file and jwks_url")
    if issuer.jwks_file is not None and not os.access(issuer.jwks_file, os.R_OK):
        raise ConfigError(f'{where}: jwks_file = "{clip(issuer.jwks_file, 200)}": cannot be read')
    if issuer.jwks_url is not None:
        url = urlsplit(issuer.jwks_url)
        # WHY: whoever can change the keys on their way can issue any token.
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
            raise ConfigError(f"{where}: jwks_url must begin with https://")
        if not url.hostname or url.username or url.password:
            raise ConfigError(f"{where}: jwks_url must be https://HOST/PATH without a user")
    if issuer.maps == "claims" and not issuer.permissions:
        raise ConfigError(
            f"{where}: permissions is empty, so no token would allow anything;"
            ' as in permissions = {"events:write" = ["produce"]}'
        )


def _warn_of_what_others_read(
    config: Config, origins: Mapping[str, str], warnings: list[str]
) -> None:
    """Warn of key files that others may read, and of a password in the process list."""
    for name in ("creds_file", "nkey_seed_file", "tls_key_file"):
        path = getattr(config.nats, name)
        if path is not None and (text := find_loose(path, f"{path} (nats.{name})")) is not None:
            warnings.append(text)
    flag = origins["nats.url"].startswith("flag ")
    if flag and any(urlsplit(url).password for url in config.nats.url):
        warnings.append(
            "the password in --nats stands in the process list for everyone on this machine;"
            " FASTGW_NATS_PASSWORD or a file keeps it out"
        )


def find_loose(path: str, what: str) -> str | None:
    """Return a warning of `what`, the file at `path`, when others can read or change it."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return None  # Whoever reads it says why it cannot be read.
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None
    return f"{what} has mode {mode:04o}, so others on this machine may use it; chmod 600 {path}"


def _warn_of_short_secrets(config: Config, origins: Mapping[str, str], warnings: list[str]) -> None:
    for key in sorted(SECRETS):
        table, _, name = key.rpartition(".")
        if "jwt_secret" not in name:
            continue
        found = getattr(getattr(config, table), name)
        for secret in found if isinstance(found, list) else [found]:
            size = len(secret.encode()) if secret is not None else SECRET_BYTES_GOOD
            if size < SECRET_BYTES_GOOD:
                warnings.append(
                    f"{origins[key]}: {key} has {size} bytes; at least {SECRET_BYTES_GOOD} keep"
                    " tokens from being forged by guessing"
                )
