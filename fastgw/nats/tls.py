"""TLS towards the broker: whether it is demanded, and the context to use.

What enters: a `NatsConfig` and the server to dial. What leaves: an `ssl.SSLContext`, made anew for
each dial so that renewed certificate files are picked up. Called by both planes.
It must never fall back to plaintext when TLS was asked for, nor skip the check of a certificate.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgw.config_types import NatsConfig
    from fastgw.nats.servers import Server


class TlsError(Exception):
    """The TLS files of the configuration cannot be used, or the server offers no TLS."""


def is_demanded(config: NatsConfig, server: Server) -> bool:
    """Tell whether plaintext to `server` is out of the question, whatever it offers."""
    return bool(
        server.tls
        or config.tls_handshake_first
        or config.tls_ca_file
        or config.tls_cert_file
        or config.tls_server_name
    )


def is_used(config: NatsConfig, server: Server, info: dict[str, object]) -> bool:
    """Decide from a plaintext INFO whether to upgrade.

    Raises:
        TlsError: TLS is demanded and the server offers none; nothing secret was sent yet.
    """
    if info.get("tls_required"):
        return True
    if not is_demanded(config, server):
        return False
    if info.get("tls_available"):
        return True
    raise TlsError(f"{server.label} offers no TLS, which the configuration demands")


def build_context(config: NatsConfig) -> ssl.SSLContext:
    """Return a client context: the system's authorities, or those of `tls_ca_file`.

    Raises:
        TlsError: a file is missing, unreadable or no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls_ca_file)
        if config.tls_cert_file:
            context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except OSError as error:
        files = [config.tls_ca_file, config.tls_cert_file, config.tls_key_file]
        named = ", ".join(file for file in files if file) or "the system's authorities"
        raise TlsError(f"cannot use the TLS files ({named}): {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_name(config: NatsConfig, server: Server) -> str:
    """Return the name that the server's certificate must be valid for."""
    return config.tls_server_name or server.tls_name or server.host
