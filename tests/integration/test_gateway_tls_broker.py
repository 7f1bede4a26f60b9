"""A whole gateway on a broker that is reached by TLS, on the event loop that it really runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.brokers import make_certificates, running, server_tls
from tests.wire.gateway import Gateway

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.mark.parametrize("first", [False, True])
def test_gateway_stores_and_delivers_over_tls(
    tmp_path: Path, certificates: Path, first: bool
) -> None:
    with running(tmp_path / "broker", server_tls(certificates, handshake_first=first)) as broker:
        gateway = Gateway(
            tmp_path / "data",
            ("--nats", f"tls://localhost:{broker.port}"),
            {
                "FASTGW_NATS_TLS_CA_FILE": str(certificates / "ca.pem"),
                "FASTGW_NATS_TLS_HANDSHAKE_FIRST": str(first).lower(),
                "FASTGW_STATIONS_AUTO_CREATE": "true",
            },
        )
        try:
            gateway.start()
            sent = [b"%d " % number + b"x" * 100_000 for number in range(20)]
            for body in sent:
                gateway.produce("secret", body)
            got = [
                message["message"].encode() for message in gateway.consume("secret", batch_size=20)
            ]
            assert got == sent
        finally:
            gateway.stop()
