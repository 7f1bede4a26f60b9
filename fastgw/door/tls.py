"""TLS towards clients: the context of a listener, its renewal, and whom a certificate names.

What enters: a `TlsConfig`. What leaves: an `ssl.SSLContext` with the newest files that can be used,
and the user's name out of a verified client certificate.
`listeners` makes one `Certificates` for each TLS listener; a signal or a changed file renews it.
It must never ask a terminal for a passphrase, and never serve without TLS because a file is broken.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastgw.config_door import find_loose

if TYPE_CHECKING:
    from fastgw.config_types import ListenerConfig, TlsConfig

log: Final = logging.getLogger("fastgw.door.listeners")

CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
"""For TLS 1.2; those of TLS 1.3 are OpenSSL's own three, which are the profile's as well.

SOURCE: Mozilla, Server Side TLS 5.8, intermediate (which dropped the DHE suites of 5.7)."""

NAME_CHARACTERS_MAX: Final = 128
"""LIMIT: as long as a user's name may be."""

SPIFFE: Final = "spiffe://"
_KINDS: Final = {"dns": "DNS", "email": "email", "uri": "URI"}

NameOf = Callable[[Mapping[str, Any]], str | None]


class TlsFilesError(Exception):
    """Certificate, key or authorities cannot be used; the text names the file, never its bytes."""


class Certificates:
    """The TLS context of one listener; `context` is for the next connection.

    Args:
        config: a table with certificate and key.
        where: the listener's address, for the log.

    Raises:
        TlsFilesError: the files cannot be used.
    """

    def __init__(self, config: TlsConfig, where: str) -> None:
        self._config: Final = config
        self._where: Final = where
        self._stamps = _read_stamps(config)
        self.context: ssl.SSLContext = build_context(config)

    def reload(self) -> bool:
        """Read the files again; when that fails the old context stays. Returns whether it is new.

        Connections that stand keep the context they began with.
        """
        # WHY: taken before the files are read, so that a write in between is seen the next time.
        self._stamps = _read_stamps(self._config)
        try:
            self.context = build_context(self._config)
        except TlsFilesError as error:
            log.error("%s: the old certificate stays in use: %s", self._where, error)
            return False
        log.info("%s: certificate and key were read again", self._where)
        return True

    def reload_changed(self) -> bool:
        """Read the files again if one was replaced since. Returns whether the context is new.

        WHY: what failed is tried again only when a file changes once more, not each time.
        """
        return self._stamps != _read_stamps(self._config) and self.reload()


def build_context(config: TlsConfig) -> ssl.SSLContext:
    """Return a server's context.

    Raises:
        TlsFilesError: a file is missing, unreadable, encrypted, or does not fit the others.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHERS))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # WHY: every suite of the profile is good, and the client knows which is fast on its machine.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    cert_file, key_file = config.cert_file, config.key_file
    if cert_file is None or key_file is None:
        raise TlsFilesError("TLS needs cert_file and key_file")
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_passphrase)
    except OSError as error:
        raise TlsFilesError(f"{cert_file} with {key_file}: {_why(error)}") from error
    if config.client_cert == "none":
        return context
    if config.client_ca_file is None:
        raise TlsFilesError(f"client_cert = {config.client_cert!r} needs client_ca_file")
    try:
        context.load_verify_locations(config.client_ca_file)
    except OSError as error:
        raise TlsFilesError(f"{config.client_ca_file}: {_why(error)}") from error
    is_required = config.client_cert == "required"
    context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return context


def _refuse_passphrase() -> str:
    # WHY: without this OpenSSL would ask at the terminal, where no one sits.
    raise TlsFilesError("the private key is encrypted; it must be readable without a passphrase")


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        return reason.replace("_", " ").lower()
    return error.strerror or str(error)


def _read_stamps(config: TlsConfig) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes when a file is replaced: time, size and inode, following links."""
    return tuple(
        _read_stamp(path)
        for path in (config.cert_file, config.key_file, config.client_ca_file)
        if path is not None
    )


def _read_stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def make_name_of(config: TlsConfig) -> NameOf | None:
    """Return what finds the user in a verified certificate; None when clients show none."""
    if config.client_cert == "none":
        return None
    part = config.client_user

    def name_of(certificate: Mapping[str, Any]) -> str | None:
        return find_name(certificate, part)

    return name_of


def find_name(certificate: Mapping[str, Any], part: str) -> str | None:
    """Find the user's name in what `getpeercert` returned.

    Args:
        certificate: may be empty: no certificate was shown.
        part: "cn", or the first "dns", "email" or "uri" among the alternative names; a URI is
            `spiffe://NAME`.
    """
    if part == "cn":
        names = [
            value
            for group in certificate.get("subject", ())
            for key, value in group
            if key == "commonName"
        ]
        # WHY: of several the issuer may have checked only one, and nobody knows which.
        name = names[0] if len(names) == 1 else None
    else:
        kind = _KINDS[part]
        alternatives = certificate.get("subjectAltName", ())
        name = next((value for key, value in alternatives if key == kind), None)
        if part == "uri":
            # WHY: a user's name has no colon; so of URIs only SPIFFE's count, by what names them.
            name = name[len(SPIFFE) :] if name is not None and name.startswith(SPIFFE) else None
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        return None
    return name if name.isprintable() else None


def find_loose_keys(listeners: Iterable[ListenerConfig]) -> list[str]:
    """Return a warning for each private key that others on this machine can read or change."""
    paths = dict.fromkeys(listener.tls.key_file for listener in listeners)
    found = (find_loose(path, f"the private key {path}") for path in paths if path is not None)
    return [warning for warning in found if warning is not None]
