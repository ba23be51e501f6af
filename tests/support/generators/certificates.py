"""Certificates of every kind, for tests: any key, any time, any names, a chain in any order."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

DAY = timedelta(days=1)


class Issued(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> bytes:
        """The certificate as a file has it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as a file has it."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_of(kind: str) -> CertificateIssuerPrivateKeyTypes:
    """A new key: `RSA`, `Ed25519`, or the name of a curve."""
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {curve.name: curve for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1())}
    return ec.generate_private_key(curves[kind])


def issued(
    issuer: Issued | None = None,
    *,
    kind: str = "secp256r1",
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    common_name: str = "",
    begins: timedelta = -DAY,
    ends: timedelta = 365 * DAY,
    is_ca: bool = False,
    critical: str = "",
) -> Issued:
    """A certificate by an issuer, or by itself; `begins` and `ends` count from now.

    `critical` is the number of an extension that whoever does not know it may not pass over.
    """
    now, key = datetime.now(UTC), key_of(kind)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    by = issuer or Issued(x509.Certificate, key)  # type: ignore[arg-type]  # its own
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    )
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    return Issued(builder.sign(by.key, None if isinstance(by.key, ed25519.Ed25519PrivateKey) else SHA256()), key)


@cache
def root() -> Issued:
    """The CA of a run of tests."""
    return issued(names=(), common_name="root", is_ca=True)


@cache
def intermediate() -> Issued:
    """A CA that was issued by the root."""
    return issued(root(), names=(), common_name="intermediate", is_ca=True)


def _name(name: str) -> x509.GeneralName:
    kind, _, text = name.partition("=")
    if text:  # where it is told
        kinds: dict[str, Callable[[str], x509.GeneralName]] = {
            "uri": x509.UniformResourceIdentifier,
            "dns": x509.DNSName,
            "email": x509.RFC822Name,
        }
        return kinds[kind](text)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if ":" in name:
        return x509.UniformResourceIdentifier(name)
    return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)
