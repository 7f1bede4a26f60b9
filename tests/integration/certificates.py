"""A small certificate authority for the tests, made anew in a folder of theirs.

What enters: a folder, names, and what a certificate is for.
What leaves: PEM files, and client contexts that trust the authority.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

LIFE: Final = datetime.timedelta(days=2)

KEY_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, as files."""

    cert_file: Path
    key_file: Path
    serial: int


@dataclass(slots=True)
class Authority:
    """An authority whose certificate is `ca_file`."""

    folder: Path
    name: str = "tests"
    key: ec.EllipticCurvePrivateKey = field(init=False)
    certificate: x509.Certificate = field(init=False)
    ca_file: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make the authority's own certificate."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"authority {self.name}")
        usage = {name: name in ("key_cert_sign", "crl_sign") for name in KEY_USAGES}
        builder = (
            _builder(subject, subject, self.key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.ca_file = self.folder / f"{self.name}-ca.pem"
        self.ca_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        file: str,
        *common_names: str,
        alternatives: tuple[x509.GeneralName, ...] = (),
        is_server: bool = False,
        passphrase: bytes | None = None,
    ) -> Issued:
        """Issue a certificate into FILE.pem and FILE.key, replacing what is there."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(_name(*common_names), self.certificate.subject, key)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if is_server:
            alternatives = (
                *alternatives,
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(list(alternatives)), critical=False
            )
        certificate = builder.sign(self.key, hashes.SHA256())
        issued = Issued(
            self.folder / f"{file}.pem", self.folder / f"{file}.key", certificate.serial_number
        )
        issued.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key_file.touch(mode=0o600)
        issued.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(passphrase)
                if passphrase
                else serialization.NoEncryption(),
            )
        )
        return issued

    def client(self, shown: Issued | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority, and shows a certificate."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if shown is not None:
            context.load_cert_chain(shown.cert_file, shown.key_file)
        return context


def serial_of(sock: ssl.SSLSocket) -> int:
    """Return the serial number of the server's certificate."""
    shown = sock.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def _name(*common_names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
