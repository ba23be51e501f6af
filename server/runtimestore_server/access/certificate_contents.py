"""Reads certificates and their key: whether they belong together, and until when they hold.

Whether gRPC takes them, only a handshake tells: `handshake.py`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from runtimestore_server.access.rules import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificatePublicKeyTypes,
        PrivateKeyTypes,
        PublicKeyTypes,
    )

_KEY = re.compile(rb"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.*?-----END (?P=kind)-----\s*", re.DOTALL)
_BEGUN = re.compile(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")


class Validity(NamedTuple):
    """From when until when something holds."""

    begins: datetime
    ends: datetime

    def ends_soon(self, now: datetime) -> bool:
        """Tell whether it has ended, or is to be renewed: in its last two weeks, or the last tenth of a short life."""
        return self.ends - now <= min(timedelta(days=14), (self.ends - self.begins) / 10)


class Pair(NamedTuple):
    """A certificate that its key belongs to."""

    validity: Validity
    """Of the certificate and those up to its CA that stand beside it: what ends first."""
    name: str
    """A name that it is shown for."""
    key: str
    """What kind of key it has, in words."""


def read_pair(certificate: bytes, key: bytes, now: datetime) -> Pair:
    """Read a server's certificates, and see that the key is that of the first.

    Raises:
        Unusable: clients could not take them. The message goes on after the names of the files.
    """
    try:
        chain = _certificates(certificate)
    except ValueError:
        raise Unusable("the first must be certificates in PEM, each of them whole") from None
    public = _public(chain[0])
    try:
        own = _spki(_private_key(key).public_key())
    except UnsupportedAlgorithm:
        raise Unusable("the key is of a kind that gRPC cannot use: take RSA, or ECDSA on P-256 or P-384") from None
    if _spki(public) != own:
        if any(_spki(_public(other)) == own for other in chain[1:]):
            raise Unusable("the certificate of the key must stand first in its file, before those up to its CA")
        raise Unusable("the key is not that of the certificate: give the two that belong together")
    leaf = _validity(chain[0])
    if now < leaf.begins:
        raise Unusable(f"the certificate holds from {_in_words(leaf.begins)} on: wait, or set this machine's clock")
    if now >= leaf.ends:
        raise Unusable(f"the certificate ended at {_in_words(leaf.ends)}: renew it, or set this machine's clock")
    first = min((_validity(one) for one in _path(chain)), key=lambda validity: validity.ends)
    return Pair(first, _name(chain[0]), _kind(public))


def read_authorities(content: bytes, now: datetime) -> Validity:
    """Read the CAs of clients; what is answered is that which holds for longest: after it nobody can connect.

    Raises:
        Unusable: no client could be let in by them. The message goes on after the name of the file.
    """
    try:
        found = [_validity(one) for one in _certificates(content)]
    except ValueError:
        raise Unusable("it must be certificates in PEM, each of them whole") from None
    last = max(found, key=lambda validity: validity.ends)
    if now >= last.ends:
        raise Unusable(f"every CA in it has ended, the last at {_in_words(last.ends)}: renew it")
    if all(now < validity.begins for validity in found):
        raise Unusable("no CA in it holds yet: wait, or set this machine's clock")
    return last


def told_of_end(validity: Validity, now: datetime) -> str | None:
    """Return what is told of something that has ended or is to be renewed; None if it holds for long."""
    if not validity.ends_soon(now):
        return None
    at = _in_words(validity.ends)
    return f"it ends at {at}: renew it" if now < validity.ends else f"it ended at {at}, nobody connects: renew it"


def _certificates(content: bytes) -> list[x509.Certificate]:
    """Read all certificates that a file begins, of which gRPC would leave out those after a broken one without a word.

    Raises:
        ValueError: there is none, or one is broken.
    """
    found = x509.load_pem_x509_certificates(content)
    if len(found) != len(_BEGUN.findall(content)):
        raise ValueError
    return found


def _private_key(content: bytes) -> PrivateKeyTypes:
    """Read the first private key among whatever a file has: OpenSSL's tools put parameters and certificates beside it.

    Raises:
        Unusable: there is none.
        UnsupportedAlgorithm: it is of a kind that nobody knows.
    """
    found = _KEY.search(content)
    try:
        if found is not None:
            return load_pem_private_key(found[0], password=None)
    except (ValueError, TypeError):  # with a password it is a TypeError
        pass
    raise Unusable("the key must be in PEM, and without a password")


def _public(certificate: x509.Certificate) -> CertificatePublicKeyTypes | None:
    """Return the key of a certificate; None where it is of a kind that nobody knows."""
    try:
        return certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return None


def _spki(key: CertificatePublicKeyTypes | PublicKeyTypes | None) -> bytes | None:
    return None if key is None else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _validity(certificate: x509.Certificate) -> Validity:
    return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _path(chain: Sequence[x509.Certificate]) -> Iterator[x509.Certificate]:
    """Yield the certificate, and those that issued it as far as they stand beside it; clients look a CA's own up."""
    rest, issued = [*chain[1:]], chain[0]
    yield issued
    while (issuer := next((one for one in rest if one.subject == issued.issuer), None)) is not None:
        if issuer.subject == issuer.issuer:
            return
        rest.remove(issuer)
        yield issuer
        issued = issuer


def _name(certificate: x509.Certificate) -> str:
    """Return a name that a client could have asked for; any where the certificate has none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(common[0].value) if common else "localhost"
    for host in names.get_values_for_type(x509.DNSName):
        return host.replace("*", "any", 1)
    return next((str(address) for address in names.get_values_for_type(x509.IPAddress)), "localhost")


def _kind(key: CertificatePublicKeyTypes | None) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA on {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey")


def _in_words(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
